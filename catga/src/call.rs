//! A request whose handler is on this node: called with the value, without leaving the process.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use catga_core::{Envelope, Error, ErrorKind, Headers, MessageId, Payload, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{Instrument, Span};

use crate::app::{Inner, closed};
use crate::guard::{self, Failure, First};
use crate::handlers::{BoxFuture, Invoke};
use crate::job::span;
use crate::layer::Reply;
use crate::layered::{Calling, Layered, Ready};
use crate::origin::Origin;
use crate::publish::stamp;
use crate::settle::counted;
use crate::slots::{Slot, Slots};
use crate::table::Entry;
use crate::time::within;
use crate::{Attempt, Context, HandlerError};

/// How a request came here.
pub(crate) struct Arrival {
    id: Option<MessageId>,
    headers: Headers,
    attempt: Attempt,
}

impl Arrival {
    /// From this node, at the first try; an id is drawn when somebody asks for it.
    pub(crate) fn from_here(origin: Option<&Context>) -> Result<Self, Error> {
        let mut headers = Headers::new();
        if let Some(origin) = origin {
            stamp(&mut headers, origin)?;
        }
        Ok(Self {
            id: None,
            headers,
            attempt: Attempt::FIRST,
        })
    }

    /// As a letter that also goes, or went, to other nodes.
    pub(crate) fn of(letter: &Envelope, attempt: Attempt) -> Self {
        Self {
            id: letter.id(),
            headers: letter.headers().clone(),
            attempt,
        }
    }
}

/// A handler that was called, and polled once.
pub(crate) enum Begun<'a, R: Request> {
    /// It was ready at once.
    Ended(Result<R::Response, Error>),
    /// It waits for something.
    Runs(Runs<'a, R::Response>),
}

/// A handler that was not ready at once.
pub(crate) struct Runs<'a, T> {
    entry: &'a Arc<Entry>,
    slot: Slot<&'a Slots>,
    handler: BoxFuture<Result<T, HandlerError>>,
    deadline: Option<Instant>,
    span: Span,
}

/// A handler behind layers that was called, and polled once.
enum Through<R: Request> {
    /// It was ready at once.
    Ended(Result<R::Response, Error>),
    /// It waits for something.
    Runs(Slot<Arc<Entry>>, Calling, Span),
}

impl Inner {
    /// Calls the handler of this node with the value: no encoding, and one allocation where the
    /// handler is ready at once.
    pub(crate) async fn call_here<R: Request>(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        call: &'static Invoke<R>,
        request: R,
        arrival: Arrival,
        deadline: Option<Instant>,
    ) -> Result<R::Response, Error> {
        if let Some(layered) = &entry.layered {
            let at_once = layered
                .try_ready()
                .zip(Slots::try_take_for(Arc::clone(entry)).ok());
            // Boxes, since most requests have no layers: their futures stay small.
            let Some((ready, slot)) = at_once else {
                let through = self.call_through(entry, layered, request, arrival, deadline);
                return Box::pin(through).await;
            };
            return match self.begin_through(ready, slot, layered, request, arrival, deadline) {
                Through::Ended(result) => result,
                Through::Runs(slot, calling, span) => {
                    Box::pin(self.finish_through::<R>(slot, calling, span, deadline)).await
                }
            };
        }
        let slot = self.before_the_end(deadline, Slots::take(&entry.slots));
        let Some(slot) = slot.await? else {
            return Err(no_place::<R>());
        };
        match self.begin_here(slot, entry, call, request, arrival, deadline) {
            Begun::Ended(result) => result,
            Begun::Runs(runs) => self.finish_here::<R>(runs).await,
        }
    }

    /// Calls a handler that has layers: they are ready before it takes a place. No future of ours is made
    /// where nothing has to be waited for.
    fn begin_through<R: Request>(
        self: &Arc<Self>,
        ready: Result<Ready, Failure>,
        slot: Slot<Arc<Entry>>,
        layered: &Layered,
        request: R,
        arrival: Arrival,
        deadline: Option<Instant>,
    ) -> Through<R> {
        let entry = &slot;
        let begun = ready.map_err(|failure| failure.into_error(R::NAME));
        let request = self.as_over_a_wire_if_strict(request, R::NAME);
        let (ready, request) = match begun.and_then(|ready| Ok((ready, request?))) {
            Ok(both) => both,
            Err(error) => return Through::Ended(Err(error)),
        };
        let span = span(entry, arrival.id);
        let context = self.context_here(entry, arrival, deadline);
        let call = layered.call(Payload::typed(request), R::VERSION, context);
        let mut calling = span.in_scope(|| ready.call(call));
        let mut poll = || Pin::new(&mut calling).poll(&mut TaskContext::from_waker(Waker::noop()));
        match span.in_scope(&mut poll) {
            Poll::Ready(outcome) => {
                counted(entry, &outcome);
                Through::Ended(self.answer_of_reply::<R>(outcome))
            }
            Poll::Pending => Through::Runs(slot, calling, span),
        }
    }

    /// Waits for what has to be waited for: the layers, a place.
    async fn call_through<R: Request>(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        layered: &Layered,
        request: R,
        arrival: Arrival,
        deadline: Option<Instant>,
    ) -> Result<R::Response, Error> {
        let ready = self.before_the_end(deadline, layered.ready());
        let Some(ready) = ready.await? else {
            return Err(too_late::<R>("its layers were not ready", false));
        };
        let slot = self.before_the_end(deadline, Slots::take(Arc::clone(entry)));
        let Some(slot) = slot.await? else {
            return Err(no_place::<R>());
        };
        match self.begin_through(ready, slot, layered, request, arrival, deadline) {
            Through::Ended(result) => result,
            Through::Runs(slot, calling, span) => {
                self.finish_through::<R>(slot, calling, span, deadline)
                    .await
            }
        }
    }

    /// Waits for what is needed before a handler begins: until the deadline, and not beyond the end of the
    /// application, after which none does.
    async fn before_the_end<T>(
        &self,
        deadline: Option<Instant>,
        needed: impl Future<Output = T>,
    ) -> Result<Option<T>, Error> {
        let there = tokio::select! {
            biased;
            () = self.lifecycle.stopped() => None,
            there = within(deadline, needed) => Some(there),
        };
        there.ok_or_else(|| closed("send"))
    }

    /// Lets a call that was not ready run on by itself, and waits for it.
    async fn finish_through<R: Request>(
        &self,
        slot: Slot<Arc<Entry>>,
        calling: Calling,
        span: Span,
        deadline: Option<Instant>,
    ) -> Result<R::Response, Error> {
        let (answer, receiver) = oneshot::channel();
        let run = async move {
            let outcome = calling.await;
            counted(&slot, &outcome);
            drop(slot);
            // The caller may have gone.
            let _ = answer.send(outcome);
        };
        tokio::spawn(run.instrument(span));
        match within(deadline, receiver).await {
            Some(answer) => self.answer_of_reply::<R>(answer.unwrap_or(Err(Failure::Stopped))),
            None => Err(still_runs::<R>()),
        }
    }

    fn answer_of_reply<R: Request>(
        &self,
        outcome: Result<Reply, Failure>,
    ) -> Result<R::Response, Error> {
        self.answer::<R>(outcome.map(|reply| {
            let response = reply.downcast().ok();
            response.expect("the type of a reply was checked")
        }))
    }

    /// What the handler of a call on this node is told.
    #[inline]
    fn context_here(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        arrival: Arrival,
        deadline: Option<Instant>,
    ) -> Context {
        let Arrival {
            id,
            headers,
            attempt,
        } = arrival;
        // Without an id nobody else has tried, nor will.
        let origin = id.map(|id| Arc::new(Origin::new(id, Arc::clone(entry), false)));
        Context::new(Arc::clone(self), id, headers, attempt, deadline, origin)
    }

    /// Calls the handler, and polls it once: no future of ours is made for one that is ready.
    pub(crate) fn begin_here<'a, R: Request>(
        self: &Arc<Self>,
        slot: Slot<&'a Slots>,
        entry: &'a Arc<Entry>,
        call: &'static Invoke<R>,
        request: R,
        arrival: Arrival,
        deadline: Option<Instant>,
    ) -> Begun<'a, R> {
        let request = match self.as_over_a_wire_if_strict(request, R::NAME) {
            Ok(request) => request,
            Err(error) => return Begun::Ended(Err(error)),
        };
        let span = span(entry, arrival.id);
        let context = self.context_here(entry, arrival, deadline);
        let first = {
            let _entered = span.enter();
            guard::begin(self.address(), || call.with_value(request, context))
        };
        match first {
            First::Ended(outcome) => {
                counted(entry, &outcome);
                Begun::Ended(self.answer::<R>(outcome))
            }
            First::Runs(handler) => Begun::Runs(Runs {
                entry,
                slot,
                handler,
                deadline,
                span,
            }),
        }
    }

    /// Waits for a handler that was not ready at once.
    pub(crate) async fn finish_here<R: Request>(
        self: &Arc<Self>,
        runs: Runs<'_, R::Response>,
    ) -> Result<R::Response, Error> {
        let Runs {
            entry,
            slot,
            handler,
            deadline,
            span,
        } = runs;
        let slot = slot.hand_to(Arc::clone(entry));
        match within(deadline, self.finish_in_task(slot, handler, span)).await {
            Some(answer) => self.answer::<R>(answer.unwrap_or(Err(Failure::Stopped))),
            None => Err(still_runs::<R>()),
        }
    }

    fn answer<R: Request>(
        &self,
        outcome: Result<R::Response, Failure>,
    ) -> Result<R::Response, Error> {
        match outcome {
            Ok(response) => {
                let response = self.as_over_a_wire_if_strict(response, R::NAME);
                response.map_err(Error::with_unknown_outcome)
            }
            Err(failure) => Err(failure.into_error(R::NAME)),
        }
    }

    /// Lets a handler that was not ready run on by itself, so that a caller who goes away does not
    /// cancel it half-way.
    fn finish_in_task<T: Send + 'static>(
        self: &Arc<Self>,
        slot: Slot<Arc<Entry>>,
        mut handler: BoxFuture<Result<T, HandlerError>>,
        span: Span,
    ) -> oneshot::Receiver<Result<T, Failure>> {
        let (answer, receiver) = oneshot::channel();
        let inner = Arc::clone(self);
        let run = async move {
            let app = inner.address();
            let outcome = guard::finish(&inner, slot.timeout, |cx| {
                guard::poll(app, &mut handler, cx)
            })
            .await;
            // A handler that is dropped half-way may panic once more.
            let outcome = guard::contain(app, || drop(handler)).and(outcome);
            counted(&slot, &outcome);
            drop(slot);
            // The caller may have gone.
            let _ = answer.send(outcome);
        };
        tokio::spawn(run.instrument(span));
        receiver
    }

    #[inline]
    fn as_over_a_wire_if_strict<T: Serialize + DeserializeOwned>(
        &self,
        value: T,
        what: &str,
    ) -> Result<T, Error> {
        if self.settings.strict {
            self.as_over_a_wire(&value, what)
        } else {
            Ok(value)
        }
    }

    /// A value as another node would get it. Out of the way of those who do not ask for it.
    #[cold]
    #[inline(never)]
    fn as_over_a_wire<T: Serialize + DeserializeOwned>(
        &self,
        value: &T,
        what: &str,
    ) -> Result<T, Error> {
        let bytes = self.codecs.encode(value, what)?;
        self.codecs
            .decode(self.codecs.writer().content_type(), &bytes)
    }
}

fn no_place<R: Request>() -> Error {
    too_late::<R>("no place of its handler came free", false)
}

fn still_runs<R: Request>() -> Error {
    too_late::<R>("its handler still runs", true)
}

pub(crate) fn too_late<R: Request>(why: &str, may_have_run: bool) -> Error {
    let text = format!("`{}` was not answered in time: {why}", R::NAME);
    let error = Error::new(ErrorKind::Timeout, "send", text);
    if may_have_run {
        error.with_unknown_outcome()
    } else {
        error
    }
}
