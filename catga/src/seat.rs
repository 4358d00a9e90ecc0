//! Where a consumer calls its handler, for one message after the other.

use std::any::Any;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, Waker};

use catga_core::{Bytes, Codecs, Error, Kind, Message};

use crate::guard::{self, Failure, First};
use crate::invoke::{Arrived, HandlerFuture, Invoke, owned, received};
use crate::{Context, HandlerError};

/// Calls one handler, whatever its message.
pub(crate) trait Caller: Send {
    /// Decodes the message, calls the handler of `app` and polls it once. It yields its response in bytes, if it is
    /// that of a request.
    fn begin(&mut self, app: usize, arrived: Arrived<'_>, context: Context)
    -> First<Option<Bytes>>;
}

/// Who calls the handler that a definition keeps.
pub(crate) fn caller<M: Message>(call: &(dyn Any + Send + Sync)) -> Box<dyn Caller> {
    match Invoke::<M>::of(call) {
        Invoke::ByValue(handler) => Box::new(Calls {
            seat: handler.seat(),
            read: owned::<M>,
        }),
        Invoke::ByRef(handler) => Box::new(Calls {
            seat: handler.seat(),
            read: received::<M>,
        }),
    }
}

/// A handler of `M` that takes it as a `T`.
struct Calls<M, T> {
    seat: Box<dyn Seat<M, T>>,
    read: fn(Arrived<'_>) -> Result<T, Error>,
}

impl<M: Message, T> Caller for Calls<M, T> {
    fn begin(
        &mut self,
        app: usize,
        arrived: Arrived<'_>,
        context: Context,
    ) -> First<Option<Bytes>> {
        let codecs = arrived.codecs;
        let Self { seat, read } = self;
        let called = guard::contain(app, || {
            let polled = seat.begin(read(arrived)?, context);
            Ok(polled.map(|outcome| encoded::<M>(outcome, codecs)))
        });
        match called {
            Ok(Ok(Poll::Ready(outcome))) => {
                First::Ended(outcome.map_err(|error| Failure::returned(app, error)))
            }
            Ok(Ok(Poll::Pending)) => {
                let (handler, codecs) = (seat.take(), codecs.clone());
                First::Runs(Box::pin(
                    async move { encoded::<M>(handler.await, &codecs) },
                ))
            }
            Ok(Err(error)) => First::Ended(Err(Failure::Decode(error))),
            Err(panic) => {
                // What it left may panic once more.
                let _ = guard::contain(app, || seat.clear());
                First::Ended(Err(panic))
            }
        }
    }
}

/// The response of a request in bytes; nobody waits for that of an event.
fn encoded<M: Message>(
    outcome: Result<M::Response, HandlerError>,
    codecs: &Codecs,
) -> Result<Option<Bytes>, HandlerError> {
    let response = outcome?;
    match M::KIND {
        Kind::Request { .. } => {
            let bytes = codecs.encode(&response, M::NAME);
            bytes.map(Some).map_err(HandlerError::terminal)
        }
        _ => Ok(None),
    }
}

/// The place of a handler's future, in which it stands for one message after the other: a handler that is ready at once
/// allocates nothing.
pub(crate) trait Seat<M: Message, T>: Send {
    /// Calls the handler and polls it once. One that is not ready is to be [taken](Self::take).
    fn begin(&mut self, message: T, context: Context) -> Poll<Result<M::Response, HandlerError>>;

    /// Takes out the handler that was not ready, to be polled elsewhere.
    fn take(&mut self) -> HandlerFuture<M>;

    /// Drops a handler that panicked.
    fn clear(&mut self);
}

/// A seat of the futures that `call` gives.
pub(crate) struct Reused<C, F> {
    call: C,
    future: Option<Pin<Box<Option<F>>>>,
}

impl<C, F> Reused<C, F> {
    pub(crate) fn boxed<M, T>(call: C) -> Box<dyn Seat<M, T>>
    where
        M: Message,
        C: Fn(T, Context) -> F + Send + 'static,
        F: Future<Output = Result<M::Response, HandlerError>> + Send + 'static,
    {
        Box::new(Self { call, future: None })
    }
}

impl<M, T, C, F> Seat<M, T> for Reused<C, F>
where
    M: Message,
    C: Fn(T, Context) -> F + Send,
    F: Future<Output = Result<M::Response, HandlerError>> + Send + 'static,
{
    fn begin(&mut self, message: T, context: Context) -> Poll<Result<M::Response, HandlerError>> {
        let future = self.future.get_or_insert_with(|| Box::pin(None));
        future.set(Some((self.call)(message, context)));
        // Whoever goes on with it polls it again: nothing is missed by the waker that wakes nobody.
        let polled = poll(future, &mut TaskContext::from_waker(Waker::noop()));
        if polled.is_ready() {
            future.set(None);
        }
        polled
    }

    fn take(&mut self) -> HandlerFuture<M> {
        let future = self.future.take();
        Box::pin(Taken(future.expect("it was begun")))
    }

    fn clear(&mut self) {
        self.future = None;
    }
}

/// A future with the seat that it began in.
struct Taken<F>(Pin<Box<Option<F>>>);

impl<F: Future> Future for Taken<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<F::Output> {
        poll(&mut self.0, cx)
    }
}

fn poll<F: Future>(future: &mut Pin<Box<Option<F>>>, cx: &mut TaskContext<'_>) -> Poll<F::Output> {
    let future = future.as_mut().as_pin_mut();
    future.expect("it stays until it has ended").poll(cx)
}
