//! Handlers: what the macro wrote about each, and the table that is read at start.

use std::any::{Any, TypeId, type_name};
use std::fmt;
use std::future::Future;
use std::num::NonZeroU16;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use catga_core::{Bytes, Codecs, Encoded, Error, Kind, Message, Payload, QoS};

use crate::layer::Call;
use crate::serve::{self, Begun};
use crate::{Context, HandlerError, Requirements};

/// A future as handlers are called through.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A handler at work.
pub(crate) type HandlerFuture<M> = BoxFuture<Result<<M as Message>::Response, HandlerError>>;

/// How the generated code calls a handler: with its message, or with one that it may share.
#[derive(Debug)]
pub enum Invoke<M: Message> {
    /// The handler takes the message.
    ByValue(fn(M, Context) -> HandlerFuture<M>),
    /// The handler looks at the message.
    ByRef(fn(Received<M>, Context) -> HandlerFuture<M>),
}

impl<M: Message> Invoke<M> {
    /// Calls the handler with a message of its own.
    pub(crate) fn with_value(&self, message: M, context: Context) -> HandlerFuture<M> {
        match self {
            Self::ByValue(call) => call(message, context),
            Self::ByRef(call) => call(Received::Owned(message), context),
        }
    }
}

/// A message that a handler looks at: its own, or one that other handlers look at too.
#[derive(Debug)]
pub enum Received<M> {
    /// Decoded for this handler.
    Owned(M),
    /// Published in this process.
    Shared(Arc<M>),
}

impl<M> Deref for Received<M> {
    type Target = M;

    fn deref(&self) -> &M {
        match self {
            Self::Owned(message) => message,
            Self::Shared(message) => message,
        }
    }
}

/// What a handler may return: nothing, a `Result<()>`, or for a request a `Result` of its response.
#[diagnostic::on_unimplemented(
    message = "a handler of this message cannot return `{Self}`",
    label = "expected `Result<{R}>`",
    note = "the handler of an event returns nothing or `Result<()>`; that of a request `Result<Response>`, with the type of its `#[response(..)]`"
)]
pub trait IntoOutcome<R> {
    /// The outcome.
    ///
    /// # Errors
    /// What the handler failed with.
    fn into_outcome(self) -> Result<R, HandlerError>;
}

impl IntoOutcome<()> for () {
    fn into_outcome(self) -> Result<(), HandlerError> {
        Ok(())
    }
}

impl<R, E: Into<HandlerError>> IntoOutcome<R> for Result<R, E> {
    fn into_outcome(self) -> Result<R, HandlerError> {
        self.map_err(Into::into)
    }
}

/// Where a handler stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// The function's module.
    pub module: &'static str,
    /// The function's name.
    pub name: &'static str,
    /// The source file.
    pub file: &'static str,
    /// The line in it.
    pub line: u32,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}::{}` ({}:{})",
            self.module, self.name, self.file, self.line
        )
    }
}

/// What `#[handler(..)]` says.
#[derive(Clone, Copy, Debug, Default)]
pub struct HandlerOptions {
    /// The consumer group.
    pub group: Option<&'static str>,
    /// The most calls at once, on this node.
    pub concurrency: Option<u32>,
    /// The attempts before a message is dead-lettered.
    pub attempts: Option<u32>,
    /// The longest that one attempt may take.
    pub timeout: Option<Duration>,
    /// The least and the most delay between attempts.
    pub backoff: Option<(Duration, Duration)>,
    /// The most calls in a time, on this node.
    pub rate: Option<Rate>,
    /// When to leave what fails alone for a while.
    pub breaker: Option<Breaker>,
    /// Whether every node handles every message.
    pub each_node: bool,
    /// Whether messages of one routing key are handled in order.
    pub ordered: bool,
    /// Whether a new group skips what was published before.
    pub start_new: bool,
}

/// `rate = "100/s"`: so many calls in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The calls.
    pub calls: u64,
    /// The time.
    pub per: Duration,
}

/// `breaker(failures = 5, open = "30s")`: opens after failures in a row, and tries again after a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// The failures in a row that open it.
    pub failures: u32,
    /// How long it stays open before one call is let through.
    pub open: Duration,
}

/// What a message type says of itself, without the type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MessageDef {
    pub(crate) name: &'static str,
    pub(crate) version: u32,
    pub(crate) qos: QoS,
    pub(crate) kind: Kind,
    pub(crate) partitions: Option<NonZeroU16>,
    pub(crate) type_id: fn() -> TypeId,
    pub(crate) type_name: fn() -> &'static str,
    pub(crate) response: fn() -> TypeId,
}

impl MessageDef {
    const fn of<M: Message>() -> Self {
        Self {
            name: M::NAME,
            version: M::VERSION,
            qos: M::QOS,
            kind: M::KIND,
            partitions: M::PARTITIONS,
            type_id: TypeId::of::<M>,
            type_name: type_name::<M>,
            response: TypeId::of::<M::Response>,
        }
    }
}

/// A handler as the macro describes it.
pub struct HandlerDef {
    pub(crate) site: Site,
    pub(crate) options: HandlerOptions,
    pub(crate) message: MessageDef,
    pub(crate) requires: &'static [fn(&mut Requirements)],
    /// An [`Invoke`] of the message's type.
    pub(crate) call: &'static (dyn Any + Send + Sync),
    pub(crate) run: Run,
    pub(crate) begin: Begin,
}

/// Decodes what arrived and calls the handler with it.
type Run = fn(&'static (dyn Any + Send + Sync), Arrived<'_>, Context) -> Result<Running, Error>;

/// Calls the handler within its layers.
type Begin = fn(Call) -> Begun;

/// A message as it arrived, yet to be decoded.
pub(crate) struct Arrived<'a> {
    pub(crate) payload: Payload,
    pub(crate) version: u32,
    pub(crate) content_type: &'a str,
    pub(crate) codecs: &'a Codecs,
}

impl HandlerDef {
    /// Describes a handler of `M`.
    #[must_use]
    pub const fn new<M: Message>(
        site: Site,
        options: HandlerOptions,
        requires: &'static [fn(&mut Requirements)],
        call: &'static Invoke<M>,
    ) -> Self {
        Self {
            site,
            options,
            message: MessageDef::of::<M>(),
            requires,
            call,
            run: run::<M>,
            begin: serve::begin::<M>,
        }
    }
}

impl fmt::Debug for HandlerDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} handles {}", self.site, self.message.name)
    }
}

/// A handler that is called through its table entry.
pub(crate) enum Running {
    /// Of an event.
    Event(BoxFuture<Result<(), HandlerError>>),
    /// Of a request; yields its encoded response.
    Request(BoxFuture<Result<Bytes, HandlerError>>),
}

fn run<M: Message>(
    call: &'static (dyn Any + Send + Sync),
    arrived: Arrived<'_>,
    context: Context,
) -> Result<Running, Error> {
    let codecs = arrived.codecs;
    let future = invoke::<M>(call, arrived, context)?;
    Ok(match M::KIND {
        Kind::Request { .. } => Running::Request(encoded::<M>(future, codecs.clone())),
        _ => Running::Event(event::<M>(future)),
    })
}

/// Decodes the message and calls the handler with it.
pub(crate) fn invoke<M: Message>(
    call: &'static (dyn Any + Send + Sync),
    arrived: Arrived<'_>,
    context: Context,
) -> Result<HandlerFuture<M>, Error> {
    let call: &'static Invoke<M> = call
        .downcast_ref()
        .expect("a definition keeps the call of its own message");
    Ok(match call {
        Invoke::ByValue(call) => call(owned(arrived)?, context),
        Invoke::ByRef(call) => {
            let message = match arrived.payload.as_value() {
                Some(shared) => Received::Shared(shared),
                None => Received::Owned(owned(arrived)?),
            };
            call(message, context)
        }
    })
}

/// The message itself where nobody shares it, else a decoded copy.
pub(crate) fn owned<M: Message>(arrived: Arrived<'_>) -> Result<M, Error> {
    let Arrived {
        payload,
        version,
        content_type,
        codecs,
    } = arrived;
    match payload.into_value() {
        Ok(message) => Ok(message),
        Err(mut shared) if shared.as_bytes().is_none() => {
            let writer = codecs.writer();
            let bytes = shared.encode(writer)?;
            M::from_version(version, &Encoded::new(codecs, writer.content_type(), bytes))
        }
        Err(encoded) => {
            let bytes = encoded.as_bytes().expect("seen above");
            M::from_version(version, &Encoded::new(codecs, content_type, bytes))
        }
    }
}

/// An event's response is `()`, which the compiler does not know here.
fn event<M: Message>(future: HandlerFuture<M>) -> BoxFuture<Result<(), HandlerError>> {
    let mut future = Some(future);
    let unit: Option<&mut Option<BoxFuture<Result<(), HandlerError>>>> =
        (&mut future as &mut dyn Any).downcast_mut();
    if let Some(unit) = unit {
        return unit.take().expect("set above");
    }
    // An event that was written by hand, with a response: nobody waits for it.
    let future = future.expect("not taken");
    Box::pin(async move { future.await.map(drop) })
}

fn encoded<M: Message>(
    future: HandlerFuture<M>,
    codecs: Codecs,
) -> BoxFuture<Result<Bytes, HandlerError>> {
    Box::pin(async move {
        let response = future.await?;
        codecs
            .encode(&response, M::NAME)
            .map_err(HandlerError::terminal)
    })
}

/// The function's own name, as a type that leads to its definition.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "not a handler",
    note = "write `#[handler]` above the function"
)]
pub trait HandlerItem {
    /// The handler's definition.
    fn def() -> &'static HandlerDef;
}

/// A handler that was linked into the program.
#[derive(Debug)]
pub struct Registered(pub &'static HandlerDef);

inventory::collect!(Registered);

/// Handlers that were named one by one: see [`handlers!`](crate::handlers!).
#[derive(Clone, Debug, Default)]
pub struct Handlers(Vec<&'static HandlerDef>);

impl Handlers {
    /// The handlers that the macro named.
    #[doc(hidden)]
    #[must_use]
    pub fn new(defs: impl IntoIterator<Item = &'static HandlerDef>) -> Self {
        let mut handlers: Vec<_> = defs.into_iter().collect();
        sort(&mut handlers);
        Self(handlers)
    }

    /// Every handler that was linked into the program.
    pub(crate) fn linked() -> Self {
        Self::new(inventory::iter::<Registered>().map(|registered| registered.0))
    }

    /// Both: one that is named twice counts once.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        sort(&mut self.0);
        self
    }

    /// How many handlers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn defs(&self) -> &[&'static HandlerDef] {
        &self.0
    }
}

/// By place, since the order of registration differs even between builds; the same entry twice counts once.
fn sort(handlers: &mut Vec<&'static HandlerDef>) {
    handlers.sort_by_key(|def| (def.message.name, def.site));
    handlers.dedup_by_key(|def| def.site);
}

/// Names handlers one by one, to register these and no others: `.handlers(handlers![create_order, billing::bill])`.
///
/// # Examples
/// ```
/// # use catga::prelude::*;
/// # use serde::{Deserialize, Serialize};
/// #[derive(Event, Serialize, Deserialize)]
/// struct Pinged;
///
/// #[handler]
/// async fn on_pinged(_: Pinged) {}
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let catga = Catga::builder().connect("memory://").handlers(handlers![on_pinged]).start().await?;
/// assert_eq!(catga.handlers().len(), 1);
/// # catga.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[macro_export]
macro_rules! handlers {
    ($($handler:path),* $(,)?) => {
        $crate::Handlers::new([$(<$handler as $crate::__private::HandlerItem>::def()),*])
    };
}
