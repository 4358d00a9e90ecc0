//! One value for many tasks, lent for as long as a poll takes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Wake, Waker, ready};

use tokio::sync::futures::OwnedNotified;

use crate::sync::atomic::{AtomicBool, Ordering, fence};
use crate::sync::{AtomicCell, Notify};

/// A value for many tasks, none of which keeps it for longer than a poll or a call: one that goes away is in
/// nobody's way.
pub(crate) struct Lent<T> {
    /// Empty only while somebody uses the value. In a box, since one word can be swapped at once.
    value: AtomicCell<Option<Box<T>>>,
    /// Whether somebody came while it was empty, and wants to be woken.
    missed: AtomicBool,
    changed: Arc<Notify>,
    /// Wakes all who wait: the value knows one waker alone, so that no task puts out that of another.
    waker: Waker,
}

/// Ready when the value may be.
pub(crate) type Waiting = Option<Pin<Box<OwnedNotified>>>;

impl<T> Lent<T> {
    pub(crate) fn new(value: T) -> Self {
        let changed = Arc::new(Notify::new());
        Self {
            value: AtomicCell::new(Some(Box::new(value))),
            missed: AtomicBool::new(false),
            waker: Waker::from(Arc::new(WakeAll(Arc::clone(&changed)))),
            changed,
        }
    }

    /// Uses the value, unless somebody else does. One that panics goes back as it is: what it counts is
    /// not lost.
    pub(crate) fn with<R>(
        &self,
        use_it: impl FnOnce(&mut T, &mut TaskContext<'_>) -> R,
    ) -> Option<R> {
        struct Loan<'a, T>(&'a Lent<T>, Option<Box<T>>);
        impl<T> Drop for Loan<'_, T> {
            fn drop(&mut self) {
                if let Some(value) = self.1.take() {
                    self.0.put(value);
                }
            }
        }
        let mut loan = Loan(self, self.value.take());
        let value = loan.1.as_mut()?;
        Some(use_it(value, &mut TaskContext::from_waker(&self.waker)))
    }

    fn put(&self, value: Box<T>) {
        self.value.store(Some(value));
        // Either we see who missed it, or who missed it sees the value.
        fence(Ordering::SeqCst);
        if self.missed.load(Ordering::SeqCst) && self.missed.swap(false, Ordering::SeqCst) {
            self.changed.notify_waiters();
        }
    }

    /// Polls the value by `poll` until that is ready, and waits while it is not or somebody else uses the value.
    pub(crate) fn poll<R>(
        &self,
        waiting: &mut Waiting,
        cx: &mut TaskContext<'_>,
        poll: impl Fn(&mut T, &mut TaskContext<'_>) -> Poll<R>,
    ) -> Poll<R> {
        loop {
            if let Some(changed) = waiting {
                ready!(changed.as_mut().poll(cx));
                *waiting = None;
            }
            if let Some(Poll::Ready(outcome)) = self.with(&poll) {
                return Poll::Ready(outcome);
            }
            // Listen before looking once more, so that what changes in between wakes us.
            let mut changed = Box::pin(Arc::clone(&self.changed).notified_owned());
            if changed.as_mut().poll(cx).is_pending() {
                let polled = self.with(&poll).or_else(|| {
                    self.missed.store(true, Ordering::SeqCst);
                    fence(Ordering::SeqCst);
                    self.with(&poll)
                });
                if let Some(Poll::Ready(outcome)) = polled {
                    return Poll::Ready(outcome);
                }
                *waiting = Some(changed);
            }
        }
    }
}

struct WakeAll(Arc<Notify>);

impl Wake for WakeAll {
    fn wake(self: Arc<Self>) {
        self.0.notify_waiters();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_waiters();
    }
}
