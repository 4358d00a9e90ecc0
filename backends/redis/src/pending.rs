//! What was said to be done, and is still on its way: a close waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Counts acks that are queued, and settlements that run.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    open: AtomicUsize,
    ended: Notify,
}

/// One that is on its way, until it is dropped.
#[derive(Debug)]
pub(crate) struct Underway(Arc<Pending>);

impl Pending {
    /// One more, until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Underway {
        self.add();
        Underway(Arc::clone(self))
    }

    /// One more, until so many are [done](Self::done).
    pub(crate) fn add(&self) {
        self.open.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn done(&self, number: usize) {
        if self.open.fetch_sub(number, Ordering::SeqCst) == number {
            self.ended.notify_waiters();
        }
    }

    /// Waits until nothing is on its way; whether that was in time.
    pub(crate) async fn ended(&self, by: Instant) -> bool {
        let ended = async {
            loop {
                // Made before it is asked: what ends between the two still wakes it.
                let ended = self.ended.notified();
                if self.open.load(Ordering::SeqCst) == 0 {
                    return;
                }
                ended.await;
            }
        };
        timeout_at(by, ended).await.is_ok()
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.done(1);
    }
}
