//! How many deliveries a member holds.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use crossbeam_queue::SegQueue;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::closed::Closed;
use crate::deferred::Deferred;

/// Counts what was handed out and is not settled yet.
#[derive(Debug, Default)]
pub(crate) struct Room {
    held: AtomicUsize,
    freed: Notify,
    /// When the leases end of what was dropped unsettled: the server holds it until then.
    abandoned: SegQueue<Instant>,
    /// How many messages wait here that were put off.
    deferred: AtomicUsize,
    /// Those that are due.
    due: SegQueue<Deferred>,
    came_due: Notify,
    /// Nobody receives any more.
    left: Closed,
}

impl Room {
    /// Takes a place.
    pub(crate) fn take(self: &Arc<Self>) -> Place {
        self.held.fetch_add(1, Ordering::SeqCst);
        Place(Arc::clone(self))
    }

    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    /// The end of a lease whose delivery was dropped, told once: then its place is to be [freed](Self::free).
    pub(crate) fn abandoned(&self) -> Option<Instant> {
        self.abandoned.pop()
    }

    pub(crate) fn free(&self) {
        self.held.fetch_sub(1, Ordering::SeqCst);
        self.freed.notify_one();
    }

    pub(crate) fn deferred(&self) -> usize {
        self.deferred.load(Ordering::SeqCst)
    }

    /// Counts a message that is put off, until the value is dropped.
    pub(crate) fn defer(self: &Arc<Self>) -> PutOff {
        self.deferred.fetch_add(1, Ordering::SeqCst);
        PutOff(Arc::downgrade(self))
    }

    pub(crate) fn return_deferred(&self, deferred: Deferred) {
        self.due.push(deferred);
        self.came_due.notify_one();
    }

    /// A message that was put off, and is due.
    pub(crate) fn next_due(&self) -> Option<Deferred> {
        self.due.pop()
    }

    /// Waits until one is due, or is no more. One that came due since the last wait counts.
    pub(crate) async fn came_due(&self) {
        self.came_due.notified().await;
    }

    /// Says that nobody receives any more.
    pub(crate) fn leave(&self) {
        self.left.raise();
    }

    pub(crate) fn is_left(&self) -> bool {
        self.left.is_raised()
    }

    /// Waits until nobody receives any more.
    pub(crate) async fn left(&self) {
        self.left.raised().await;
    }

    /// Waits until a place is freed. One that was freed since the last wait counts.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }
}

/// The place of one delivery, freed when it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Room>);

/// One message that is put off; it may lie in the room itself.
#[derive(Debug)]
pub(crate) struct PutOff(Weak<Room>);

impl Drop for PutOff {
    fn drop(&mut self) {
        if let Some(room) = self.0.upgrade() {
            room.deferred.fetch_sub(1, Ordering::SeqCst);
            room.came_due.notify_one();
        }
    }
}

impl Place {
    pub(crate) fn room(&self) -> &Arc<Room> {
        &self.0
    }

    /// Keeps the place until then.
    pub(crate) fn abandon(self, until: Instant) {
        self.0.abandoned.push(until);
        // Freed when its room looks: this one counts meanwhile.
        self.0.held.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.free();
    }
}
