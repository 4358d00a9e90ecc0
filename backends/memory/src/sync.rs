//! What tasks share without a channel. In the models (`models.rs`) the atomics are shuttle's, and the others take a step
//! of its scheduler before each use.

#[cfg(not(all(test, shuttle)))]
pub(crate) use {
    crossbeam_queue::ArrayQueue,
    std::sync::atomic,
    tokio::{sync::Notify, task::yield_now},
};

#[cfg(all(test, shuttle))]
pub(crate) use {
    self::steps::{ArrayQueue, Notify},
    shuttle::{future::yield_now, sync::atomic},
};

/// Shuttle runs all tasks on one thread and switches only where it is asked to, so that what is called here happens
/// at once: as the queue and the notification promise.
#[cfg(all(test, shuttle))]
mod steps {
    use std::time::Duration;

    use tokio::sync::futures::Notified;

    /// Lets any other task run first.
    fn step() {
        shuttle::thread::sleep(Duration::ZERO);
    }

    #[derive(Debug)]
    pub(crate) struct ArrayQueue<T>(crossbeam_queue::ArrayQueue<T>);

    impl<T> ArrayQueue<T> {
        pub(crate) fn new(size: usize) -> Self {
            Self(crossbeam_queue::ArrayQueue::new(size))
        }

        pub(crate) fn force_push(&self, value: T) -> Option<T> {
            step();
            self.0.force_push(value)
        }

        pub(crate) fn pop(&self) -> Option<T> {
            step();
            self.0.pop()
        }

        pub(crate) fn len(&self) -> usize {
            step();
            self.0.len()
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct Notify(tokio::sync::Notify);

    impl Notify {
        pub(crate) fn new() -> Self {
            Self::default()
        }

        pub(crate) fn notify_one(&self) {
            step();
            self.0.notify_one();
        }

        pub(crate) fn notify_waiters(&self) {
            step();
            self.0.notify_waiters();
        }

        pub(crate) fn notified(&self) -> Notified<'_> {
            step();
            self.0.notified()
        }
    }
}
