//! How many deliveries a member holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_queue::SegQueue;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Counts what was handed out and is not settled yet.
#[derive(Debug, Default)]
pub(crate) struct Room {
    held: AtomicUsize,
    freed: Notify,
    /// Wakes who fetches, as `freed` wakes who receives.
    pub(crate) fetch: Notify,
    /// When the leases end of what was dropped unsettled: the server holds it until then.
    abandoned: SegQueue<Instant>,
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
        self.fetch.notify_one();
    }

    /// Waits until a place is freed. One that was freed since the last wait counts.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }
}

/// The place of one delivery, freed when it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Room>);

impl Place {
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
