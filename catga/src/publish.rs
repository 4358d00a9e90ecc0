//! The whole way out of an event.

use std::fmt;
use std::time::Duration;

use catga_core::{
    Capability, Envelope, Error, ErrorKind, Event, Headers, MessageId, Published, QoS, Retry,
};
use tokio::task::consume_budget;
use tokio::time::Instant;

use crate::Context;
use crate::app::Inner;
use crate::origin::TRACE;
use crate::time::{after, from_now, time_left};
use crate::trace;

/// An event on its way out, with an id or headers of the caller's choice.
#[must_use = "nothing is published before `.publish()`"]
pub struct Outgoing<'a> {
    inner: &'a Inner,
    origin: Option<&'a Context>,
    envelope: Envelope,
    problem: Option<Error>,
}

impl<'a> Outgoing<'a> {
    pub(crate) fn new<E: Event>(inner: &'a Inner, origin: Option<&'a Context>, event: E) -> Self {
        Self {
            inner,
            origin,
            envelope: Envelope::without_id(event),
            problem: None,
        }
    }

    /// Sets the id: a second publish with the same id is the same message.
    pub fn id(mut self, id: MessageId) -> Self {
        self.envelope = self.envelope.with_id(id);
        self
    }

    /// Sets a header. One that cannot go onto the wire, or that the codec sets, is an error of
    /// [`publish`](Self::publish).
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        if let Err(error) = set_header(&mut self.envelope, "publish", name.into(), value) {
            self.problem.get_or_insert(error);
        }
        self
    }

    /// Publishes it, and says whether the broker had its id already.
    ///
    /// # Errors
    /// As [`Catga::publish`](crate::Catga::publish), and
    /// [`InvalidName`](ErrorKind::InvalidName) for a header that cannot go onto the wire.
    ///
    /// # Cancel safety
    /// As [`Catga::publish`](crate::Catga::publish).
    pub async fn publish(mut self) -> Result<Published, Error> {
        match self.problem {
            Some(error) => Err(error.with_envelope(self.envelope)),
            None => self.inner.publish(&mut self.envelope, self.origin).await,
        }
    }
}

/// Sets a header of the caller's choice.
pub(crate) fn set_header(
    envelope: &mut Envelope,
    operation: &'static str,
    name: String,
    value: impl Into<String>,
) -> Result<(), Error> {
    if name.eq_ignore_ascii_case(Headers::CONTENT_TYPE) {
        let text =
            "the header `content-type` is the codec's: choose one with `.codec(..)` on the builder";
        return Err(Error::new(ErrorKind::InvalidName, operation, text));
    }
    envelope.headers_mut().insert(name, value).map(drop)
}

impl fmt::Debug for Outgoing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outgoing").field(&self.envelope).finish()
    }
}

impl Inner {
    /// Publishes one envelope: everything that can be wrong on our side is found here. It is taken, or in the error.
    pub(crate) async fn publish(
        &self,
        envelope: &mut Envelope,
        origin: Option<&Context>,
    ) -> Result<Published, Error> {
        let span = trace::publishing(self.backend.name, envelope.name().as_str(), None, origin);
        let prepared: Result<(), Error> = span.in_scope(|| {
            self.prepare(envelope, origin)?;
            trace::identified(envelope.id());
            Ok(())
        });
        if let Err(error) = prepared {
            let refused = Err(error.with_envelope(envelope.take()));
            self.metrics.published(envelope.name(), &refused);
            return refused;
        }
        match span.in_scope(|| self.backend.transport.try_publish(envelope)) {
            Some(Ok(published)) => {
                trace::end(span);
                self.metrics.published(envelope.name(), &Ok(published));
                // Without it a loop of publishes would never let a consumer on the same thread run.
                consume_budget().await;
                Ok(published)
            }
            // A box, since few have to wait: the futures of the others stay small.
            tried => {
                let waiting = self.publish_waiting(envelope.take(), tried);
                let waited = Box::pin(trace::within(span, waiting)).await;
                self.metrics.published(envelope.name(), &waited);
                waited
            }
        }
    }

    /// Publishes one envelope that the backend did not take at once.
    async fn publish_waiting(
        &self,
        mut envelope: Envelope,
        tried: Option<Result<Published, Error>>,
    ) -> Result<Published, Error> {
        let limit = self.settings.publish_deadline;
        let failed = tried.and_then(Result::err);
        if envelope.qos() != QoS::AtMostOnce {
            return self.publish_stored(envelope, limit, failed).await;
        }
        let published = match failed {
            Some(error) => Err(error),
            None => self.backend.transport.publish(&mut envelope, limit).await,
        };
        published.map_err(|error| error.with_envelope(envelope))
    }

    /// Publishes many, in one call of the backend; what failed and can be tried again is, one by one,
    /// within the one deadline.
    pub(crate) async fn publish_many(
        &self,
        events: Vec<Envelope>,
        origin: Option<&Context>,
    ) -> Vec<Result<(), Error>> {
        let limit = self.settings.publish_deadline;
        let deadline = from_now(limit);
        let name = events.first().map(|event| event.name().clone());
        let name_or_none = name.as_ref().map_or("", |name| name.as_str());
        let span = trace::publishing(self.backend.name, name_or_none, Some(events.len()), origin);
        let mut outcomes = Vec::with_capacity(events.len());
        let (mut ready, mut places) = (Vec::with_capacity(events.len()), Vec::new());
        for (place, mut envelope) in events.into_iter().enumerate() {
            match span.in_scope(|| self.prepare(&mut envelope, origin)) {
                Ok(()) => {
                    outcomes.push(Ok(()));
                    places.push(place);
                    ready.push(envelope);
                }
                Err(error) => outcomes.push(Err(error.with_envelope(envelope))),
            }
        }
        let left = time_left(deadline);
        let published = self.backend.transport.publish_many(&mut ready, left);
        let published = trace::around(&span, published).await;
        let mut published = published.into_iter();
        for (place, envelope) in places.into_iter().zip(ready) {
            let error = match published.next() {
                Some(Ok(_)) => continue,
                Some(Err(error)) => error,
                None => no_outcome(self.backend.name),
            };
            outcomes[place] = if envelope.qos() == QoS::AtMostOnce {
                Err(error.with_envelope(envelope))
            } else {
                let again = self.publish_stored(envelope, time_left(deadline), Some(error));
                trace::around(&span, again).await.map(drop)
            };
        }
        if let Some(name) = name {
            for outcome in &outcomes {
                self.metrics.published(&name, outcome);
            }
        }
        outcomes
    }

    /// Stamps, encodes and measures.
    fn prepare(&self, envelope: &mut Envelope, origin: Option<&Context>) -> Result<(), Error> {
        self.check_open("publish", origin.is_some())?;
        let qos = envelope.qos();
        let capability = match qos {
            QoS::AtMostOnce => Capability::AtMostOnce,
            QoS::AtLeastOnce => Capability::AtLeastOnce,
            QoS::ExactlyOnce => Capability::ExactlyOnce,
        };
        if !self.capabilities.has(capability) {
            return Err(self.unsupported(
                "publish",
                capability,
                &format!("publish `{}`, which is `{qos}`", envelope.name()),
            ));
        }
        if qos == QoS::AtMostOnce && self.takes_values {
            trace::inject(envelope.headers_mut())?;
            return match origin {
                Some(origin) => stamp(envelope.headers_mut(), origin),
                None => Ok(()),
            };
        }
        self.seal("publish", envelope, origin, None, qos != QoS::AtMostOnce)
    }

    /// Encodes an envelope, gives it its id if it `needs_id` (a request `to` one node is another than the same to another node), stamps it, and holds it against the backend's
    /// limit.
    pub(crate) fn seal(
        &self,
        operation: &'static str,
        envelope: &mut Envelope,
        origin: Option<&Context>,
        to: Option<&str>,
        needs_id: bool,
    ) -> Result<(), Error> {
        envelope.encode(self.codecs.writer())?;
        if needs_id && envelope.id().is_none() {
            let id = match origin.and_then(Context::origin) {
                Some(origin) => origin.derive(&self.node.id, envelope, to),
                None => MessageId::new(),
            };
            envelope.set_id(id);
        }
        trace::inject(envelope.headers_mut())?;
        if let Some(origin) = origin {
            stamp(envelope.headers_mut(), origin)?;
        }
        let size = envelope.size_bytes();
        if let Some(limit) = self
            .capabilities
            .max_payload_bytes()
            .filter(|limit| size > *limit)
        {
            return Err(Error::new(
                ErrorKind::PayloadTooLarge,
                operation,
                format!(
                    "`{}` has {size} bytes with its headers, and `{}` takes {limit}",
                    envelope.name(),
                    self.backend.name
                ),
            ));
        }
        if self.settings.strict {
            *envelope = envelope.clone().without_value();
        }
        Ok(())
    }

    /// Publishes at QoS 1 or 2 with the same id until it is stored, refused or too late; `failed` is
    /// what a first try ended with.
    async fn publish_stored(
        &self,
        mut envelope: Envelope,
        limit: Duration,
        mut failed: Option<Error>,
    ) -> Result<Published, Error> {
        let deadline = from_now(limit);
        let mut left = limit;
        let mut may_be_stored = false;
        let mut tries = 1;
        loop {
            let error = match failed.take() {
                Some(error) => error,
                None => match self.backend.transport.publish(&mut envelope, left).await {
                    Ok(published) => return Ok(published),
                    Err(error) => error,
                },
            };
            may_be_stored |= error.may_be_stored();
            let wait = match error.retry() {
                Retry::After(delay) => delay.max(self.settings.backoff.delay(tries)),
                _ => self.settings.backoff.delay(tries),
            };
            if error.retry() == Retry::Never || after(Instant::now(), wait) >= deadline {
                let error = if may_be_stored {
                    error.with_unknown_outcome()
                } else {
                    error
                };
                return Err(error.with_envelope(envelope));
            }
            tracing::debug!(messaging.destination.name = %envelope.name(), %error, ?wait, "publishing again with the same id");
            tokio::time::sleep(wait).await;
            left = time_left(deadline);
            tries += 1;
        }
    }
}

fn no_outcome(backend: &str) -> Error {
    let text = format!("the backend `{backend}` gave no outcome for this message");
    Error::new(ErrorKind::Unavailable, "publish", text).with_unknown_outcome()
}

/// Marks what a handler publishes or sends with the message that it handles.
pub(crate) fn stamp(headers: &mut Headers, origin: &Context) -> Result<(), Error> {
    if headers.get(Headers::CORRELATION_ID).is_none() {
        headers.insert(Headers::CORRELATION_ID, origin.correlation_id())?;
    }
    headers.insert(Headers::CAUSATION_ID, origin.id().to_string())?;
    // Whoever says nothing of a trace passes it on.
    if headers.get(Headers::TRACEPARENT).is_none() {
        for name in TRACE {
            if let Some(value) = origin.headers().get(name) {
                headers.insert(name, value)?;
            }
        }
    }
    Ok(())
}
