//! A request whose handler is on this node: called with the value, without leaving the process.

use std::future::Future;
use std::sync::Arc;

use catga_core::{Encoded, Envelope, Error, ErrorKind, Headers, MessageId, Payload, Request};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{Instrument, Span};

use crate::app::{Inner, closed};
use crate::guard::{self, Failure, First};
use crate::invoke::{BoxFuture, Invoke};
use crate::layer::Reply;
use crate::layered::{Calling, Layered, Ready, Served};
use crate::origin::Origin;
use crate::publish::stamp;
use crate::settle::counted;
use crate::slots::{Slot, Slots};
use crate::table::Entry;
use crate::time::within;
use crate::trace;
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
    handler: Handler<T>,
    deadline: Option<Instant>,
    span: Span,
}

/// A handler at work.
enum Handler<T> {
    /// Called directly.
    Direct(BoxFuture<Result<T, HandlerError>>),
    /// Called through its layers.
    Layered(Calling),
}

/// What a handler waits for before it begins.
pub(crate) struct Pass<'a> {
    slot: Slot<&'a Slots>,
    /// Its layers, where it has any, when they are ready for one call.
    layers: Option<(&'a Layered, LayersReady<'a>)>,
}

type LayersReady<'a> = Result<Ready<&'a Served>, Failure>;

impl<'a> Pass<'a> {
    /// When nothing has to be waited for.
    #[inline]
    pub(crate) fn at_once(entry: &'a Entry) -> Option<Self> {
        let layers = match &entry.layered {
            None => None,
            Some(layered) => Some((layered, Ready::at_once(layered.served())?)),
        };
        let slot = Slots::try_take_for(&entry.slots).ok()?;
        Some(Self { slot, layers })
    }
}

impl Inner {
    /// Calls the handler of this node with the value: no encoding, and one allocation where it is ready at
    /// once and has no layers.
    pub(crate) async fn call_here<R: Request>(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        call: &Invoke<R>,
        request: R,
        arrival: Arrival,
        deadline: Option<Instant>,
    ) -> Result<R::Response, Error> {
        let pass = match Pass::at_once(entry) {
            Some(pass) => pass,
            // A box, since few have to wait: the futures of the others stay small.
            None => Box::pin(self.pass::<R>(entry, deadline)).await?,
        };
        match self.begin_here(pass, entry, call, request, arrival, deadline) {
            Begun::Ended(result) => result,
            Begun::Runs(runs) => self.finish_here::<R>(runs).await,
        }
    }

    /// Waits for the layers of a handler and then for a place.
    async fn pass<'a, R: Request>(
        &self,
        entry: &'a Entry,
        deadline: Option<Instant>,
    ) -> Result<Pass<'a>, Error> {
        let layers = match &entry.layered {
            None => None,
            Some(layered) => {
                let ready = self.before_the_end(deadline, Ready::of(layered.served()));
                let ready = ready.await?;
                let why = "its layers were not ready";
                Some((layered, ready.ok_or_else(|| too_late::<R>(why, false))?))
            }
        };
        let slot = self.before_the_end(deadline, Slots::take(&entry.slots));
        let why = "no place of its handler came free";
        let slot = slot.await?.ok_or_else(|| too_late::<R>(why, false))?;
        Ok(Pass { slot, layers })
    }

    /// Calls the handler, and polls it once: no future of ours is made for one that is ready.
    #[inline]
    pub(crate) fn begin_here<'a, R: Request>(
        self: &Arc<Self>,
        pass: Pass<'a>,
        entry: &'a Arc<Entry>,
        call: &Invoke<R>,
        request: R,
        arrival: Arrival,
        deadline: Option<Instant>,
    ) -> Begun<'a, R> {
        let Pass { slot, layers } = pass;
        if let Some(layers) = layers {
            return self.begin_through(slot, entry, layers, request, arrival, deadline);
        }
        let request = match self.request_as_over_a_wire_if_strict(request) {
            Ok(request) => request,
            Err(error) => return Begun::Ended(Err(error)),
        };
        let span = trace::processing(self.backend.name, entry, arrival.id);
        let context = self.context_here(entry, arrival, deadline);
        let first = {
            let _entered = span.enter();
            guard::begin(self.address(), || call.with_value(request, context))
        };
        match first {
            First::Ended(outcome) => {
                counted(entry, &outcome);
                trace::ended(&span, &outcome);
                Begun::Ended(self.answer::<R>(outcome))
            }
            First::Runs(handler) => Begun::Runs(Runs {
                entry,
                slot,
                handler: Handler::Direct(handler),
                deadline,
                span,
            }),
        }
    }

    /// As [`begin_here`](Self::begin_here), through layers that are ready.
    #[inline(never)]
    fn begin_through<'a, R: Request>(
        self: &Arc<Self>,
        slot: Slot<&'a Slots>,
        entry: &'a Arc<Entry>,
        (layered, ready): (&Layered, LayersReady<'_>),
        request: R,
        arrival: Arrival,
        deadline: Option<Instant>,
    ) -> Begun<'a, R> {
        let request = match self.request_as_over_a_wire_if_strict(request) {
            Ok(request) => request,
            Err(error) => return Begun::Ended(Err(error)),
        };
        let span = trace::processing(self.backend.name, entry, arrival.id);
        let context = self.context_here(entry, arrival, deadline);
        let call = layered.call(Payload::typed(request), R::VERSION, context);
        let first = span.in_scope(|| match ready {
            Ok(ready) => ready.begin(call),
            Err(failure) => Ok(Err(failure)),
        });
        match first {
            Ok(outcome) => {
                let outcome = outcome.map(response);
                counted(entry, &outcome);
                trace::ended(&span, &outcome);
                Begun::Ended(self.answer::<R>(outcome))
            }
            Err(calling) => Begun::Runs(Runs {
                entry,
                slot,
                handler: Handler::Layered(calling),
                deadline,
                span,
            }),
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
        match within(deadline, self.finish_in_task::<R>(slot, handler, span)).await {
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
                let response = if self.settings.strict {
                    self.response_as_over_a_wire::<R>(&response)
                } else {
                    Ok(response)
                };
                response.map_err(Error::with_unknown_outcome)
            }
            Err(failure) => Err(failure.into_error(R::NAME)),
        }
    }

    /// Lets a handler that was not ready run on by itself, so that a caller who goes away does not
    /// cancel it half-way.
    fn finish_in_task<R: Request>(
        self: &Arc<Self>,
        slot: Slot<Arc<Entry>>,
        handler: Handler<R::Response>,
        span: Span,
    ) -> oneshot::Receiver<Result<R::Response, Failure>> {
        let (answer, receiver) = oneshot::channel();
        let inner = Arc::clone(self);
        let run = async move {
            let outcome = match handler {
                Handler::Direct(mut handler) => {
                    let app = inner.address();
                    let outcome = guard::finish(&inner, slot.timeout, |cx| {
                        guard::poll(app, &mut handler, cx)
                    })
                    .await;
                    // A handler that is dropped half-way may panic once more.
                    guard::contain(app, || drop(handler)).and(outcome)
                }
                Handler::Layered(calling) => calling.await.map(response),
            };
            counted(&slot, &outcome);
            trace::ended(&Span::current(), &outcome);
            drop(slot);
            // The caller may have gone.
            let _ = answer.send(outcome);
        };
        tokio::spawn(run.instrument(span));
        receiver
    }

    #[inline]
    fn request_as_over_a_wire_if_strict<R: Request>(&self, request: R) -> Result<R, Error> {
        if self.settings.strict {
            self.request_as_over_a_wire(request)
        } else {
            Ok(request)
        }
    }

    /// A request as another node would get it. Out of the way of those who do not ask for it.
    #[cold]
    #[inline(never)]
    fn request_as_over_a_wire<R: Request>(&self, request: R) -> Result<R, Error> {
        let mut payload = Payload::typed(request);
        let content_type = payload.encode(self.codecs.writer())?;
        let bytes = payload.as_bytes().expect("encoded above");
        R::from_version(R::VERSION, &Encoded::new(&self.codecs, content_type, bytes))
    }

    /// A response as another node would get it.
    #[cold]
    #[inline(never)]
    fn response_as_over_a_wire<R: Request>(
        &self,
        response: &R::Response,
    ) -> Result<R::Response, Error> {
        let bytes = self.codecs.encode(response, R::NAME)?;
        let content_type = self.codecs.content_type::<R::Response>();
        self.codecs.decode(content_type, &bytes)
    }
}

fn response<T: 'static>(reply: Reply) -> T {
    let response = reply.downcast().ok();
    response.expect("the type of a reply was checked")
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
