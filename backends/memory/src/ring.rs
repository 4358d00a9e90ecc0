//! QoS 0: a bounded ring per subscription.

use std::sync::Arc;

use catga_core::{
    Delivery, Envelope, Error, Name, StatsReader, Subscription, SubscriptionStats, async_trait,
};
use tokio::select;
use tokio::sync::oneshot;
use tokio::task::consume_budget;

use crate::bus::Connection;
use crate::error;
use crate::keeper::Command;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{ArrayQueue, Notify};

/// What waits for one subscription; when it is full the oldest goes.
#[derive(Debug)]
pub(crate) struct Ring {
    queue: ArrayQueue<Envelope>,
    ready: Notify,
    dropped: AtomicU64,
}

impl Ring {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            queue: ArrayQueue::new(size),
            ready: Notify::new(),
            dropped: AtomicU64::new(0),
        }
    }

    pub(crate) fn push(&self, envelope: Envelope) {
        if self.queue.force_push(envelope).is_some() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.ready.notify_one();
    }

    pub(crate) fn pop(&self) -> Option<Envelope> {
        self.queue.pop()
    }

    /// Waits for a push, or goes on at once when there was one since the last wait.
    pub(crate) async fn filled(&self) {
        self.ready.notified().await;
    }

    /// Drops what nobody takes any more, and counts it.
    pub(crate) fn drop_rest(&self) {
        while self.queue.pop().is_some() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Who gets a message. A value of the table that publishers read: changed by making a new one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Topic {
    /// Rings that get each message.
    everyone: Vec<Arc<Ring>>,
    groups: Vec<Group>,
}

#[derive(Clone, Debug)]
struct Group {
    name: Name,
    members: Vec<Arc<Ring>>,
    /// Shared with the tables before and after this one, so that a change does not start the round anew.
    next: Arc<AtomicUsize>,
}

impl Group {
    fn pick(&self) -> Option<&Arc<Ring>> {
        match self.members.as_slice() {
            [] => None,
            [only] => Some(only),
            members => members.get(self.next.fetch_add(1, Ordering::Relaxed) % members.len()),
        }
    }
}

impl Topic {
    /// The last ring gets the message itself: where it is the only one, its handler shares the value
    /// with nobody.
    pub(crate) fn publish(&self, envelope: &mut Envelope) {
        let picked = self.groups.iter().filter_map(Group::pick);
        let mut rings = self.everyone.iter().chain(picked).peekable();
        while let Some(ring) = rings.next() {
            if rings.peek().is_some() {
                ring.push(envelope.clone());
            } else {
                ring.push(envelope.take());
            }
        }
    }

    /// Adds a ring: to a group, or to those that get everything.
    pub(crate) fn join(&mut self, group: Option<&Name>, ring: Arc<Ring>) {
        let Some(name) = group else {
            self.everyone.push(ring);
            return;
        };
        match self.groups.iter_mut().find(|group| group.name == *name) {
            Some(group) => group.members.push(ring),
            None => self.groups.push(Group {
                name: name.clone(),
                members: vec![ring],
                next: Arc::default(),
            }),
        }
    }

    pub(crate) fn leave(&mut self, ring: &Arc<Ring>) {
        let stays = |other: &Arc<Ring>| !Arc::ptr_eq(other, ring);
        self.everyone.retain(stays);
        for group in &mut self.groups {
            group.members.retain(stays);
        }
        self.groups.retain(|group| !group.members.is_empty());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.everyone.is_empty() && self.groups.is_empty()
    }

    /// A member of a group, in turn.
    pub(crate) fn member(&self, group: &Name) -> Option<&Arc<Ring>> {
        self.groups
            .iter()
            .find(|other| other.name == *group)
            .and_then(Group::pick)
    }
}

/// A subscription at QoS 0.
#[derive(Debug)]
pub(crate) struct RingSubscription {
    connection: Arc<Connection>,
    message: Name,
    group: Option<Name>,
    ring: Arc<Ring>,
    left: bool,
}

impl RingSubscription {
    /// Subscribes: when this returns, what is published goes into the ring.
    pub(crate) async fn join(
        connection: Arc<Connection>,
        message: Name,
        group: Option<Name>,
    ) -> Result<Self, Error> {
        let ring = Arc::new(Ring::new(connection.bus.settings.ring));
        // Made before the ring is in the table, so that a caller who gives up half-way leaves it.
        let this = Self {
            connection,
            message,
            group,
            ring,
            left: false,
        };
        this.connection
            .bus
            .ask("subscribe", |reply| Command::Join {
                message: this.message.clone(),
                group: this.group.clone(),
                ring: Arc::clone(&this.ring),
                reply,
            })
            .await?;
        Ok(this)
    }

    /// Leaves the table once; the receiver hears when that is done.
    fn leave(&mut self) -> Option<oneshot::Receiver<()>> {
        if std::mem::replace(&mut self.left, true) {
            return None;
        }
        let (reply, done) = oneshot::channel();
        let leave = Command::Leave {
            message: self.message.clone(),
            group: self.group.clone(),
            ring: Arc::clone(&self.ring),
            reply,
        };
        // A bus whose tasks are gone has no table to leave.
        self.connection.bus.keeper.send(leave).ok().map(|()| done)
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
            into.extend(
                std::iter::from_fn(|| self.ring.pop())
                    .take(max.max(1))
                    .map(Delivery::unacknowledged),
            );
            if into.len() > before {
                return Ok(());
            }
            if self.connection.bus.is_dead() {
                return Err(error::gone("receive"));
            }
            select! {
                biased;
                () = self.connection.closed.raised() => {}
                () = self.connection.bus.keeper.closed() => {}
                () = self.ring.filled() => {}
            }
        }
    }

    async fn close(&mut self) -> Result<(), Error> {
        if let Some(done) = self.leave() {
            // An error means that the bus is gone, and with it what could be left.
            let _ = done.await;
        }
        Ok(())
    }

    /// Nothing is held at QoS 0: a delivery is done with when it is handed out.
    fn set_max_in_flight(&mut self, _max_in_flight: usize) {}

    fn stats_reader(&self) -> StatsReader {
        let ring = Arc::clone(&self.ring);
        StatsReader::new(move || {
            let dropped = ring.dropped();
            SubscriptionStats::new(dropped, Some(ring.queue.len() as u64))
        })
    }
}

impl Drop for RingSubscription {
    fn drop(&mut self) {
        self.leave();
    }
}
