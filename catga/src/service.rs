//! The services that layers wrap: the handler itself, and any service as one that can be cloned.

use std::fmt;
use std::future::{Future, poll_fn, ready as ready_future};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use catga_core::BoxError;
use tower_service::Service;

use crate::layer::{Call, Reply};
use crate::lent::{Lent, Waiting};
use crate::serve::Serve;

/// A call at work: the future of what a layer wraps.
#[must_use = "futures do nothing unless they are polled"]
pub struct Serving(Work);

enum Work {
    /// The handler: in no box of its own, as the layer around it puts its future into one.
    Handler(Serve),
    Any(Pin<Box<dyn Answering + Send>>),
}

impl Serving {
    pub(crate) fn new<F, E>(future: F) -> Self
    where
        F: Future<Output = Result<Reply, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        Self(Work::Any(Box::pin(future)))
    }
}

impl Future for Serving {
    type Output = Result<Reply, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Work::Handler(serve) => Pin::new(serve).poll(cx),
            Work::Any(future) => future.as_mut().poll_answer(cx),
        }
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").finish_non_exhaustive()
    }
}

/// The future of any service: its error is boxed where it is polled, as a future around it would be moved once more.
trait Answering {
    fn poll_answer(self: Pin<&mut Self>, cx: &mut TaskContext<'_>)
    -> Poll<Result<Reply, BoxError>>;
}

impl<F, E> Answering for F
where
    F: Future<Output = Result<Reply, E>>,
    E: Into<BoxError>,
{
    fn poll_answer(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Result<Reply, BoxError>> {
        self.poll(cx).map_err(Into::into)
    }
}

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
    waiting: Waiting,
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
        Self::shared(wrapped(service))
    }

    pub(crate) fn shared(service: Box<dyn Wrapped>) -> Self {
        Self(Which::Shared(Handle {
            one: Arc::new(One::new(service)),
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
    type Future = Serving;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        match &mut self.0 {
            Which::Handler => Poll::Ready(Ok(())),
            Which::Shared(handle) => handle.poll_ready(cx),
        }
    }

    fn call(&mut self, call: Call) -> Self::Future {
        match &mut self.0 {
            Which::Handler => Serving(Work::Handler(Serve::Called(call))),
            Which::Shared(handle) => handle.call(call),
        }
    }
}

impl Handle {
    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        self.one
            .poll(&mut self.waiting, cx, |service, cx| service.poll_ready(cx))
    }

    fn call(&mut self, call: Call) -> Serving {
        self.waiting = None;
        match self.one.try_call(call) {
            Ok(serving) => serving,
            Err(mut call) => {
                let mut handle = self.clone();
                Serving::new(async move {
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

/// One service for many handles.
type One = Lent<Box<dyn Wrapped>>;

impl One {
    /// Whether the service is ready; `None` while somebody else uses it.
    fn poll_ready(&self) -> Option<Poll<Result<(), BoxError>>> {
        self.with(|service, cx| service.poll_ready(cx))
    }

    /// Calls the service if it is ready and free; else gives the call back.
    fn try_call(&self, call: Call) -> Result<Serving, Call> {
        let mut call = Some(call);
        let serving = self.with(|service, cx| match service.poll_ready(cx) {
            Poll::Ready(Ok(())) => call.take().map(|call| service.call(call)),
            Poll::Ready(Err(error)) => Some(Serving::new(ready_future(Err(error)))),
            Poll::Pending => None,
        });
        serving
            .flatten()
            .ok_or_else(|| call.expect("it was not called"))
    }
}

/// A service without its type.
pub(crate) trait Wrapped: Send {
    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>>;
    fn call(&mut self, call: Call) -> Serving;
}

pub(crate) fn wrapped<S>(service: S) -> Box<dyn Wrapped>
where
    S: Service<Call, Response = Reply> + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    Box::new(Wrap(service))
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
        Serving::new(self.0.call(call))
    }
}

/// Its future is boxed already.
impl Wrapped for Erased {
    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        Service::poll_ready(self, cx)
    }

    fn call(&mut self, call: Call) -> Serving {
        Service::call(self, call)
    }
}

#[cfg(test)]
mod tests;
