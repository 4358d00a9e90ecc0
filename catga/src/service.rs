//! The services that layers wrap: the handler itself, and any service as one that can be cloned.

use std::fmt;
use std::future::{Future, poll_fn, ready as ready_future};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::{Context as TaskContext, Poll, Wake, Waker, ready};

use catga_core::{BoxError, Message};
use crossbeam_utils::atomic::AtomicCell;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tower_service::Service;

use crate::guard::{self, Failure};
use crate::handlers::{BoxFuture, HandlerFuture, invoke};
use crate::layer::{Call, CallError, Reply};

/// A call at work.
pub(crate) type Serving = BoxFuture<Result<Reply, BoxError>>;

/// What a layer wraps: the handler, or the next layer around it.
///
/// All clones lead to one service, whether that can be cloned or not: a retry layer may stand around a rate
/// limit. A clone that found it ready has not reserved it, so that nobody waits for one that is never called;
/// when another clone was faster, the call itself waits.
#[derive(Clone)]
pub struct Erased(Which);

#[derive(Clone)]
enum Which {
    /// Always ready, and without state.
    Handler,
    Shared(Handle),
}

struct Handle {
    one: Arc<One>,
    /// Ready when the service may be.
    waiting: Option<Pin<Box<OwnedNotified>>>,
}

impl Erased {
    /// The handler of a call: contained, and within its own time limit.
    pub(crate) fn handler() -> Self {
        Self(Which::Handler)
    }

    pub(crate) fn new<S>(service: S) -> Self
    where
        S: Service<Call, Response = Reply> + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
    {
        Self(Which::Shared(Handle {
            one: One::new(Box::new(Wrap(service))),
            waiting: None,
        }))
    }

    /// Whether nothing stands around the handler.
    pub(crate) fn is_bare(&self) -> bool {
        matches!(self.0, Which::Handler)
    }

    /// Polls once, and says whether there is nothing to wait for. While somebody else uses the service,
    /// that is taken to be so: it is but for a moment.
    pub(crate) fn may_be_ready(&self) -> bool {
        match &self.0 {
            Which::Handler => true,
            Which::Shared(handle) => !matches!(handle.one.poll_ready(), Some(Poll::Pending)),
        }
    }
}

impl Service<Call> for Erased {
    type Response = Reply;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        match &mut self.0 {
            Which::Handler => Poll::Ready(Ok(())),
            Which::Shared(handle) => handle.poll_ready(cx),
        }
    }

    fn call(&mut self, call: Call) -> Self::Future {
        match &mut self.0 {
            Which::Handler => (call.shared.served.def.serve)(call),
            Which::Shared(handle) => handle.call(call),
        }
    }
}

impl Handle {
    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
            }
            if let Some(Poll::Ready(outcome)) = self.one.poll_ready() {
                return Poll::Ready(outcome);
            }
            // Listen before looking once more, so that what changes in between wakes us.
            let mut waiting = Box::pin(Arc::clone(&self.one.changed).notified_owned());
            if waiting.as_mut().poll(cx).is_pending() {
                let polled = self.one.poll_ready().or_else(|| {
                    self.one.missed.store(true, Ordering::SeqCst);
                    fence(Ordering::SeqCst);
                    self.one.poll_ready()
                });
                if let Some(Poll::Ready(outcome)) = polled {
                    return Poll::Ready(outcome);
                }
                self.waiting = Some(waiting);
            }
        }
    }

    fn call(&mut self, call: Call) -> Serving {
        self.waiting = None;
        match self.one.try_call(call) {
            Ok(serving) => serving,
            Err(mut call) => {
                let mut handle = self.clone();
                Box::pin(async move {
                    loop {
                        poll_fn(|cx| handle.poll_ready(cx)).await?;
                        call = match handle.one.try_call(call) {
                            Ok(serving) => return serving.await,
                            Err(call) => call,
                        };
                    }
                })
            }
        }
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        Self {
            one: Arc::clone(&self.one),
            waiting: None,
        }
    }
}

impl fmt::Debug for Erased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Erased").finish_non_exhaustive()
    }
}

/// One service for many handles, none of which keeps it for longer than a poll or the start of a call: one
/// that is left lying, in a layer whose caller went away, is in nobody's way.
struct One {
    /// Empty only while somebody is within a poll or a call of the service.
    /// A box of a box, since one word can be swapped at once.
    service: AtomicCell<Option<Box<Box<dyn Wrapped>>>>,
    /// Whether somebody came while it was empty, and wants to be woken.
    missed: AtomicBool,
    changed: Arc<Notify>,
    /// Wakes all who wait: the service knows one waker alone, so that no handle puts out that of another.
    waker: Waker,
}

impl One {
    fn new(service: Box<dyn Wrapped>) -> Arc<Self> {
        let changed = Arc::new(Notify::new());
        let one = Self {
            service: AtomicCell::new(None),
            missed: AtomicBool::new(false),
            waker: Waker::from(Arc::new(WakeAll(Arc::clone(&changed)))),
            changed,
        };
        one.put(Box::new(service));
        Arc::new(one)
    }

    fn put(&self, service: Box<Box<dyn Wrapped>>) {
        self.service.store(Some(service));
        // Either we see who missed it, or who missed it sees the service.
        fence(Ordering::SeqCst);
        if self.missed.load(Ordering::SeqCst) && self.missed.swap(false, Ordering::SeqCst) {
            self.changed.notify_waiters();
        }
    }

    /// Uses the service, unless somebody else does. One that panics goes back as it is: what it counts is
    /// not lost.
    fn with<T>(
        &self,
        use_it: impl FnOnce(&mut dyn Wrapped, &mut TaskContext<'_>) -> T,
    ) -> Option<T> {
        struct Lent<'a>(&'a One, Option<Box<Box<dyn Wrapped>>>);
        impl Drop for Lent<'_> {
            fn drop(&mut self) {
                if let Some(service) = self.1.take() {
                    self.0.put(service);
                }
            }
        }
        let mut lent = Lent(self, self.service.take());
        let service = lent.1.as_mut()?;
        Some(use_it(
            &mut ***service,
            &mut TaskContext::from_waker(&self.waker),
        ))
    }

    /// Whether the service is ready; `None` while somebody else uses it.
    fn poll_ready(&self) -> Option<Poll<Result<(), BoxError>>> {
        self.with(|service, cx| service.poll_ready(cx))
    }

    /// Calls the service if it is ready and free; else gives the call back.
    fn try_call(&self, call: Call) -> Result<Serving, Call> {
        let mut call = Some(call);
        let serving = self.with(|service, cx| match service.poll_ready(cx) {
            Poll::Ready(Ok(())) => call.take().map(|call| service.call(call)),
            Poll::Ready(Err(error)) => Some(Box::pin(ready_future(Err(error))) as Serving),
            Poll::Pending => None,
        });
        serving
            .flatten()
            .ok_or_else(|| call.expect("it was not called"))
    }
}

struct WakeAll(Arc<Notify>);

impl Wake for WakeAll {
    fn wake(self: Arc<Self>) {
        self.0.notify_waiters();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_waiters();
    }
}

/// A service without its type.
trait Wrapped: Send {
    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>>;
    fn call(&mut self, call: Call) -> Serving;
}

struct Wrap<S>(S);

impl<S> Wrapped for Wrap<S>
where
    S: Service<Call, Response = Reply> + Send,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, call: Call) -> Serving {
        let future = self.0.call(call);
        Box::pin(async move { future.await.map_err(Into::into) })
    }
}

/// The innermost service: runs the handler to its end, or to the end of its time or of the application.
pub(crate) fn serve<M: Message>(call: Call) -> Serving {
    Box::pin(async move {
        match attempt::<M>(call).await {
            Ok(reply) => Ok(reply),
            // The whole call ends now: no layer is to take it for something to try again.
            Err(Failure::Stopped) => std::future::pending().await,
            Err(failure) => Err(CallError(failure).into()),
        }
    })
}

async fn attempt<M: Message>(call: Call) -> Result<Reply, Failure> {
    let shared = Arc::clone(&call.shared);
    let inner = &shared.context.inner;
    if inner.lifecycle.is_stopped() {
        return Err(Failure::Stopped);
    }
    let app = inner.address();
    let mut origin = None;
    let started = guard::contain_inner(app, || {
        call.arrived(&inner.codecs, |def, arrived, context| {
            origin = context.origin_arc();
            invoke::<M>(def.call, arrived, context)
        })
    })?;
    let mut handler = Contained::<M> {
        app,
        future: Some(started.map_err(Failure::Decode)?),
    };
    let limit = shared.served.timeout;
    let outcome = match poll_fn(|cx| Poll::Ready(handler.poll(cx))).await {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => guard::finish(inner, limit, |cx| handler.poll(cx)).await,
    };
    outcome.map(|response| {
        let mut reply = Reply::new(response);
        if let Some(origin) = &origin {
            shared.succeeded(Arc::clone(origin));
        }
        reply.origin = origin;
        reply
    })
}

/// A handler whose panics stay its own, also when a layer drops it half-way.
struct Contained<M: Message> {
    app: usize,
    future: Option<HandlerFuture<M>>,
}

impl<M: Message> Contained<M> {
    fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<M::Response, Failure>> {
        let app = self.app;
        let future = self
            .future
            .as_mut()
            .expect("it is there until it is dropped");
        match guard::contain_inner(app, || future.as_mut().poll(cx)) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(outcome)) => {
                Poll::Ready(outcome.map_err(|error| Failure::returned(app, error)))
            }
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

impl<M: Message> Drop for Contained<M> {
    fn drop(&mut self) {
        // It was reported by the panic hook; nobody waits for the outcome.
        let _ = guard::contain_inner(self.app, || drop(self.future.take()));
    }
}

#[cfg(test)]
mod tests;
