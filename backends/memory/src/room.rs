//! How much of a log is taken: asked by publishers, without the log's task.

use std::sync::Arc;

use crate::sync::atomic::{AtomicUsize, Ordering};

/// How many messages wait in a log before it is crowded.
const CROWD: usize = 512;

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

    /// Whether so much waits that publishers are to let the others run, before it is cold when its turn comes.
    pub(crate) fn is_crowded(&self) -> bool {
        self.taken.load(Ordering::Relaxed) > CROWD
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_goes_past_who_waits() {
        let room = Arc::new(Room::new(2));
        assert!(room.try_pass());
        let queued = Queued::new(&room);
        assert!(!room.try_pass(), "somebody waits");
        assert!(room.try_take(), "who waits is given the place");
        drop(queued);
        assert!(!room.try_pass(), "both places are taken");
        room.free(1);
        assert!(room.try_pass());
    }

    #[test]
    fn publishers_at_once_never_take_more_than_there_is() {
        let room = Room::new(100);
        let passed: usize = std::thread::scope(|scope| {
            let publishers: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1000).filter(|_| room.try_pass()).count()))
                .collect();
            let passed = publishers.into_iter().map(|p| p.join().unwrap());
            passed.sum()
        });
        assert_eq!((passed, room.taken.load(Ordering::SeqCst)), (100, 100));
    }
}
