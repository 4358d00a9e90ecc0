//! The whole way out of an event.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use catga_core::{Capability, Envelope, Error, ErrorKind, Event, Headers, MessageId, QoS, Retry};
use tokio::time::Instant;

use crate::Context;
use crate::app::Inner;

/// An event on its way out, with an id or headers of the caller's choice.
#[must_use = "nothing is published before `.publish()`"]
pub struct Outgoing<'a> {
    inner: &'a Arc<Inner>,
    origin: Option<&'a Context>,
    envelope: Envelope,
    problem: Option<Error>,
}

impl<'a> Outgoing<'a> {
    pub(crate) fn new<E: Event>(
        inner: &'a Arc<Inner>,
        origin: Option<&'a Context>,
        event: E,
    ) -> Self {
        Self {
            inner,
            origin,
            envelope: Envelope::new(event),
            problem: None,
        }
    }

    /// Sets the id: a second publish with the same id is the same message.
    pub fn id(mut self, id: MessageId) -> Self {
        self.envelope = self.envelope.with_id(id);
        self
    }

    /// Sets a header. One that cannot go onto the wire is an error of [`publish`](Self::publish).
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        if let Err(error) = self.envelope.headers_mut().insert(name, value) {
            self.problem.get_or_insert(error);
        }
        self
    }

    /// Publishes it.
    ///
    /// # Errors
    /// As [`Catga::publish`](crate::Catga::publish), and
    /// [`InvalidName`](ErrorKind::InvalidName) for a header that cannot go onto the wire.
    ///
    /// # Cancel safety
    /// As [`Catga::publish`](crate::Catga::publish).
    pub async fn publish(self) -> Result<(), Error> {
        match self.problem {
            Some(error) => Err(error.with_envelope(self.envelope)),
            None => self.inner.publish(self.envelope, self.origin).await,
        }
    }
}

impl fmt::Debug for Outgoing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outgoing").field(&self.envelope).finish()
    }
}

impl Inner {
    /// Publishes one envelope: everything that can be wrong on our side is found here.
    pub(crate) async fn publish(
        &self,
        mut envelope: Envelope,
        origin: Option<&Context>,
    ) -> Result<(), Error> {
        match self.prepare(&mut envelope, origin) {
            Ok(()) if envelope.qos() == QoS::AtMostOnce => {
                match self
                    .backend
                    .transport
                    .publish(&mut envelope, self.settings.publish_deadline)
                    .await
                {
                    Ok(_) => Ok(()),
                    Err(error) => Err(error.with_envelope(envelope)),
                }
            }
            Ok(()) => self.publish_stored(envelope).await,
            Err(error) => Err(error.with_envelope(envelope)),
        }
    }

    /// Publishes many, in one call of the backend; what failed and can be tried again is, one by one.
    pub(crate) async fn publish_many(
        &self,
        events: Vec<Envelope>,
        origin: Option<&Context>,
    ) -> Vec<Result<(), Error>> {
        let mut outcomes = Vec::with_capacity(events.len());
        let mut ready = Vec::with_capacity(events.len());
        for mut envelope in events {
            match self.prepare(&mut envelope, origin) {
                Ok(()) => {
                    outcomes.push(Ok(()));
                    ready.push(envelope);
                }
                Err(error) => outcomes.push(Err(error.with_envelope(envelope))),
            }
        }
        let mut published = self
            .backend
            .transport
            .publish_many(&mut ready, self.settings.publish_deadline)
            .await
            .into_iter();
        let mut ready = ready.into_iter();
        for outcome in outcomes.iter_mut().filter(|outcome| outcome.is_ok()) {
            let (published, envelope) = (published.next(), ready.next());
            let envelope = envelope.expect("each prepared envelope is waiting");
            *outcome = match published.expect("a backend gives an outcome for each") {
                Ok(_) => Ok(()),
                Err(error)
                    if envelope.qos() == QoS::AtMostOnce || error.retry() == Retry::Never =>
                {
                    Err(error.with_envelope(envelope))
                }
                Err(error) => match self.publish_stored(envelope).await {
                    // The first try may be stored whatever the second one says.
                    Err(second) if error.may_be_stored() => Err(second.with_unknown_outcome()),
                    second => second,
                },
            };
        }
        outcomes
    }

    /// Stamps, encodes and measures.
    fn prepare(&self, envelope: &mut Envelope, origin: Option<&Context>) -> Result<(), Error> {
        self.check_open(origin.is_some())?;
        let qos = envelope.qos();
        let needed = match qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(Capability::AtLeastOnce),
            QoS::ExactlyOnce => Some(Capability::ExactlyOnce),
        };
        if let Some(capability) = needed.filter(|needed| !self.capabilities.has(*needed)) {
            return Err(self.unsupported(
                "publish",
                capability,
                &format!("publish `{}`, which is `{qos}`", envelope.name()),
            ));
        }
        if let Some(origin) = origin {
            stamp(envelope.headers_mut(), origin)?;
        }
        let stays_typed = qos == QoS::AtMostOnce && self.takes_values;
        if !stays_typed {
            self.encode(envelope)?;
        }
        Ok(())
    }

    /// Encodes an envelope and holds it against the backend's limit.
    pub(crate) fn encode(&self, envelope: &mut Envelope) -> Result<(), Error> {
        envelope.encode(self.codecs.writer())?;
        let size = envelope.size_bytes();
        if let Some(limit) = self
            .capabilities
            .max_payload_bytes()
            .filter(|limit| size > *limit)
        {
            return Err(Error::new(
                ErrorKind::PayloadTooLarge,
                "publish",
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

    /// Publishes at QoS 1 or 2 with the same id until it is stored, refused or too late.
    async fn publish_stored(&self, mut envelope: Envelope) -> Result<(), Error> {
        let deadline = Instant::now() + self.settings.publish_deadline;
        let mut may_be_stored = false;
        let mut tries = 0;
        loop {
            tries += 1;
            let left = deadline.saturating_duration_since(Instant::now());
            let Err(error) = self.backend.transport.publish(&mut envelope, left).await else {
                return Ok(());
            };
            may_be_stored |= error.may_be_stored();
            let wait = self.settings.backoff.delay(tries);
            let worth_it = error.retry() != Retry::Never && Instant::now() + wait < deadline;
            if !worth_it {
                let error = if may_be_stored {
                    error.with_unknown_outcome()
                } else {
                    error
                };
                return Err(error.with_envelope(envelope));
            }
            tracing::debug!(message = %envelope.name(), %error, ?wait, "publish failed, trying again with the same id");
            tokio::time::sleep(wait).await;
        }
    }
}

/// Marks what a handler publishes or sends with the message that it handles.
pub(crate) fn stamp(headers: &mut Headers, origin: &Context) -> Result<(), Error> {
    if headers.get(Headers::CORRELATION_ID).is_none() {
        headers.insert(Headers::CORRELATION_ID, origin.correlation_id())?;
    }
    headers.insert(Headers::CAUSATION_ID, origin.id().to_string())?;
    Ok(())
}

/// Runs a future until it ends or is too late; `None` lets it take its time.
pub(crate) async fn within<T>(
    limit: Option<Instant>,
    future: impl Future<Output = T>,
) -> Option<T> {
    match limit {
        Some(limit) => tokio::time::timeout_at(limit, future).await.ok(),
        None => Some(future.await),
    }
}

/// The time until `deadline`; a day where there is none.
pub(crate) fn time_left(deadline: Option<Instant>) -> Duration {
    const LONG: Duration = Duration::from_secs(24 * 60 * 60);
    deadline.map_or(LONG, |deadline| {
        deadline.saturating_duration_since(Instant::now())
    })
}
