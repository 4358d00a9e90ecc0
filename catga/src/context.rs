//! What a handler knows of the call that it serves.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use catga_core::{Error, Event, Headers, MessageId, NodeId, Request};
use tokio::time::Instant;

use crate::app::Inner;
use crate::publish::Outgoing;
use crate::shutdown::ShutdownReport;

/// The call that a handler serves: its message's id and headers, and the way to publish and send on.
///
/// What is published or sent through it carries the correlation id of the message that is handled
/// and names it as its cause; its own id is a fresh one at each attempt. Clones are cheap and may
/// outlive the call.
pub struct Context {
    pub(crate) inner: Arc<Inner>,
    id: OnceLock<MessageId>,
    headers: Headers,
    attempt: Attempt,
    deadline: Option<Instant>,
}

/// Which attempt at a message this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    number: u32,
    limit: u32,
}

impl Attempt {
    pub(crate) const FIRST: Self = Self {
        number: 1,
        limit: 1,
    };

    /// Attempt `number` of at most `limit`, for a unit test that calls a handler.
    #[must_use]
    pub const fn new(number: u32, limit: u32) -> Self {
        Self { number, limit }
    }

    /// The number of this attempt, from 1. A delivery that ended without a verdict (its node died) counts.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// How many attempts there are before the message is dead-lettered.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Whether the handler may have run before for this message, in whole or in part.
    #[must_use]
    pub fn may_have_run(&self) -> bool {
        self.number > 1
    }

    /// Whether an error now means the dead letters.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.number >= self.limit
    }
}

impl Context {
    #[inline]
    pub(crate) fn new(
        inner: Arc<Inner>,
        id: Option<MessageId>,
        headers: Headers,
        attempt: Attempt,
        deadline: Option<Instant>,
    ) -> Self {
        Self {
            inner,
            id: id.map_or_else(OnceLock::new, OnceLock::from),
            headers,
            attempt,
            deadline,
        }
    }

    /// The id of the message. One that came without (QoS 0, a direct call) gets one at the first look.
    #[must_use]
    pub fn id(&self) -> MessageId {
        *self.id.get_or_init(MessageId::new)
    }

    /// The headers of the message.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The id that all messages of this business transaction share: that of the first one.
    #[must_use]
    pub fn correlation_id(&self) -> String {
        match self.headers.get(Headers::CORRELATION_ID) {
            Some(id) => id.to_owned(),
            None => self.id().to_string(),
        }
    }

    /// Which attempt this is.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// How long the caller of a request still waits; `None` for events and where no deadline is set.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The id of this node.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.inner.node.id
    }

    /// The state of a type that the application was given.
    #[must_use]
    pub fn state<T: Clone + Send + Sync + 'static>(&self) -> Option<&T> {
        self.inner.states.get()
    }

    /// Publishes an event, as the type's QoS says.
    ///
    /// # Errors
    /// As [`Catga::publish`](crate::Catga::publish).
    ///
    /// # Cancel safety
    /// As [`Catga::publish`](crate::Catga::publish).
    pub async fn publish<E: Event>(&self, event: E) -> Result<(), Error> {
        self.message(event).publish().await
    }

    /// An event with an id or headers of the caller's choice.
    pub fn message<E: Event>(&self, event: E) -> Outgoing<'_> {
        Outgoing::new(&self.inner, Some(self), event)
    }

    /// Sends a request and waits for its answer, within what is left of this call's own deadline.
    ///
    /// # Errors
    /// As [`Catga::send`](crate::Catga::send).
    ///
    /// # Cancel safety
    /// As [`Catga::send`](crate::Catga::send).
    pub async fn send<R: Request>(&self, request: R) -> Result<R::Response, Error> {
        self.inner.send(request, Some(self)).await
    }

    /// Sends a request to one node.
    ///
    /// # Errors
    /// As [`Catga::send_to`](crate::Catga::send_to).
    ///
    /// # Cancel safety
    /// As [`Catga::send`](crate::Catga::send).
    pub async fn send_to<R: Request>(&self, node: &str, request: R) -> Result<R::Response, Error> {
        self.inner.send_to(node, request, Some(self)).await
    }

    /// Shuts the application down: as [`Catga::shutdown`](crate::Catga::shutdown), which does not
    /// wait for the handler that calls it.
    ///
    /// # Errors
    /// As [`Catga::shutdown`](crate::Catga::shutdown).
    pub async fn shutdown(&self) -> Result<ShutdownReport, Error> {
        self.inner
            .shutdown(self.inner.settings.shutdown_timeout)
            .await
    }
}

impl Clone for Context {
    fn clone(&self) -> Self {
        // Drawn now, so that both have the same id.
        let id = self.id();
        Self {
            inner: Arc::clone(&self.inner),
            id: OnceLock::from(id),
            headers: self.headers.clone(),
            attempt: self.attempt,
            deadline: self.deadline,
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("id", &self.id.get())
            .field("headers", &self.headers)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
