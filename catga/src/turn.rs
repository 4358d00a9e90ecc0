//! One value that its users have in turn.

use std::pin::pin;

use crate::sync::{AtomicCell, Notify};

/// A value that one task has at a time, in the order in which they asked for it.
pub(crate) struct Turn<T> {
    /// Holds a permit while nobody has the turn, and hands it to the first who waits: one who goes away
    /// meanwhile hands it on.
    free: Notify,
    /// Empty while somebody has the turn. In a box, since one word can be swapped at once.
    value: AtomicCell<Option<Box<T>>>,
}

impl<T> Turn<T> {
    pub(crate) fn new(value: T) -> Self {
        let free = Notify::new();
        free.notify_one();
        Self {
            free,
            value: AtomicCell::new(Some(Box::new(value))),
        }
    }

    /// Waits for the turn. The value is to be [put back](Self::put_back), or nobody else gets it.
    ///
    /// # Cancel safety
    /// Safe: the turn goes to the next who waits.
    pub(crate) async fn take(&self) -> Box<T> {
        self.free.notified().await;
        self.take_value()
    }

    /// As [`take`](Self::take), when nobody has the turn or waits for it.
    pub(crate) fn try_take(&self) -> Option<Box<T>> {
        pin!(self.free.notified())
            .enable()
            .then(|| self.take_value())
    }

    #[allow(clippy::unnecessary_box_returns, reason = "the box is what is swapped")]
    fn take_value(&self) -> Box<T> {
        let value = self.value.take();
        value.expect("who has the turn finds it, and puts it back")
    }

    /// Gives the turn to the next.
    pub(crate) fn put_back(&self, value: Box<T>) {
        // Before anybody is told that it is there.
        self.value.store(Some(value));
        self.free.notify_one();
    }
}
