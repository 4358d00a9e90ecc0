//! What a handler knows of the call that it serves.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use catga_core::{
    CommitStore, Envelope, Error, Event, Headers, MessageId, NodeId, Published, Request,
};
use tokio::time::Instant;

use crate::app::Inner;
use crate::hidden::Hidden;
use crate::layer::Shared;
use crate::origin::Origin;
use crate::publish::Outgoing;
use crate::request::RequestBuilder;
use crate::shutdown::ShutdownReport;

/// The call that a handler serves: its message's id and headers, and the way to publish and send on.
///
/// What is published or sent through it carries the correlation id of the message that is handled
/// and names it as its cause. At QoS 1 and 2 its id is *derived*: from the handled message's id, the handler,
/// and the content, so that a handler that is tried again and publishes the same again publishes
/// duplicates, which brokers and inboxes recognise; something else gets another id, and of two equal ones
/// each its own. (A `HashMap` in a message is written in another order each time: use a `BTreeMap`.)
/// Clones are cheap and may outlive the call.
pub struct Context {
    pub(crate) inner: Hidden<Inner>,
    id: Id,
    headers: Headers,
    attempt: Attempt,
    deadline: Option<Instant>,
    origin: Option<Hidden<Origin>>,
}

/// The id of the message, or where it is to be drawn: it costs a system call, and few ask for it.
enum Id {
    Own(OnceLock<MessageId>),
    /// With the other runs of a call behind layers.
    OfCall(Hidden<Shared>),
}

impl Id {
    fn cell(&self) -> &OnceLock<MessageId> {
        match self {
            Self::Own(cell) => cell,
            Self::OfCall(call) => call.context.id.cell(),
        }
    }
}

/// Which attempt at a message this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    number: u32,
    limit: u32,
    may_have_run: bool,
}

impl Attempt {
    pub(crate) const FIRST: Self = Self {
        number: 1,
        limit: 1,
        may_have_run: false,
    };

    /// Attempt `number` of at most `limit`, for a unit test that calls a handler.
    #[must_use]
    pub const fn new(number: u32, limit: u32) -> Self {
        Self::told(number, limit, number > 1)
    }

    /// As somebody knows who was told whether it may have run.
    pub(crate) const fn told(number: u32, limit: u32, may_have_run: bool) -> Self {
        Self {
            number,
            limit,
            may_have_run,
        }
    }

    /// The number of this attempt, from 1. A delivery that ended without a verdict (its node died) counts.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// How many attempts there are before the message is dead-lettered; of a request, how often its caller tries
    /// (`request_retries` and one, 1 for a call on its own node).
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Whether the handler may have run before for this message, in whole or in part: it failed, its node
    /// died, or it was stopped by a shutdown, perhaps after its effect and before that was recorded.
    #[must_use]
    pub fn may_have_run(&self) -> bool {
        self.may_have_run
    }

    /// Whether an error now means the dead letters, or of a request the end of its tries.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.number >= self.limit
    }
}

impl Context {
    /// With an `origin` where the message may be handled again, by the handler that has it now.
    #[inline]
    pub(crate) fn new(
        inner: Arc<Inner>,
        id: Option<MessageId>,
        headers: Headers,
        attempt: Attempt,
        deadline: Option<Instant>,
        origin: Option<Arc<Origin>>,
    ) -> Self {
        Self {
            inner: inner.into(),
            id: Id::Own(id.map_or_else(OnceLock::new, OnceLock::from)),
            headers,
            attempt,
            deadline,
            origin: origin.map(Hidden::from),
        }
    }

    /// That of one run of a call behind layers, of which there may be more within an attempt: what it publishes is
    /// counted from the beginning, it commits by itself, and has the same id.
    pub(crate) fn of_run(call: &Arc<Shared>, may_have_run: bool) -> Self {
        let context = &call.context;
        let origin = context.origin.as_deref();
        let mut attempt = context.attempt;
        attempt.may_have_run |= may_have_run;
        Self {
            inner: context.inner.clone(),
            id: Id::OfCall(Arc::clone(call).into()),
            headers: context.headers.clone(),
            attempt,
            deadline: context.deadline,
            origin: origin.map(|origin| Arc::new(origin.again()).into()),
        }
    }

    /// The origin, to be kept beyond the call.
    pub(crate) fn origin_arc(&self) -> Option<Arc<Origin>> {
        self.origin.as_ref().map(Hidden::to_arc)
    }

    /// What stays the same over all attempts; `None` where there is but one.
    pub(crate) fn origin(&self) -> Option<&Origin> {
        self.origin.as_deref()
    }

    /// The origin, where the message is claimed by this handler.
    pub(crate) fn claimed_origin(&self) -> Option<&Hidden<Origin>> {
        self.origin.as_ref().filter(|origin| origin.is_claimed())
    }

    /// The id of the message. One that came without (QoS 0, a direct call) gets one at the first look.
    #[must_use]
    pub fn id(&self) -> MessageId {
        *self.id.cell().get_or_init(MessageId::new)
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

    /// A key for effects outside of Catga (a payment, an e-mail): the same at every attempt of this handler at
    /// this message, and another for every other handler and message. A service that does one thing per
    /// key ([Idempotency-Key](https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/)) does it once.
    ///
    /// At QoS 0, and for a request without a retry, there is but one attempt, and the key is the message's id.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        match &self.origin {
            Some(origin) => origin.key(self.node()).to_string(),
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

    /// The store that handlers commit to with [`Commit`](crate::Commit): to read what was committed.
    #[must_use]
    pub fn commit_store<S: CommitStore>(&self) -> Option<&S> {
        self.inner.commit_store()
    }

    /// Publishes an event, as the type's QoS says.
    ///
    /// # Errors
    /// As [`Catga::publish`](crate::Catga::publish).
    ///
    /// # Cancel safety
    /// As [`Catga::publish`](crate::Catga::publish).
    pub async fn publish<E: Event>(&self, event: E) -> Result<(), Error> {
        self.message(event).publish().await.map(drop)
    }

    /// Publishes many events: as [`Catga::publish_many`](crate::Catga::publish_many).
    ///
    /// # Cancel safety
    /// As [`Catga::publish`](crate::Catga::publish), for each of them.
    pub async fn publish_many<E: Event>(
        &self,
        events: impl IntoIterator<Item = E>,
    ) -> Vec<Result<(), Error>> {
        let events = events.into_iter().map(Envelope::without_id).collect();
        self.inner.publish_many(events, Some(self)).await
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
        self.inner.to_arc().send(request, Some(self)).await
    }

    /// Publishes an envelope that an error gave back, with the id that it has: to publish the event itself again
    /// within one attempt would be a second message.
    ///
    /// # Errors
    /// As [`Catga::publish`](crate::Catga::publish).
    ///
    /// # Cancel safety
    /// As [`Catga::publish`](crate::Catga::publish).
    pub async fn republish(&self, mut envelope: Envelope) -> Result<Published, Error> {
        self.inner.publish(&mut envelope, Some(self)).await
    }

    /// A request with an id, headers or a node of the caller's choice.
    pub fn request<R: Request>(&self, request: R) -> RequestBuilder<'_, R> {
        RequestBuilder::new(self.inner.to_arc(), Some(self), request)
    }

    /// Sends a request to one node.
    ///
    /// # Errors
    /// As [`Catga::send_to`](crate::Catga::send_to).
    ///
    /// # Cancel safety
    /// As [`Catga::send`](crate::Catga::send).
    pub async fn send_to<R: Request>(&self, node: &str, request: R) -> Result<R::Response, Error> {
        self.inner.to_arc().send_to(node, request, Some(self)).await
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
        let id = match &self.id {
            // Drawn now, so that both have the same id.
            Id::Own(_) => Id::Own(OnceLock::from(self.id())),
            Id::OfCall(call) => Id::OfCall(call.clone()),
        };
        Self {
            inner: self.inner.clone(),
            id,
            headers: self.headers.clone(),
            attempt: self.attempt,
            deadline: self.deadline,
            origin: self.origin.clone(),
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("id", &self.id.cell().get())
            .field("headers", &self.headers)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
