//! A request whose handler is on this node: called with the value, without leaving the process.

use std::sync::Arc;

use catga_core::{Envelope, Error, ErrorKind, Headers, MessageId, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{Instrument, Span};

use crate::app::Inner;
use crate::consume::{counted, span};
use crate::guard::{self, Failure, First};
use crate::handlers::{BoxFuture, Call};
use crate::publish::stamp;
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

impl Inner {
    /// Calls the handler of this node with the value: no encoding, and one allocation where the
    /// handler is ready at once.
    pub(crate) async fn call_here<R: Request>(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        call: &'static Call<R>,
        request: R,
        arrival: Arrival,
        deadline: Option<Instant>,
    ) -> Result<R::Response, Error> {
        let slots = &entry.slots;
        let slot = match Slots::try_take_for(slots) {
            Ok(slot) => slot,
            Err(slots) => match within(deadline, Slots::take(slots)).await {
                Some(slot) => slot,
                None => return Err(too_late::<R>("no place of its handler came free", false)),
            },
        };
        let strict = self.settings.strict;
        let request = if strict {
            self.as_over_a_wire(&request, R::NAME)?
        } else {
            request
        };
        let Arrival {
            id,
            headers,
            attempt,
        } = arrival;
        let context = Context::new(Arc::clone(self), id, headers, attempt, deadline);
        let span = span(entry, id);
        let first = {
            let _entered = span.enter();
            guard::begin(self.address(), || call.with_value(request, context))
        };
        let outcome = match first {
            First::Ended(outcome) => {
                counted(entry, &outcome);
                outcome
            }
            First::Runs(handler) => {
                let slot = slot.hand_to(Arc::clone(entry));
                match within(deadline, self.finish_in_task(slot, handler, span)).await {
                    Some(answer) => answer.unwrap_or(Err(Failure::Stopped)),
                    None => return Err(too_late::<R>("its handler still runs", true)),
                }
            }
        };
        let response = outcome.map_err(|failure| failure.into_error("send", R::NAME))?;
        if strict {
            self.as_over_a_wire(&response, R::NAME)
        } else {
            Ok(response)
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

pub(crate) fn too_late<R: Request>(why: &str, may_have_run: bool) -> Error {
    let text = format!("`{}` was not answered in time: {why}", R::NAME);
    let error = Error::new(ErrorKind::Timeout, "send", text);
    if may_have_run {
        error.with_unknown_outcome()
    } else {
        error
    }
}
