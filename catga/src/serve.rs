//! The innermost service: runs the handler to its end, or to the end of its time or of the application.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};

use catga_core::{BoxError, Message};

use crate::guard::{self, Failure, First};
use crate::invoke::{BoxFuture, HandlerFuture};
use crate::layer::{Call, CallError, Reply, Shared};
use crate::origin::Origin;

/// A handler that was called, and polled once.
pub(crate) enum Begun {
    /// It was ready at once.
    Ended(Result<Reply, Failure>),
    /// It waits for something.
    Runs(BoxFuture<Result<Reply, Failure>>),
}

/// Calls the handler of a message of type `M`, and polls it once.
pub(crate) fn begin<M: Message>(call: Call) -> Begun {
    let (shared, payload) = call.into_parts();
    let inner = &shared.context.inner;
    if inner.lifecycle.is_stopped() {
        return Begun::Ended(Err(Failure::Stopped));
    }
    let app = inner.address();
    let context = shared.begin();
    let origin = context.origin_arc();
    let first = guard::begin_inner(app, || {
        let invoked = shared.invoke::<M>(payload, context);
        invoked.map_err(Failure::Decode)
    });
    match first {
        First::Ended(outcome) => Begun::Ended(shared.replied::<M>(outcome, origin)),
        First::Runs(future) => Begun::Runs(Box::pin(async move {
            let future = Some(future);
            let mut handler = Contained::<M> { app, future };
            let (inner, limit) = (&shared.context.inner, shared.served.timeout);
            let outcome = guard::finish(inner, limit, |cx| handler.poll(cx)).await;
            shared.replied::<M>(outcome, origin)
        })),
    }
}

impl Shared {
    fn replied<M: Message>(
        &self,
        outcome: Result<M::Response, Failure>,
        origin: Option<Arc<Origin>>,
    ) -> Result<Reply, Failure> {
        let mut reply = Reply::new(outcome?);
        if let Some(origin) = &origin {
            self.succeeded(Arc::clone(origin));
        }
        reply.origin = origin;
        Ok(reply)
    }
}

/// The handler as the layers around it see it: it begins when it is polled. What a handler that is not ready at once
/// waits for stands in a box of its own, so that this one stays small.
pub(crate) enum Serve {
    Called(Call),
    Runs(BoxFuture<Result<Reply, Failure>>),
    /// It ended, or was stopped.
    Over,
}

impl Future for Serve {
    type Output = Result<Reply, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        if let Self::Called(_) = &*self
            && let Self::Called(call) = std::mem::replace(&mut *self, Self::Over)
        {
            match (call.shared.served.def.message.begin)(call) {
                Begun::Ended(outcome) => return told(outcome),
                Begun::Runs(runs) => *self = Self::Runs(runs),
            }
        }
        let Self::Runs(runs) = &mut *self else {
            return Poll::Pending;
        };
        let outcome = ready!(runs.as_mut().poll(cx));
        *self = Self::Over;
        told(outcome)
    }
}

/// What the layers are told.
fn told(outcome: Result<Reply, Failure>) -> Poll<Result<Reply, BoxError>> {
    match outcome {
        Ok(reply) => Poll::Ready(Ok(reply)),
        // The whole call ends now: no layer is to take it for something to try again.
        Err(Failure::Stopped) => Poll::Pending,
        Err(failure) => Poll::Ready(Err(CallError(failure).into())),
    }
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
