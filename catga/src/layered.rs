//! A handler behind layers: what it is made of, and how it is called.

use std::borrow::Borrow;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use catga_core::{BoxError, Kind, Name, Payload, Retry};
use tower::limit::RateLimit;
use tower::limit::rate::Rate;
use tower::load_shed::error::Overloaded;
use tower::timeout::error::Elapsed;
use tower_service::Service;

use crate::Context;
use crate::breaker::Guarded;
use crate::guard::{self, Failure};
use crate::handlers::HandlerDef;
use crate::invoke::BoxFuture;
use crate::layer::{Call, CallError, Layers, Reply, Shared};
use crate::origin::Origin;
use crate::service::{Erased, Serving, Wrapped};
use crate::time::FAR;
use crate::turn::Turn;

/// A handler behind layers, a breaker or a rate.
#[derive(Debug)]
pub(crate) struct Layered {
    served: Arc<Served>,
    /// Its own breaker and rate, which can be waited for without a place in the layers around them.
    own: Erased,
}

/// A handler, and what stands around it.
pub(crate) struct Served {
    pub(crate) def: Arc<HandlerDef>,
    pub(crate) group: Name,
    /// The longest that the handler may take, each time that a layer calls it.
    pub(crate) timeout: Duration,
    /// The outermost of the services: one caller uses it at a time, from its being ready to the call.
    outer: Turn<Box<dyn Wrapped>>,
}

impl Layered {
    /// Composes what stands around a handler; `None` when nothing does. Within a runtime, since a rate
    /// has a timer.
    pub(crate) fn new(
        def: &Arc<HandlerDef>,
        group: &Name,
        timeout: Duration,
        layers: &Layers,
    ) -> Option<Self> {
        let mut own = Erased::handler();
        if let Some(rate) = def.options.rate {
            let rate = Rate::new(
                rate.calls.max(1),
                rate.per.clamp(Duration::from_nanos(1), FAR),
            );
            own = Erased::new(RateLimit::new(own, rate));
        }
        // Outside of the rate: what it refuses is not to wait for the rate, nor to use it up.
        if let Some(breaker) = def.options.breaker {
            let waits = !matches!(def.message.kind, Kind::Request { .. });
            own = Erased::new(Guarded::new(own, breaker, waits));
        }
        let mut outer: Option<Box<dyn Wrapped>> = None;
        for layer in layers.of(def).iter().rev() {
            let inner = outer.take().map_or_else(|| own.clone(), Erased::shared);
            outer = Some(layer(inner));
        }
        let outer = match outer {
            Some(outer) => outer,
            None if own.is_bare() => return None,
            None => Box::new(own.clone()),
        };
        let served = Served {
            def: Arc::clone(def),
            group: group.clone(),
            timeout,
            outer: Turn::new(outer),
        };
        let served = Arc::new(served);
        Some(Self { served, own })
    }

    /// A call of this handler; the content type stands in the headers of the context, as in those of an envelope.
    pub(crate) fn call(&self, payload: Payload, version: u32, context: Context) -> Call {
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
        let _ = poll_fn(|cx| Service::poll_ready(&mut own, cx)).await;
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
        Ready::of(Arc::clone(&self.served))
    }

    /// As [`ready`](Self::ready), when nothing is to be waited for.
    pub(crate) fn try_ready(&self) -> Option<Result<Ready, Failure>> {
        Ready::at_once(Arc::clone(&self.served))
    }

    pub(crate) fn served(&self) -> &Served {
        &self.served
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} behind layers", self.def)
    }
}

/// Layers that are ready for one call. Dropped, the next who waits may call.
#[must_use = "the layers wait for the call"]
pub(crate) struct Ready<T: Borrow<Served> = Arc<Served>> {
    served: T,
    /// There until it is dropped, also where it panicked: what it counts is not lost.
    service: Option<Box<Box<dyn Wrapped>>>,
}

impl<T: Borrow<Served>> Ready<T> {
    /// As [`Layered::ready`].
    pub(crate) async fn of(served: T) -> Result<Self, Failure> {
        let service = Some(served.borrow().outer.take().await);
        let mut ready = Self { served, service };
        poll_fn(|cx| ready.poll(cx)).await?;
        Ok(ready)
    }

    /// As [`Layered::try_ready`].
    pub(crate) fn at_once(served: T) -> Option<Result<Self, Failure>> {
        let service = Some(served.borrow().outer.try_take()?);
        let mut ready = Self { served, service };
        match ready.poll(&mut TaskContext::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => Some(outcome.map(|()| ready)),
            Poll::Pending => None,
        }
    }

    fn service(&mut self) -> &mut dyn Wrapped {
        let service = self.service.as_mut();
        &mut ***service.expect("it is there until the drop")
    }

    /// Polls whether the layers are ready; a panic is a failure, as an error is.
    fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Failure>> {
        guard::caught(|| self.service().poll_ready(cx).map_err(failure_of))
            .unwrap_or_else(|panic| Poll::Ready(Err(panic)))
    }

    /// Calls the handler through its layers. The next caller need not wait for the outcome.
    ///
    /// # Errors
    /// When a layer panics.
    pub(crate) fn call(mut self, call: Call) -> Result<Calling, Failure> {
        let shared = Arc::clone(&call.shared);
        let app = shared.context.inner.address();
        let serving = guard::contain(app, || self.service().call(call))?;
        Ok(Calling {
            shared,
            serving: Some(serving),
            stopped: None,
        })
    }

    /// As [`call`](Self::call), and polls the call once.
    pub(crate) fn begin(mut self, call: Call) -> Result<Result<Reply, Failure>, Calling> {
        let shared = Arc::clone(&call.shared);
        let app = shared.context.inner.address();
        let mut serving = None;
        let polled = guard::contain(app, || {
            let called = serving.insert(self.service().call(call));
            // The next caller need not wait for this one.
            drop(self);
            let mut cx = TaskContext::from_waker(Waker::noop());
            let outcome = Pin::new(called).poll(&mut cx).map_err(failure_of);
            if outcome.is_ready() {
                // What a layer drops may panic, too.
                serving = None;
            }
            outcome
        });
        match polled {
            Ok(Poll::Ready(outcome)) => Ok(shared.outcome(outcome)),
            Ok(Poll::Pending) => Err(Calling {
                shared,
                serving,
                stopped: None,
            }),
            Err(panic) => {
                // It may panic once more; what there is to say is said.
                let _ = guard::contain(app, || drop(serving));
                Ok(Err(panic))
            }
        }
    }
}

impl<T: Borrow<Served>> fmt::Debug for Ready<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ready").finish_non_exhaustive()
    }
}

impl<T: Borrow<Served>> Drop for Ready<T> {
    fn drop(&mut self) {
        if let Some(service) = self.service.take() {
            self.served.borrow().outer.put_back(service);
        }
    }
}

/// A call on its way through the layers; contains their panics, and ends with the application.
#[must_use = "it does nothing unless it is polled"]
pub(crate) struct Calling {
    shared: Arc<Shared>,
    /// `None` once it has ended.
    serving: Option<Serving>,
    /// Made when there is something to wait for.
    stopped: Option<BoxFuture<()>>,
}

impl Future for Calling {
    type Output = Result<Reply, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let polled = guard::contain(this.app(), || {
            let serving = this.serving.as_mut();
            let serving = serving.expect("it is not polled after its end");
            let outcome = Pin::new(serving).poll(cx).map_err(failure_of);
            if outcome.is_ready() {
                // What a layer drops may panic, too.
                this.serving = None;
            }
            outcome
        });
        let outcome = match polled {
            Ok(Poll::Ready(outcome)) => return Poll::Ready(this.shared.outcome(outcome)),
            Err(panic) => Err(panic),
            Ok(Poll::Pending) => {
                let inner = &this.shared.context.inner;
                let stopped = this.stopped.get_or_insert_with(|| {
                    let inner = inner.clone();
                    Box::pin(async move { inner.lifecycle.stopped().await })
                });
                std::task::ready!(stopped.as_mut().poll(cx));
                Err(Failure::Stopped)
            }
        };
        this.end()?;
        Poll::Ready(outcome)
    }
}

impl Calling {
    fn app(&self) -> usize {
        self.shared.context.inner.address()
    }

    fn end(&mut self) -> Result<(), Failure> {
        let serving = self.serving.take();
        guard::contain(self.app(), || drop(serving))
    }

    /// What the first run that succeeded has to commit, for a reply that a layer put in the place of the run's.
    pub(crate) fn won(&self) -> Option<Arc<Origin>> {
        self.shared.won()
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        if self.serving.is_some() {
            // The panic hook has reported it, and nobody waits for the outcome.
            let _ = self.end();
        }
    }
}

impl fmt::Debug for Calling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calling").finish_non_exhaustive()
    }
}

impl Shared {
    /// What the outermost layer's outcome means.
    fn outcome(&self, outcome: Result<Reply, Failure>) -> Result<Reply, Failure> {
        match outcome {
            // A layer may answer by itself, and not with anything.
            Ok(reply) if reply.type_id() != (self.served.def.message.response)() => {
                // It may panic; what there is to say is said below.
                let _ = guard::contain(self.context.inner.address(), || drop(reply));
                Err(Failure::Handler {
                    text: "a layer answered with something of another type than the handler's"
                        .to_owned(),
                    retry: Retry::Never,
                })
            }
            // The handler was called before, by a layer that tries again.
            Err(Failure::Refused { text, retry }) if self.began() => {
                Err(Failure::Handler { text, retry })
            }
            outcome => outcome,
        }
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
