//! Moving messages by files.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use catga_core::{
    Bytes, Capabilities, Capability, ConnectionState, Consumers, Envelope, Error, Published, QoS,
    Reply, Serve, Subscribe, Subscription, Target, Transport, async_trait,
};
use tokio::time::timeout;

use crate::disk::{Draft, now};
use crate::error;
use crate::message;
use crate::options::Bug;
use crate::store::{Store, on_disk};
use crate::subscription::FileSubscription;
use crate::topic::Topic;

/// What this backend can do.
pub(crate) const CAPABILITIES: &[Capability] = &[
    Capability::AtLeastOnce,
    Capability::Groups,
    Capability::DelayedNak,
    Capability::UncountedRelease,
    Capability::Persistent,
    Capability::FusedDeadLetter,
];

/// A connection's transport.
#[derive(Debug)]
pub(crate) struct FileTransport {
    store: Arc<Store>,
    /// The number of the newest message, so that the next one sorts behind it whatever the clock says.
    newest: AtomicU64,
    published: AtomicU64,
}

impl FileTransport {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            newest: AtomicU64::new(0),
            published: AtomicU64::new(0),
        }
    }

    fn next_number(&self) -> u64 {
        let now = now();
        let next = |newest: u64| now.max(newest.saturating_add(1));
        let newest = self
            .newest
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(next(n)));
        next(newest.unwrap_or_else(|newest| newest))
    }

    /// The bytes to be stored, when nothing is wrong on our side.
    fn check(&self, envelope: &Envelope) -> Result<Bytes, Error> {
        self.store.check_open("publish")?;
        check_qos("publish", envelope.qos())?;
        let (size, max) = (envelope.size_bytes(), self.store.options.max_payload);
        if size > max {
            return Err(error::too_large(envelope.name(), size, max));
        }
        let payload = envelope.payload().as_bytes().cloned();
        payload.ok_or_else(|| error::unsupported("publish", Capability::TypedPayload))
    }
}

fn check_qos(operation: &'static str, qos: QoS) -> Result<(), Error> {
    match qos {
        QoS::AtLeastOnce => Ok(()),
        QoS::ExactlyOnce => Err(error::unsupported(operation, Capability::ExactlyOnce)),
        QoS::AtMostOnce => Err(error::unsupported(operation, Capability::AtMostOnce)),
    }
}

/// Stores a message. Before it is kept an error rejects it; afterwards some groups may have it.
fn publish(topic: &Arc<Topic>, head: &[u8], payload: &[u8], number: u64) -> Result<(), Error> {
    let store = &topic.store;
    let rejected = store.failed("publish");
    topic.create().map_err(&rejected)?;
    if !topic.has_room().map_err(&rejected)? {
        return Err(error::full(&topic.name, store.options.max_messages));
    }
    let message = Draft::write(&store.drafts(), &[head, payload], store.options.sync);
    let message = message.map_err(&rejected)?;
    let number = topic.keep(&message, number).map_err(&rejected)?;
    let handed_on = topic.hand_on(message, number);
    handed_on.map_err(|error| rejected(error).with_unknown_outcome())
}

#[async_trait]
impl Transport for FileTransport {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
            .iter()
            .copied()
            .collect::<Capabilities>()
            .with_max_payload_bytes(self.store.options.max_payload)
    }

    fn state(&self) -> ConnectionState {
        if self.store.is_closed() {
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
        let payload = self.check(envelope)?;
        let head = message::head(envelope).map_err(self.store.failed("publish"))?;
        let topic = self.store.topic(envelope.name());
        let number = self.next_number();
        // Planted bug: acknowledged and thrown away.
        let bug = self.store.options.bug == Some(Bug::SkipEvery100th);
        if bug && self.published.fetch_add(1, Ordering::Relaxed) % 100 == 99 {
            return Ok(Published::new());
        }
        let publish = on_disk("publish", move || publish(&topic, &head, &payload, number));
        match timeout(deadline, publish).await {
            Ok(outcome) => outcome.map(|()| Published::new()),
            Err(_) => Err(error::timeout(envelope.name())),
        }
    }

    async fn subscribe(&self, subscribe: &Subscribe) -> Result<Box<dyn Subscription>, Error> {
        self.store.check_open("subscribe")?;
        check_qos("subscribe", subscribe.qos)?;
        if subscribe.ordered.is_some() {
            return Err(error::unsupported("subscribe", Capability::Ordered));
        }
        let Consumers::Group(group) = subscribe.consumers.clone() else {
            return Err(error::unsupported("subscribe", Capability::EachNode));
        };
        let (topic, start) = (self.store.topic(&subscribe.message), subscribe.start);
        let join = move || {
            let joined = topic.join(group, start);
            joined.map_err(topic.store.failed("subscribe"))
        };
        let group = on_disk("subscribe", join).await?;
        Ok(Box::new(FileSubscription::new(group, subscribe)))
    }

    async fn serve(&self, _serve: &Serve) -> Result<Box<dyn Subscription>, Error> {
        Err(error::unsupported("serve", Capability::Requests))
    }

    async fn request(
        &self,
        _to: &Target,
        _envelope: &Envelope,
        _attempt: u32,
        _time_left: Option<Duration>,
    ) -> Result<Reply, Error> {
        Err(error::unsupported("request", Capability::Requests))
    }

    async fn flush(&self) -> Result<(), Error> {
        // Nothing is queued: what was published or settled is in the folder.
        self.store.check_open("flush")
    }

    async fn close(&self) -> Result<(), Error> {
        self.store.close();
        Ok(())
    }
}
