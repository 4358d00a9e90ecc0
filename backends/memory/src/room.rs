//! How much of a log is taken: asked by publishers, without the log's task.

use std::sync::Arc;

use crate::sync::atomic::{AtomicUsize, Ordering};

/// The places of a log. Each message has one from its publish until the log has done with it, so that what was
/// accepted and is on its way to the log counts, too.
#[derive(Debug)]
pub(crate) struct Room {
    capacity: usize,
    taken: AtomicUsize,
    queued: AtomicUsize,
}

impl Room {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            taken: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
        }
    }

    /// Takes a place for a message that may go past the queue: when nobody waits in it.
    pub(crate) fn try_pass(&self) -> bool {
        self.queued.load(Ordering::SeqCst) == 0 && self.try_take()
    }

    /// Takes a place if there is one.
    pub(crate) fn try_take(&self) -> bool {
        let one_more = |taken| (taken < self.capacity).then_some(taken + 1);
        self.taken
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more)
            .is_ok()
    }

    /// Takes a place that there may not be, of a log that makes room by itself.
    pub(crate) fn take(&self) {
        self.taken.fetch_add(1, Ordering::SeqCst);
    }

    /// Gives places back.
    pub(crate) fn free(&self, places: usize) {
        if places > 0 {
            self.taken.fetch_sub(places, Ordering::SeqCst);
        }
    }
}

/// A publish that waits for the log: nobody overtakes it until this is dropped.
#[derive(Debug)]
pub(crate) struct Queued(Arc<Room>);

impl Queued {
    pub(crate) fn new(room: &Arc<Room>) -> Self {
        room.queued.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(room))
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Ordering::SeqCst);
    }
}
