//! What tasks share: atomics and notifications. In the models (`models.rs`) they are shuttle's, or take a step of its
//! scheduler before each use.

#[cfg(not(all(test, shuttle)))]
pub(crate) use {crossbeam_utils::atomic::AtomicCell, std::sync::atomic, tokio::sync::Notify};

#[cfg(all(test, shuttle))]
pub(crate) use {
    self::steps::{AtomicCell, Notify},
    shuttle::sync::atomic,
};

/// Shuttle runs all tasks on one thread and switches only where it is asked to, so that what is called here happens
/// at once: as the cell and the notification promise.
#[cfg(all(test, shuttle))]
mod steps {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::futures::{Notified, OwnedNotified};

    /// Lets any other task run first.
    fn step() {
        shuttle::thread::sleep(Duration::ZERO);
    }

    pub(crate) struct AtomicCell<T>(crossbeam_utils::atomic::AtomicCell<T>);

    impl<T> AtomicCell<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(crossbeam_utils::atomic::AtomicCell::new(value))
        }

        pub(crate) fn store(&self, value: T) {
            step();
            self.0.store(value);
        }

        pub(crate) fn take(&self) -> T
        where
            T: Default,
        {
            step();
            self.0.take()
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct Notify(Arc<tokio::sync::Notify>);

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

        pub(crate) fn notified_owned(self: Arc<Self>) -> OwnedNotified {
            step();
            Arc::clone(&self.0).notified_owned()
        }
    }
}
