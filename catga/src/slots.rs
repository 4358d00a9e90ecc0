//! How many handlers run at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// A number of places, counted with an atomic; whoever finds none waits for one to be given back.
#[derive(Debug)]
pub(crate) struct Slots {
    limit: usize,
    taken: AtomicUsize,
    waiting: AtomicUsize,
    freed: Notify,
}

/// A place, given back on drop.
#[derive(Debug)]
pub(crate) struct Slot<T: AsRef<Slots>>(T);

impl Slots {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            taken: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
        }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    pub(crate) fn free(&self) -> usize {
        self.limit.saturating_sub(self.taken())
    }

    #[inline]
    fn try_take(&self) -> bool {
        let one_more = |taken| (taken < self.limit).then_some(taken + 1);
        self.taken
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more)
            .is_ok()
    }

    #[inline]
    fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::SeqCst);
        // Sequentially consistent with `wait_until`: either we see the waiter, or it sees the place.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.freed.notify_one();
        }
    }

    /// Takes a place for `owner`, whose slots these are.
    pub(crate) async fn take<T: AsRef<Self>>(owner: T) -> Slot<T> {
        let slots = owner.as_ref();
        if !slots.try_take() {
            slots.wait_until(|| slots.try_take()).await;
        }
        Slot(owner)
    }

    /// Takes a place if one is free.
    pub(crate) fn try_take_for<T: AsRef<Self>>(owner: T) -> Result<Slot<T>, T> {
        if owner.as_ref().try_take() {
            Ok(Slot(owner))
        } else {
            Err(owner)
        }
    }

    /// Waits until a place is free, without taking it.
    pub(crate) async fn wait_for_free(&self) {
        if self.free() == 0 {
            self.wait_until(|| self.free() > 0).await;
            // The one place that was announced may be meant for somebody else who waits.
            if self.free() > 0 && self.waiting.load(Ordering::SeqCst) > 0 {
                self.freed.notify_one();
            }
        }
    }

    async fn wait_until(&self, ready: impl Fn() -> bool) {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(&self.waiting);
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Listen before looking, so that what is freed in between wakes us.
            freed.as_mut().enable();
            if ready() {
                return;
            }
            freed.await;
        }
    }
}

impl AsRef<Slots> for Slots {
    fn as_ref(&self) -> &Slots {
        self
    }
}

impl Slot<&Slots> {
    /// Hands the place on to somebody who owns the slots that were borrowed.
    pub(crate) fn hand_to<T: AsRef<Slots>>(self, owner: T) -> Slot<T> {
        debug_assert!(std::ptr::eq(self.0, owner.as_ref()), "the same slots");
        std::mem::forget(self);
        Slot(owner)
    }
}

impl<T: AsRef<Slots>> Drop for Slot<T> {
    fn drop(&mut self) {
        self.0.as_ref().give_back();
    }
}

impl<T: AsRef<Slots>> std::ops::Deref for Slot<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn never_more_than_the_limit_and_nobody_is_forgotten() {
        let slots = Arc::new(Slots::new(3));
        let most = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..200)
            .map(|i| {
                let (slots, most) = (Arc::clone(&slots), Arc::clone(&most));
                tokio::spawn(async move {
                    let slot = Slots::take(slots).await;
                    most.fetch_max(slot.taken(), Ordering::SeqCst);
                    if i % 3 == 0 {
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(
            (slots.taken(), slots.waiting.load(Ordering::SeqCst)),
            (0, 0)
        );
        assert!((1..=3).contains(&most.load(Ordering::SeqCst)));
    }

    #[tokio::test]
    async fn a_waiter_that_gives_up_leaves_no_trace() {
        let slots = Arc::new(Slots::new(1));
        let held = Slots::take(Arc::clone(&slots)).await;
        {
            let waiter = Slots::take(Arc::clone(&slots));
            tokio::pin!(waiter);
            assert!(
                std::future::poll_fn(|cx| std::task::Poll::Ready(
                    waiter.as_mut().poll(cx).is_pending()
                ))
                .await
            );
        }
        drop(held);
        assert_eq!(slots.waiting.load(Ordering::SeqCst), 0);
        assert!(Slots::try_take_for(slots).is_ok());
    }
}
