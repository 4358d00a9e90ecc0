//! The end of a connection, seen by everything that came from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// A flag that can be raised once, asked cheaply and waited for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Closed(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    raised: AtomicBool,
    changed: Notify,
}

impl Closed {
    pub(crate) fn raise(&self) {
        self.0.raised.store(true, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.0.raised.load(Ordering::SeqCst)
    }

    /// Waits until the flag is raised.
    pub(crate) async fn raised(&self) {
        loop {
            // Made before the flag is read: a `raise` between the two still wakes it.
            let changed = self.0.changed.notified();
            if self.is_raised() {
                return;
            }
            changed.await;
        }
    }
}
