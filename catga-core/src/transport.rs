//! Moving messages: the contract of a backend.

use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::{
    Capabilities, Delivery, Envelope, Error, Name, NodeId, QoS, Reply, Target, async_trait,
};

/// Publishes envelopes, subscribes, and carries requests: all that a broker must do.
///
/// # Behaviour
/// - `ok_means_stored`: at QoS 1 and 2 `publish` returns `Ok` when the broker confirmed storage.
/// - `rejected_or_unknown`: an error says whether the message may be stored
///   ([`Error::may_be_stored`]); one that says no is never delivered.
/// - `names_reach_the_wire_encoded`: no name can address what it does not mean.
/// - `unsupported_is_refused`: what the capabilities do not list gives
///   [`Unsupported`](crate::ErrorKind::Unsupported), never a lower guarantee.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a transport",
    label = "not a transport",
    note = "write `impl catga_core::Transport for {Self}`, with `#[catga_core::async_trait]`"
)]
#[async_trait]
pub trait Transport: Send + Sync + fmt::Debug + 'static {
    /// What this backend can do.
    fn capabilities(&self) -> Capabilities;

    /// Whether the backend can be used now.
    fn state(&self) -> ConnectionState;

    /// Publishes at the envelope's QoS. The payload is encoded unless the backend takes values
    /// ([`Capability::TypedPayload`](crate::Capability::TypedPayload)) and the QoS is 0. A publish that succeeds may
    /// [take](Envelope::take) the message, so that nobody else shares it; one that fails leaves the envelope as it was.
    /// Retries nothing; ends by `deadline`.
    ///
    /// # Errors
    /// Any, with [`Error::may_be_stored`] telling whether the message may arrive.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the outcome unknown; nothing else is disturbed.
    async fn publish(
        &self,
        envelope: &mut Envelope,
        deadline: Duration,
    ) -> Result<Published, Error>;

    /// As [`publish`](Self::publish), where nothing has to be waited for: no future is made. `None` says that nothing was
    /// done, and that `publish` is to be called. The caller lets other tasks run, as `publish` would. A backend that always
    /// has to wait leaves the default.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    fn try_publish(&self, envelope: &mut Envelope) -> Option<Result<Published, Error>> {
        let _ = envelope;
        None
    }

    /// Publishes many, pipelined where the backend can, by the one `deadline`; one outcome for each,
    /// in order.
    async fn publish_many(
        &self,
        envelopes: &mut [Envelope],
        deadline: Duration,
    ) -> Vec<Result<Published, Error>> {
        let mut outcomes = Vec::with_capacity(envelopes.len());
        let began = Instant::now();
        for envelope in envelopes {
            let left = deadline.saturating_sub(began.elapsed());
            outcomes.push(self.publish(envelope, left).await);
        }
        outcomes
    }

    /// Subscribes to one message. When this returns, the group exists: what is published from now on reaches it.
    async fn subscribe(&self, subscribe: &Subscribe) -> Result<Box<dyn Subscription>, Error>;

    /// Takes the requests of one name, as a node of its service. Each delivery is settled with a
    /// [`Completion`](crate::Completion) that has a response, or given back with `Release` or, after a delay, `Defer`: to another node
    /// where the backend can, else the caller gets a retryable error at once.
    async fn serve(&self, serve: &Serve) -> Result<Box<dyn Subscription>, Error>;

    /// Sends an encoded request and waits for its one reply, for as long as `time_left` says; `None`
    /// is for as long as it takes. `attempt` counts from 1.
    ///
    /// # Errors
    /// [`NoResponders`](crate::ErrorKind::NoResponders) at once when nobody is there;
    /// [`Timeout`](crate::ErrorKind::Timeout) after `time_left`; the request may have run.
    async fn request(
        &self,
        to: &Target,
        envelope: &Envelope,
        attempt: u32,
        time_left: Option<Duration>,
    ) -> Result<Reply, Error>;

    /// Waits until what was handed to the client (QoS 0, queued acks) has left this process.
    async fn flush(&self) -> Result<(), Error>;

    /// Flushes and closes. Later calls fail with [`Closed`](crate::ErrorKind::Closed).
    async fn close(&self) -> Result<(), Error>;
}

/// What the broker said to a publish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// Whether the broker had this id already and dropped this copy.
    pub duplicate: bool,
}

impl Published {
    /// Stored, or at QoS 0 handed on.
    #[must_use]
    pub const fn new() -> Self {
        Self { duplicate: false }
    }

    /// The broker had this id already.
    #[must_use]
    pub const fn duplicate() -> Self {
        Self { duplicate: true }
    }
}

/// Whether a backend can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionState {
    /// Connected.
    Connected,
    /// The connection was lost and is being made again.
    Reconnecting,
    /// Finishing what it has.
    Draining,
    /// Closed for good.
    Closed,
}

/// What to subscribe to, and how.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Subscribe {
    /// The message.
    pub message: Name,
    /// The guarantee.
    pub qos: QoS,
    /// Who shares the messages.
    pub consumers: Consumers,
    /// Where a group that is new begins.
    pub start: Start,
    /// How long a delivery may stay unsettled before it is redelivered.
    pub ack_wait: Duration,
    /// The most unsettled deliveries that this member holds.
    pub max_in_flight: usize,
    /// With a number of partitions, each is handled in order.
    pub ordered: Option<NonZeroU16>,
    /// How long an `each_node` member may be away before it is forgotten.
    pub absence: Duration,
    /// Whether the backend's own inbox is to be used at QoS 2. A backend that can claims each message as
    /// it hands it out ([`Delivery::is_claimed`]); without, the caller claims elsewhere.
    pub own_inbox: bool,
}

impl Subscribe {
    /// A subscription with the defaults: from the oldest, ack wait 30 s, 64 in flight, absence 24 h.
    #[must_use]
    pub fn new(message: Name, qos: QoS, consumers: Consumers) -> Self {
        Self {
            message,
            qos,
            consumers,
            start: Start::Oldest,
            ack_wait: Duration::from_secs(30),
            max_in_flight: 64,
            ordered: None,
            absence: Duration::from_secs(24 * 60 * 60),
            own_inbox: true,
        }
    }

    /// Sets where a group that is new begins.
    #[must_use]
    pub fn with_start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Sets how long a delivery may stay unsettled.
    #[must_use]
    pub fn with_ack_wait(mut self, ack_wait: Duration) -> Self {
        self.ack_wait = ack_wait;
        self
    }

    /// Sets the most unsettled deliveries that this member holds.
    #[must_use]
    pub fn with_max_in_flight(mut self, max_in_flight: usize) -> Self {
        self.max_in_flight = max_in_flight;
        self
    }

    /// Asks for order within each of so many partitions.
    #[must_use]
    pub fn with_ordered(mut self, partitions: Option<NonZeroU16>) -> Self {
        self.ordered = partitions;
        self
    }

    /// Sets whether the backend's own inbox is to be used.
    #[must_use]
    pub fn with_own_inbox(mut self, own_inbox: bool) -> Self {
        self.own_inbox = own_inbox;
        self
    }

    /// Sets how long an `each_node` member may be away.
    #[must_use]
    pub fn with_absence(mut self, absence: Duration) -> Self {
        self.absence = absence;
        self
    }
}

/// Who shares the messages of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consumers {
    /// Each message goes to one member of the group.
    Group(Name),
    /// Each node of the group gets every message.
    EachNode {
        /// The group that the nodes belong to.
        group: Name,
        /// This node.
        node: NodeId,
    },
}

impl Consumers {
    /// The group's name.
    #[must_use]
    pub fn group(&self) -> &Name {
        match self {
            Self::Group(group) | Self::EachNode { group, .. } => group,
        }
    }
}

/// Where a group that is new begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// At the oldest message that is retained.
    #[default]
    Oldest,
    /// At the next message.
    New,
}

/// Which requests to take.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Serve {
    /// The request's name.
    pub request: Name,
    /// The service whose nodes share the requests.
    pub service: Name,
    /// This node, which also takes what is sent to it by name.
    pub node: NodeId,
    /// The most requests that this node holds unanswered.
    pub max_in_flight: usize,
}

impl Serve {
    /// Takes `request` as `node` of `service`, 64 at a time.
    #[must_use]
    pub fn new(request: Name, service: Name, node: NodeId) -> Self {
        Self {
            request,
            service,
            node,
            max_in_flight: 64,
        }
    }

    /// Sets the most requests that this node holds unanswered.
    #[must_use]
    pub fn with_max_in_flight(mut self, max_in_flight: usize) -> Self {
        self.max_in_flight = max_in_flight;
        self
    }
}

/// Deliveries, in batches.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a subscription",
    label = "not a subscription",
    note = "write `impl catga_core::Subscription for {Self}`, with `#[catga_core::async_trait]`"
)]
#[async_trait]
pub trait Subscription: Send + fmt::Debug {
    /// Waits for messages and puts between 1 and `max` of them into `into`.
    ///
    /// # Errors
    /// [`Closed`](crate::ErrorKind::Closed) when there will be no more; any other error is passing, and the
    /// next call goes on.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing that is acknowledged: what was fetched comes with the next
    /// call or goes back to the group.
    async fn recv(&mut self, max: usize, into: &mut Vec<Delivery>) -> Result<(), Error>;

    /// Stops: nothing more is fetched, and what was fetched but not received goes back to the
    /// group at once. Deliveries that are out can still be settled.
    async fn close(&mut self) -> Result<(), Error>;

    /// Sets the most deliveries that this member holds unsettled from now on: the handler's concurrency
    /// changed. Deliveries that are out stay out.
    fn set_max_in_flight(&mut self, max_in_flight: usize);

    /// What the subscription counted.
    fn stats(&self) -> SubscriptionStats {
        self.stats_reader().read()
    }

    /// The way to what the subscription counts, for who does not hold it: also while it receives, and after
    /// it was closed.
    fn stats_reader(&self) -> StatsReader;
}

/// Reads what a subscription counted.
#[derive(Clone)]
pub struct StatsReader(Arc<dyn Fn() -> SubscriptionStats + Send + Sync>);

impl StatsReader {
    /// A reader, which is not to hold the subscription itself.
    #[must_use]
    pub fn new(read: impl Fn() -> SubscriptionStats + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// What was counted up to now.
    #[must_use]
    pub fn read(&self) -> SubscriptionStats {
        (self.0)()
    }
}

impl fmt::Debug for StatsReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StatsReader").field(&self.read()).finish()
    }
}

/// What a subscription counted since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriptionStats {
    /// QoS 0 messages that were dropped because this subscription was too slow.
    pub dropped: u64,
    /// Messages that wait for this subscription, where the backend can tell.
    pub waiting: Option<u64>,
    /// QoS 2 messages that the backend's own inbox knew as handled, and that were acked unseen.
    pub duplicates: u64,
}

impl SubscriptionStats {
    /// Nothing dropped, nothing known to wait.
    #[must_use]
    pub fn new(dropped: u64, waiting: Option<u64>) -> Self {
        Self {
            dropped,
            waiting,
            duplicates: 0,
        }
    }

    /// Sets how many duplicates were suppressed.
    #[must_use]
    pub fn with_duplicates(mut self, duplicates: u64) -> Self {
        self.duplicates = duplicates;
        self
    }
}
