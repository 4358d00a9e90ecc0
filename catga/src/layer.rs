//! What a layer sees of a call: the call, its reply, its error; and how the builder is given layers.

use std::any::{Any, TypeId};
use std::error::Error as StdError;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use catga_core::{BoxError, Bytes, Codecs, Error, Headers, Message, MessageId, Name, Payload};
use serde::Serialize;
use tower_layer::Layer;
use tower_service::Service;

use crate::builder::CatgaBuilder;
use crate::guard::Failure;
use crate::handlers::{HandlerDef, Handlers};
use crate::invoke::{Arrived, HandlerFuture, invoke};
use crate::layered::Served;
use crate::origin::Origin;
use crate::service::{Erased, Wrapped, wrapped};
use crate::{Attempt, Context, HandlerError};

/// One call of one handler, as the layers around it see it.
///
/// A clone costs two reference counts, and is the same call once more: a retry layer keeps one. Where a
/// clone is kept while the handler runs, a handler that takes its message by value gets a decoded copy.
#[derive(Clone)]
pub struct Call {
    pub(crate) shared: Arc<Shared>,
    payload: Payload,
}

/// What all clones of a call have in common.
pub(crate) struct Shared {
    pub(crate) served: Arc<Served>,
    pub(crate) context: Context,
    version: u32,
    /// Whether the handler was called.
    began: AtomicBool,
    /// The origin of the first run that succeeded: a layer may put a reply of its own in the place of the run's.
    won: OnceLock<Arc<Origin>>,
}

impl Call {
    pub(crate) fn new(
        served: Arc<Served>,
        payload: Payload,
        version: u32,
        context: Context,
    ) -> Self {
        let began = AtomicBool::new(false);
        Self {
            shared: Arc::new(Shared {
                served,
                context,
                version,
                began,
                won: OnceLock::new(),
            }),
            payload,
        }
    }

    /// The name of the message.
    #[must_use]
    pub fn message(&self) -> &'static str {
        self.shared.served.def.message.name
    }

    /// The name of the handler: that of its function.
    #[must_use]
    pub fn handler(&self) -> &'static str {
        self.shared.served.def.site.name
    }

    /// The consumer group of the handler.
    #[must_use]
    pub fn group(&self) -> &Name {
        &self.shared.served.group
    }

    /// The id of the message: see [`Context::id`].
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.shared.context.id()
    }

    /// The headers of the message.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        self.shared.context.headers()
    }

    /// Which attempt at the message this is. It stays the same when a layer calls the handler again.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        self.shared.context.attempt()
    }

    /// The context that the handler gets: the way to the application's state, and to publish and send on.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.shared.context
    }

    pub(crate) fn into_parts(self) -> (Arc<Shared>, Payload) {
        (self.shared, self.payload)
    }
}

impl Shared {
    /// Notes that the handler is called, and gives it the context of this run.
    pub(crate) fn begin(self: &Arc<Self>) -> Context {
        Context::of_run(self, self.began.swap(true, Ordering::Relaxed))
    }

    /// Decodes the message and calls the handler with it.
    pub(crate) fn invoke<M: Message>(
        &self,
        payload: Payload,
        context: Context,
    ) -> Result<HandlerFuture<M>, Error> {
        let content_type = self.context.headers().get(Headers::CONTENT_TYPE);
        let arrived = Arrived {
            payload,
            version: self.version,
            content_type,
            codecs: &self.context.inner.codecs,
        };
        invoke::<M>(&*self.served.def.call, arrived, context)
    }

    pub(crate) fn began(&self) -> bool {
        self.began.load(Ordering::Relaxed)
    }

    /// Notes that a run succeeded.
    pub(crate) fn succeeded(&self, origin: Arc<Origin>) {
        let _ = self.won.set(origin);
    }

    /// The origin of the first run that succeeded.
    pub(crate) fn won(&self) -> Option<Arc<Origin>> {
        self.won.get().cloned()
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("message", &self.message())
            .field("handler", &self.handler())
            .field("context", self.context())
            .finish_non_exhaustive()
    }
}

/// What a handler answered: `()` for an event, and for a request its response.
pub struct Reply {
    /// What the call that gave it follows from, and has to commit.
    pub(crate) origin: Option<Arc<Origin>>,
    value: Box<dyn Any + Send>,
    encode: fn(&dyn Any, &Codecs, &str) -> Result<Bytes, Error>,
}

impl Reply {
    /// A reply that a layer gives by itself. It must be of the type that the handler answers with, or the
    /// call fails for good.
    ///
    /// In the place of a reply that the handler gave, it stands for the handler's success: what was written with
    /// [`Commit`](crate::Commit) is committed, of the first run that succeeded where a layer ran the handler more
    /// than once. Where every run failed, or the handler did not run, it commits nothing, and the message counts
    /// as handled.
    #[must_use]
    pub fn new<T: Serialize + Send + 'static>(value: T) -> Self {
        Self {
            origin: None,
            // Nothing is allocated for a `()`.
            value: Box::new(value),
            encode: |value, codecs, name| {
                let value: &T = value.downcast_ref().expect("made with this type");
                codecs.encode(value, name)
            },
        }
    }

    /// The reply, when it is a `T`.
    #[must_use]
    pub fn downcast_ref<T: 'static>(&self) -> Option<&T> {
        self.value.downcast_ref()
    }

    /// Takes the reply out, when it is a `T`.
    ///
    /// # Errors
    /// Returns the reply as it was when it is something else.
    pub fn downcast<T: 'static>(self) -> Result<T, Self> {
        match self.value.downcast() {
            Ok(value) => Ok(*value),
            Err(value) => Err(Self { value, ..self }),
        }
    }

    /// What another node is answered with.
    pub(crate) fn encode(&self, codecs: &Codecs, name: &str) -> Result<Bytes, Error> {
        (self.encode)(&*self.value, codecs, name)
    }

    pub(crate) fn type_id(&self) -> TypeId {
        (*self.value).type_id()
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}

/// Why a handler did not succeed, as the layers around it see it: they get it boxed, and look at it by
/// `error.downcast_ref::<CallError>()`.
///
/// A layer that fails a call by itself returns any error, which means *try again*; or one of these, made
/// of a [`HandlerError`], to say more: `Err(CallError::from(HandlerError::terminal("not allowed")).into())`.
#[derive(Debug)]
pub struct CallError(pub(crate) Failure);

impl CallError {
    /// Whether no further attempt can mend it: the handler said so, or the payload is no such message.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.0.is_final()
    }

    /// The delay that was asked for before the next attempt.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.delay()
    }

    /// Whether the handler panicked.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        matches!(self.0, Failure::Panic(_))
    }

    /// Whether the handler took longer than its own `timeout`.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self.0, Failure::TimedOut(_) | Failure::Elapsed)
    }

    /// Whether the handler's circuit breaker is open, so that the handler did not run.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.0, Failure::Refused { .. })
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for CallError {}

impl From<HandlerError> for CallError {
    fn from(error: HandlerError) -> Self {
        Self(Failure::Handler {
            text: error.to_string(),
            retry: error.retry_hint(),
        })
    }
}

/// A layer without its type.
pub(crate) type AnyLayer = Arc<dyn Fn(Erased) -> Box<dyn Wrapped> + Send + Sync>;

fn any<L>(layer: L) -> AnyLayer
where
    L: Layer<Erased> + Send + Sync + 'static,
    L::Service: Service<Call, Response = Reply> + Send + 'static,
    <L::Service as Service<Call>>::Error: Into<BoxError>,
    <L::Service as Service<Call>>::Future: Send + 'static,
{
    Arc::new(move |inner| wrapped(layer.layer(inner)))
}

/// The layers that a builder was given.
#[derive(Default)]
pub(crate) struct Layers {
    all: Vec<AnyLayer>,
    some: Vec<(Handlers, AnyLayer)>,
}

impl Layers {
    /// Those of one handler, outermost first.
    pub(crate) fn of(&self, def: &HandlerDef) -> Vec<AnyLayer> {
        let some = self.some.iter().filter(|(handlers, _)| {
            let mut defs = handlers.defs().iter();
            defs.any(|other| other.site == def.site)
        });
        let all = self.all.iter().chain(some.map(|(_, layer)| layer));
        all.cloned().collect()
    }

    /// Finds layers for handlers that are not registered.
    pub(crate) fn check(&self, registered: &[Arc<HandlerDef>], problems: &mut Vec<String>) {
        for def in self.some.iter().flat_map(|(handlers, _)| handlers.defs()) {
            if !registered.iter().any(|other| other.site == def.site) {
                problems.push(format!(
                    "{}: has a layer by `.layer_for(..)`, but is not registered: add it to `.handlers(handlers![..])`",
                    def.site
                ));
            }
        }
    }
}

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} layers", self.all.len() + self.some.len())
    }
}

/// Layers around handlers.
impl CatgaBuilder {
    /// Puts a [`tower` layer](https://docs.rs/tower) around every handler: any that wraps a
    /// `Service<Call, Response = Reply>`, unmodified. The first one added is the outermost, and those of
    /// [`layer_for`](Self::layer_for) are within; then come the handler's own `breaker` and `rate`, and innermost its
    /// `timeout`, so that layers see panics and time-outs as errors ([`CallError`]).
    ///
    /// Each handler gets a service of its own, so that a limit counts for each handler alone.
    /// `poll_ready` is awaited before the call takes one of the handler's places (`concurrency`). Settlement
    /// stays outside: a message is acked or tried again by what the outermost layer returns. A [`CallError`] means
    /// what the handler said, also where a layer wraps it; the time-out of tower's `Timeout` is a time-out; what
    /// tower's `LoadShed` turns away did not run, and is tried again; so is any other error. A panic in a layer
    /// counts as one of the handler; the layer's service stays in use.
    ///
    /// A layer that calls the handler again within one attempt is not seen by the broker: it suits what
    /// mends in a moment. Handlers that have neither layers nor `breaker` nor `rate` are called directly.
    ///
    /// # Examples
    /// A time limit, and three tries within an attempt, of which each has the limit:
    /// ```
    /// use std::future::{Ready, ready};
    /// use std::time::Duration;
    /// use catga::{Call, CallError, Reply, prelude::*};
    /// use tower::{BoxError, retry::{Policy, RetryLayer}, timeout::TimeoutLayer};
    /// # use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Clone)]
    /// struct Tries(u32);
    ///
    /// impl Policy<Call, Reply, BoxError> for Tries {
    ///     type Future = Ready<()>;
    ///
    ///     fn retry(&mut self, _: &mut Call, result: &mut Result<Reply, BoxError>) -> Option<Ready<()>> {
    ///         let error = result.as_ref().err()?;
    ///         if error.downcast_ref().is_some_and(CallError::is_terminal) {
    ///             return None;
    ///         }
    ///         self.0 = self.0.checked_sub(1)?;
    ///         Some(ready(()))
    ///     }
    ///
    ///     fn clone_request(&mut self, call: &Call) -> Option<Call> {
    ///         Some(call.clone())
    ///     }
    /// }
    ///
    /// # #[derive(Event, Serialize, Deserialize)]
    /// # struct Pinged;
    /// # #[handler]
    /// # async fn on_pinged(_: Pinged) {}
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// let catga = Catga::builder()
    ///     .connect("memory://")
    ///     .layer(RetryLayer::new(Tries(2)))
    ///     .layer(TimeoutLayer::new(Duration::from_secs(1)))
    ///     .handlers(handlers![on_pinged])
    ///     .start()
    ///     .await?;
    /// catga.publish(Pinged).await?;
    /// # catga.shutdown().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Erased> + Send + Sync + 'static,
        L::Service: Service<Call, Response = Reply> + Send + 'static,
        <L::Service as Service<Call>>::Error: Into<BoxError>,
        <L::Service as Service<Call>>::Future: Send + 'static,
    {
        self.layers.all.push(any(layer));
        self
    }

    /// Puts a layer around some handlers, within those of [`layer`](Self::layer):
    /// `.layer_for(handlers![bill], TimeoutLayer::new(limit))`. A handler that is not registered is a problem at
    /// [`start`](Self::start).
    pub fn layer_for<L>(mut self, handlers: Handlers, layer: L) -> Self
    where
        L: Layer<Erased> + Send + Sync + 'static,
        L::Service: Service<Call, Response = Reply> + Send + 'static,
        <L::Service as Service<Call>>::Error: Into<BoxError>,
        <L::Service as Service<Call>>::Future: Send + 'static,
    {
        self.layers.some.push((handlers, any(layer)));
        self
    }
}
