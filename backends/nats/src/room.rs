//! How many deliveries a member holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts what was handed out and is not settled yet.
#[derive(Debug, Default)]
pub(crate) struct Room {
    held: AtomicUsize,
    freed: Notify,
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

    /// Waits until a place is freed. One that was freed since the last wait counts.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }
}

/// The place of one delivery, freed when it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Room>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::SeqCst);
        self.0.freed.notify_one();
    }
}
