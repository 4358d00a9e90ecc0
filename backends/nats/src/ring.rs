//! QoS 0: a core subscription with a bounded ring behind it.
//!
//! The client drops what its own queue has no room for, the newest, and does not say how much. Here a task empties that
//! queue into a ring, where the oldest goes and is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::{HeaderMap, Message, Subscriber};
use catga_core::{
    Bytes, Consumers, Delivery, Error, Name, QoS, StatsReader, Subscribe, Subscription,
    SubscriptionStats, async_trait,
};
use crossbeam_queue::ArrayQueue;
use futures_util::{FutureExt, StreamExt};
use tokio::select;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, consume_budget, unconstrained};

use crate::connection::Connection;
use crate::names::Member;
use crate::{error, wire};

/// The most messages that go into a ring before somebody is woken.
const BATCH: usize = 64;

/// What a handler gets of a message: a quarter of its size, which is moved three times on the way.
#[derive(Debug)]
struct Arrived {
    headers: Option<Box<HeaderMap>>,
    payload: Bytes,
}

/// What waits for one subscription; when it is full the oldest goes.
#[derive(Debug)]
struct Ring {
    queue: ArrayQueue<Arrived>,
    ready: Notify,
    dropped: AtomicU64,
}

impl Ring {
    fn push(&self, message: Message) {
        let arrived = Arrived {
            headers: message.headers.map(Box::new),
            payload: message.payload,
        };
        if self.queue.force_push(arrived).is_some() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A subscription at QoS 0.
#[derive(Debug)]
pub(crate) struct RingSubscription {
    connection: Arc<Connection>,
    message: Name,
    ring: Arc<Ring>,
    filler: AbortHandle,
    left: bool,
}

impl RingSubscription {
    /// Subscribes: when this returns, what is published goes into the ring.
    pub(crate) async fn join(
        connection: Arc<Connection>,
        subscribe: &Subscribe,
    ) -> Result<Self, Error> {
        let message = subscribe.message.clone();
        let queue = match &subscribe.consumers {
            Consumers::EachNode { .. } => None,
            consumers => Some(Member::of(consumers).to_string()),
        };
        let subject = connection.names.event(&message);
        let subscriber = connection.subscribe("subscribe", subject, queue).await?;
        let ring = Arc::new(Ring {
            queue: ArrayQueue::new(connection.settings.ring),
            ready: Notify::new(),
            dropped: AtomicU64::new(0),
        });
        let filler = tokio::spawn(fill(subscriber, Arc::clone(&ring))).abort_handle();
        Ok(Self {
            connection,
            message,
            ring,
            filler,
            left: false,
        })
    }

    /// Ends the subscription. What waits is lost, and counts as dropped.
    fn leave(&mut self) {
        if std::mem::replace(&mut self.left, true) {
            return;
        }
        self.filler.abort();
        while self.ring.queue.pop().is_some() {
            self.ring.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn delivery(&self, arrived: Arrived) -> Delivery {
        Delivery::unacknowledged(wire::envelope(
            self.message.clone(),
            QoS::AtMostOnce,
            arrived.headers.as_deref(),
            arrived.payload,
        ))
    }
}

async fn fill(mut subscriber: Subscriber, ring: Arc<Ring>) {
    while let Some(message) = subscriber.next().await {
        ring.push(message);
        // What has come with it goes with it: to wake somebody costs more than to hand a message on.
        for _ in 1..BATCH {
            match unconstrained(subscriber.next()).now_or_never() {
                Some(Some(message)) => ring.push(message),
                _ => break,
            }
        }
        ring.ready.notify_one();
    }
}

#[async_trait]
impl Subscription for RingSubscription {
    async fn recv(&mut self, max: usize, into: &mut Vec<Delivery>) -> Result<(), Error> {
        // A full ring must not keep its consumer from yielding to the tasks beside it.
        consume_budget().await;
        loop {
            if self.left || self.connection.closed.is_raised() {
                self.leave();
                return Err(error::closed("receive"));
            }
            let before = into.len();
            let waiting = std::iter::from_fn(|| self.ring.queue.pop()).take(max.max(1));
            into.extend(waiting.map(|arrived| self.delivery(arrived)));
            if into.len() > before {
                return Ok(());
            }
            select! {
                biased;
                () = self.connection.closed.raised() => {}
                () = self.ring.ready.notified() => {}
            }
        }
    }

    async fn close(&mut self) -> Result<(), Error> {
        self.leave();
        Ok(())
    }

    /// Nobody settles what is handled at most once: no number of deliveries is held.
    fn set_max_in_flight(&mut self, _max_in_flight: usize) {}

    fn stats_reader(&self) -> StatsReader {
        let ring = Arc::clone(&self.ring);
        StatsReader::new(move || {
            let dropped = ring.dropped.load(Ordering::Relaxed);
            SubscriptionStats::new(dropped, Some(ring.queue.len() as u64))
        })
    }
}

impl Drop for RingSubscription {
    fn drop(&mut self) {
        self.leave();
    }
}
