//! Moving messages in this process.

use std::sync::Arc;
use std::time::Duration;

use catga_core::{
    Capabilities, Capability, ConnectionState, Consumers, Envelope, Error, Published, QoS, Reply,
    Serve, Subscribe, Subscription, Target, Transport, async_trait,
};
use tokio::sync::mpsc::error::{SendError, TrySendError};
use tokio::sync::oneshot;
use tokio::task::{consume_budget, yield_now};
use tokio::time::{Instant, timeout_at};

use crate::bus::Connection;
use crate::desk::{Command, Job};
use crate::error;
use crate::ring::RingSubscription;
use crate::room::{Queued, Room};
use crate::serve::ServeSubscription;
use crate::stream::Publish;
use crate::subscription::LogSubscription;
use crate::timer::{FAR, from_now};
use crate::window::Print;

/// What this backend can do.
pub(crate) const CAPABILITIES: &[Capability] = &[
    Capability::AtMostOnce,
    Capability::AtLeastOnce,
    Capability::ExactlyOnce,
    Capability::Groups,
    Capability::EachNode,
    Capability::Ordered,
    Capability::DelayedNak,
    Capability::UncountedRelease,
    Capability::Requests,
    Capability::Inbox,
    Capability::Nodes,
    Capability::FusedDeadLetter,
    Capability::TypedPayload,
];

/// How often who publishes into a crowded log lets the others run before it goes on.
const PATIENCE: u32 = 16;

/// A connection's transport.
#[derive(Debug)]
pub(crate) struct MemoryTransport {
    connection: Arc<Connection>,
}

/// A publish that a log has not accepted yet.
type Accepting = oneshot::Receiver<Published>;

impl MemoryTransport {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self { connection }
    }

    /// Checks what can be wrong on our side.
    fn check(&self, operation: &'static str, envelope: &Envelope) -> Result<(), Error> {
        self.connection.check_open(operation)?;
        let max = self.connection.bus.settings.max_payload;
        let size = envelope.size_bytes();
        if size > max {
            return Err(error::too_large(operation, envelope.name(), size, max));
        }
        Ok(())
    }

    /// QoS 0: into the rings of whoever subscribes now.
    fn spread(&self, envelope: &mut Envelope) {
        let topics = self.connection.bus.tables.topics.load();
        if let Some(topic) = topics.get(envelope.name()) {
            topic.publish(envelope);
        }
    }

    /// QoS 1 and 2, first half: queues the message at its log.
    async fn send(&self, envelope: &mut Envelope, by: Instant) -> Result<Accepting, Error> {
        if envelope.qos() == QoS::ExactlyOnce {
            // Whoever publishes it again does so under this id.
            envelope.id_or_new();
        }
        let bus = &self.connection.bus;
        let stream = bus.stream("publish", envelope.name()).await?;
        let (accepted, accepting) = oneshot::channel();
        let publish = Publish {
            print: Print::of(envelope),
            envelope: envelope.clone(),
            queued: Queued::new(&stream.room),
            accepted,
        };
        match stream.publishes.try_send(publish) {
            Ok(()) => Ok(accepting),
            Err(TrySendError::Closed(_)) => Err(error::gone("publish")),
            Err(TrySendError::Full(publish)) => {
                match timeout_at(by, stream.publishes.send(publish)).await {
                    Ok(Ok(())) => Ok(accepting),
                    Ok(Err(_)) => Err(error::gone("publish")),
                    Err(_) => Err(self.full(envelope)),
                }
            }
        }
    }

    /// QoS 1 and 2, second half: waits until the log took it. A publish that is given up here is not
    /// stored, neither now nor later: closing the channel and the log's answer exclude each other.
    async fn accepted(
        &self,
        envelope: &Envelope,
        mut accepting: Accepting,
        by: Instant,
    ) -> Result<Published, Error> {
        // Mostly it is there when the log had its turn: then there is no need for a timer.
        yield_now().await;
        if let Ok(published) = accepting.try_recv() {
            return Ok(published);
        }
        if let Ok(answer) = timeout_at(by, &mut accepting).await {
            answer.map_err(|_| error::gone("publish"))
        } else {
            accepting.close();
            accepting.try_recv().map_err(|_| self.full(envelope))
        }
    }

    fn full(&self, envelope: &Envelope) -> Error {
        error::log_full(envelope.name(), self.connection.bus.settings.capacity)
    }

    /// QoS 1: stored with a place in its log, in front of which nobody waits; not where that `waits`.
    fn store_at_once(
        &self,
        envelope: &mut Envelope,
        waits: fn(&Room) -> bool,
    ) -> Option<Result<Published, Error>> {
        let streams = self.connection.bus.tables.streams.load();
        let stream = streams.get(envelope.name())?;
        if waits(&stream.room) || !stream.room.try_pass() {
            return None;
        }
        let stored = stream.stored.send(envelope.take());
        Some(match stored {
            Ok(()) => Ok(Published::new()),
            Err(SendError(back)) => {
                *envelope = back;
                Err(error::gone("publish"))
            }
        })
    }

    /// QoS 1: lets the others run while the log is crowded, but not for ever: who handles its messages may be slow, or
    /// not there. `None` when there is no place, or the QoS is another.
    async fn wait_to_store(&self, envelope: &mut Envelope) -> Option<Result<Published, Error>> {
        if envelope.qos() != QoS::AtLeastOnce {
            return None;
        }
        for _ in 0..PATIENCE {
            yield_now().await;
            if let Some(published) = self.store_at_once(envelope, Room::is_crowded) {
                return Some(published);
            }
        }
        self.store_at_once(envelope, |_| false)
    }

    async fn store(&self, envelope: &mut Envelope, by: Instant) -> Result<Published, Error> {
        if let Some(published) = self.wait_to_store(envelope).await {
            return published;
        }
        let accepting = self.send(envelope, by).await?;
        self.accepted(envelope, accepting, by).await
    }
}

#[async_trait]
impl Transport for MemoryTransport {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
            .iter()
            .copied()
            .collect::<Capabilities>()
            .with_max_payload_bytes(self.connection.bus.settings.max_payload)
    }

    fn state(&self) -> ConnectionState {
        if self.connection.closed.is_raised() || self.connection.bus.is_dead() {
            ConnectionState::Closed
        } else {
            ConnectionState::Connected
        }
    }

    async fn publish(
        &self,
        envelope: &mut Envelope,
        deadline: Duration,
    ) -> Result<Published, Error> {
        match self.try_publish(envelope) {
            Some(published) => {
                // Without it a loop of publishes would never let a consumer on the same thread run.
                consume_budget().await;
                published
            }
            None => self.store(envelope, from_now(deadline)).await,
        }
    }

    fn try_publish(&self, envelope: &mut Envelope) -> Option<Result<Published, Error>> {
        if let Err(error) = self.check("publish", envelope) {
            return Some(Err(error));
        }
        match envelope.qos() {
            QoS::AtMostOnce => {
                self.spread(envelope);
                Some(Ok(Published::new()))
            }
            QoS::AtLeastOnce => self.store_at_once(envelope, Room::is_crowded),
            // Whether the log knows it is to be heard from the log.
            QoS::ExactlyOnce => None,
        }
    }

    async fn publish_many(
        &self,
        envelopes: &mut [Envelope],
        deadline: Duration,
    ) -> Vec<Result<Published, Error>> {
        let by = from_now(deadline);
        let mut sent = Vec::with_capacity(envelopes.len());
        for envelope in envelopes.iter_mut() {
            sent.push(match self.try_publish(envelope) {
                Some(published) => {
                    consume_budget().await;
                    Err(published)
                }
                None => match self.wait_to_store(envelope).await {
                    Some(published) => Err(published),
                    None => self.send(envelope, by).await.map_err(Err),
                },
            });
        }
        let mut outcomes = Vec::with_capacity(envelopes.len());
        for (envelope, sent) in envelopes.iter().zip(sent) {
            outcomes.push(match sent {
                Ok(accepting) => self.accepted(envelope, accepting, by).await,
                Err(ended) => ended,
            });
        }
        outcomes
    }

    async fn subscribe(&self, subscribe: &Subscribe) -> Result<Box<dyn Subscription>, Error> {
        self.connection.check_open("subscribe")?;
        let connection = Arc::clone(&self.connection);
        let message = subscribe.message.clone();
        match subscribe.qos {
            QoS::AtMostOnce => {
                if subscribe.ordered.is_some() {
                    return Err(error::ordered_at_qos_0(&message));
                }
                let group = match &subscribe.consumers {
                    Consumers::Group(group) => Some(group.clone()),
                    // Everybody gets everything; at QoS 0 no state tells a node's subscriptions apart.
                    _ => None,
                };
                let joined = RingSubscription::join(connection, message, group).await?;
                Ok(Box::new(joined))
            }
            QoS::AtLeastOnce | QoS::ExactlyOnce => {
                let stream = connection.bus.stream("subscribe", &message).await?;
                let joined = LogSubscription::join(connection, stream, subscribe).await?;
                Ok(Box::new(joined))
            }
        }
    }

    async fn serve(&self, serve: &Serve) -> Result<Box<dyn Subscription>, Error> {
        self.connection.check_open("serve")?;
        let connection = Arc::clone(&self.connection);
        let desk = connection.bus.desk("serve", &serve.request).await?;
        let joined = ServeSubscription::join(connection, desk, serve).await?;
        Ok(Box::new(joined))
    }

    async fn request(
        &self,
        to: &Target,
        envelope: &Envelope,
        attempt: u32,
        time_left: Option<Duration>,
    ) -> Result<Reply, Error> {
        self.check("request", envelope)?;
        let name = envelope.name();
        let desk = self.connection.bus.tables.desks.load().get(name).cloned();
        let desk = desk.ok_or_else(|| error::no_responders(name, to))?;
        let limit = time_left.unwrap_or(FAR);
        let deadline = from_now(limit);
        let (reply, answer) = oneshot::channel();
        let job = Job {
            // What a server in another process would see.
            envelope: envelope.clone().without_value(),
            to: to.clone(),
            attempt,
            deadline,
            bounded: time_left.is_some(),
            started: false,
            reply,
        };
        let answer = timeout_at(deadline, async {
            let sent = desk.commands.send(Command::Request(job)).await;
            sent.map_err(|_| error::gone("request"))?;
            // Only a desk that ended, or found the deadline over, drops a request without an answer.
            let gone = || error::gone("request").with_unknown_outcome();
            answer.await.map_err(|_| {
                if desk.commands.is_closed() {
                    gone()
                } else {
                    error::request_timeout(name, limit)
                }
            })?
        });
        answer
            .await
            .unwrap_or_else(|_| Err(error::request_timeout(name, limit)))
    }

    async fn flush(&self) -> Result<(), Error> {
        // What was handed over is where it belongs: nothing leaves this process.
        self.connection.check_open("flush")
    }

    async fn close(&self) -> Result<(), Error> {
        self.connection.closed.raise();
        Ok(())
    }
}
