//! A handler behind layers: what it is made of, and how it is called.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use catga_core::{BoxError, Kind, Name, Payload, Retry};
use tokio::sync::Notify;
use tower::limit::RateLimit;
use tower::limit::rate::Rate;
use tower::load_shed::error::Overloaded;
use tower::timeout::error::Elapsed;
use tower_service::Service;

use crate::Context;
use crate::breaker::Guarded;
use crate::guard::{self, Failure};
use crate::handlers::{BoxFuture, HandlerDef};
use crate::layer::{Call, CallError, Layers, Reply, Served, Shared};
use crate::origin::Origin;
use crate::service::{Erased, Serving};
use crate::time::FAR;

/// A handler behind layers, a breaker or a rate.
#[derive(Debug)]
pub(crate) struct Layered {
    served: Arc<Served>,
    /// Holds a permit while nobody has the turn, and hands it to the first who waits: one who goes away
    /// meanwhile hands it on.
    turn: Arc<Notify>,
    outer: Erased,
    /// Its own breaker and rate, which can be waited for without a place in the layers around them.
    own: Erased,
}

impl Layered {
    /// Composes what stands around a handler; `None` when nothing does. Within a runtime, since a rate
    /// has a timer.
    pub(crate) fn new(
        def: &'static HandlerDef,
        group: &Name,
        timeout: Duration,
        layers: &Layers,
    ) -> Option<Self> {
        let mut service = Erased::handler();
        if let Some(rate) = def.options.rate {
            let rate = Rate::new(
                rate.calls.max(1),
                rate.per.clamp(Duration::from_nanos(1), FAR),
            );
            service = Erased::new(RateLimit::new(service, rate));
        }
        // Outside of the rate: what it refuses is not to wait for the rate, nor to use it up.
        if let Some(breaker) = def.options.breaker {
            let waits = !matches!(def.message.kind, Kind::Request { .. });
            service = Erased::new(Guarded::new(service, breaker, waits));
        }
        let own = service.clone();
        for layer in layers.of(def).iter().rev() {
            service = layer(service);
        }
        let served = Served {
            def,
            group: group.clone(),
            timeout,
        };
        if service.is_bare() {
            return None;
        }
        let turn = Arc::new(Notify::new());
        turn.notify_one();
        Some(Self {
            served: Arc::new(served),
            turn,
            outer: service,
            own,
        })
    }

    /// A call of this handler; the content type stands in the headers of the context, as in those of an envelope.
    pub(crate) fn call(&self, payload: Payload, version: u32, context: Context) -> Call {
        let context = context.sharing_its_id();
        Call::new(Arc::clone(&self.served), payload, version, context)
    }

    /// Waits until the handler's own breaker and rate let a call through, and reserves nothing: to be awaited
    /// before messages are received, so that they stay at the broker as long as no call may pass.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn open(&self) {
        let mut own = self.own.clone();
        // What is wrong is said when it is called.
        let _ = poll_fn(|cx| own.poll_ready(cx)).await;
    }

    /// Whether [`open`](Self::open) has nothing to wait for now: polls once, and reserves nothing. The open
    /// breaker of a request's handler is nothing to wait for, as it refuses at once.
    pub(crate) fn is_open(&self) -> bool {
        self.own.may_be_ready()
    }

    /// Waits until all layers are ready for one call, which nobody else can then make: to be held for as long
    /// as it takes to find a place for the handler, and not while waiting for a message.
    ///
    /// # Cancel safety
    /// Safe: the turn goes to the next who waits.
    pub(crate) fn ready(&self) -> impl Future<Output = Result<Ready, Failure>> + Send + 'static {
        let (turn, service) = (Arc::clone(&self.turn), self.outer.clone());
        async move {
            turn.notified().await;
            let mut ready = Ready {
                service,
                _turn: Turn(turn),
            };
            poll_fn(|cx| ready.poll(cx)).await?;
            Ok(ready)
        }
    }

    /// As [`ready`](Self::ready), when nothing is to be waited for.
    pub(crate) fn try_ready(&self) -> Option<Result<Ready, Failure>> {
        if !pin!(self.turn.notified()).enable() {
            return None;
        }
        let mut ready = Ready {
            service: self.outer.clone(),
            _turn: Turn(Arc::clone(&self.turn)),
        };
        match ready.poll(&mut TaskContext::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => Some(outcome.map(|()| ready)),
            Poll::Pending => None,
        }
    }
}

/// The turn of one caller; goes to the next when it is dropped.
#[derive(Debug)]
struct Turn(Arc<Notify>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// Layers that are ready for one call. Dropped, the next who waits may call.
#[derive(Debug)]
#[must_use = "the layers wait for the call"]
pub(crate) struct Ready {
    service: Erased,
    _turn: Turn,
}

impl Ready {
    /// Polls whether the layers are ready; a panic is a failure, as an error is.
    fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Failure>> {
        guard::caught(|| self.service.poll_ready(cx).map_err(failure_of))
            .unwrap_or_else(|panic| Poll::Ready(Err(panic)))
    }

    /// Calls the handler through its layers. The next caller need not wait for the outcome.
    pub(crate) fn call(mut self, call: Call) -> Calling {
        let shared = Arc::clone(&call.shared);
        let app = shared.context.inner.address();
        Calling {
            future: guard::contain(app, || Some(self.service.call(call))),
            app,
            shared,
            stopped: None,
        }
    }
}

/// A call on its way through the layers; contains their panics, and ends with the application.
#[must_use = "it does nothing unless it is polled"]
pub(crate) struct Calling {
    app: usize,
    shared: Arc<Shared>,
    /// `None` once it has ended.
    future: Result<Option<Serving>, Failure>,
    /// Made when there is something to wait for.
    stopped: Option<BoxFuture<()>>,
}

impl Future for Calling {
    type Output = Result<Reply, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let serving = match std::mem::replace(&mut this.future, Ok(None)) {
            Ok(serving) => this
                .future
                .as_mut()
                .expect("just set")
                .insert(serving.expect("it is not polled after its end")),
            Err(failure) => return Poll::Ready(Err(failure)),
        };
        let outcome =
            match guard::contain(this.app, || serving.as_mut().poll(cx).map_err(failure_of)) {
                Ok(Poll::Ready(outcome)) => outcome.map_err(|failure| this.shared.seen(failure)),
                Err(panic) => Err(panic),
                Ok(Poll::Pending) => {
                    let inner = &this.shared.context.inner;
                    let stopped = this.stopped.get_or_insert_with(|| {
                        let inner = Arc::clone(inner);
                        Box::pin(async move { inner.lifecycle.stopped().await })
                    });
                    std::task::ready!(stopped.as_mut().poll(cx));
                    Err(Failure::Stopped)
                }
            };
        // What a layer drops may panic once more.
        this.end()?;
        Poll::Ready(outcome.and_then(|reply| this.shared.checked(reply)))
    }
}

impl Calling {
    fn end(&mut self) -> Result<(), Failure> {
        let future = std::mem::replace(&mut self.future, Ok(None));
        guard::contain(self.app, || drop(future))
    }

    /// What the first run that succeeded has to commit, for a reply that a layer put in the place of the run's.
    pub(crate) fn won(&self) -> Option<Arc<Origin>> {
        self.shared.won()
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        // The panic hook has reported it, and nobody waits for the outcome.
        let _ = self.end();
    }
}

impl fmt::Debug for Calling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calling").finish_non_exhaustive()
    }
}

impl Shared {
    /// What the failure means where the handler was called before, by a layer that tries again.
    fn seen(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Refused { text, retry } if self.began() => Failure::Handler { text, retry },
            failure => failure,
        }
    }

    /// A layer may answer by itself, and not with anything.
    fn checked(&self, reply: Reply) -> Result<Reply, Failure> {
        if reply.type_id() == (self.served.def.message.response)() {
            return Ok(reply);
        }
        // It may panic; what there is to say is said below.
        let _ = guard::contain(self.context.inner.address(), || drop(reply));
        Err(Failure::Handler {
            text: "a layer answered with something of another type than the handler's".to_owned(),
            retry: Retry::Never,
        })
    }
}

/// What a layer's error means.
fn failure_of(error: BoxError) -> Failure {
    let error = match error.downcast::<CallError>() {
        Ok(error) => return error.0,
        Err(error) => error,
    };
    if error.is::<Elapsed>() {
        return Failure::Elapsed;
    }
    if error.is::<Overloaded>() {
        return Failure::Refused {
            text: "a layer turned it away: too many calls at once".to_owned(),
            retry: Retry::Now,
        };
    }
    let mut text = error.to_string();
    let mut retry = Retry::Now;
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        if let Some(CallError(failure)) = error.downcast_ref() {
            retry = meaning(failure);
        }
        cause = error.source();
    }
    Failure::Handler { text, retry }
}

/// What a failure that a layer wrapped means for the message.
fn meaning(failure: &Failure) -> Retry {
    match (failure.is_final(), failure.delay()) {
        (true, _) => Retry::Never,
        (false, Some(delay)) => Retry::After(delay),
        (false, None) => Retry::Now,
    }
}
