//! How many handlers run at once.

use crate::sync::Notify;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A number of places, counted with an atomic; whoever finds none waits for one to be given back.
///
/// How many are taken, how many there are and whether they are paused stand in one word, so that a
/// place is taken under the very limit that was looked at: once `pause` or a lower `set_limit` has
/// returned, nobody takes a place that it forbids.
#[derive(Debug)]
pub(crate) struct Slots {
    state: AtomicU64,
    waiting: AtomicUsize,
    freed: Notify,
}

/// The bits that count the places that are taken; the limit stands above them.
const TAKEN: u64 = u32::MAX as u64;
const LIMIT_SHIFT: u32 = u32::BITS;
const MAX_LIMIT: u64 = TAKEN >> 1;
/// The topmost bit: nobody gets a place, whatever the limit.
const PAUSED: u64 = 1 << (u64::BITS - 1);

/// A place, given back on drop.
#[derive(Debug)]
pub(crate) struct Slot<T: AsRef<Slots>>(T);

impl Slots {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            state: AtomicU64::new(limit_bits(limit)),
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
        }
    }

    /// The most places, also while they are paused.
    pub(crate) fn limit(&self) -> usize {
        size((self.state() & !PAUSED) >> LIMIT_SHIFT)
    }

    /// Changes the most places, to 1 at the least. Those that are taken stay so.
    pub(crate) fn set_limit(&self, limit: usize) {
        let with_limit = |state| Some(state & (PAUSED | TAKEN) | limit_bits(limit));
        // It never gives up.
        let _ = self
            .state
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, with_limit);
        self.wake_all();
    }

    /// Gives no place to anybody until `resume`.
    pub(crate) fn pause(&self) {
        self.state.fetch_or(PAUSED, Ordering::SeqCst);
    }

    pub(crate) fn resume(&self) {
        self.state.fetch_and(!PAUSED, Ordering::SeqCst);
        self.wake_all();
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.state() & PAUSED != 0
    }

    pub(crate) fn taken(&self) -> usize {
        size(self.state() & TAKEN)
    }

    pub(crate) fn free(&self) -> usize {
        size(free(self.state()))
    }

    fn state(&self) -> u64 {
        self.state.load(Ordering::SeqCst)
    }

    #[inline]
    fn try_take(&self) -> bool {
        let one_more = |state| (free(state) > 0).then_some(state + 1);
        self.state
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more)
            .is_ok()
    }

    /// Whether who has a place may have another right after it: then it can keep the one that it has.
    #[inline]
    pub(crate) fn may_keep(&self) -> bool {
        let state = self.state();
        state & PAUSED == 0
            && state & TAKEN <= state >> LIMIT_SHIFT
            && self.waiting.load(Ordering::SeqCst) == 0
    }

    #[inline]
    fn give_back(&self) {
        let state = self.state.fetch_sub(1, Ordering::SeqCst) - 1;
        // Sequentially consistent with `wait_until`: either we see the waiter, or it sees the place.
        // What is not free now, whoever makes it free announces.
        if self.waiting.load(Ordering::SeqCst) > 0 && free(state) > 0 {
            self.freed.notify_one();
        }
    }

    /// Lets everybody look again, as many places may have come free. Those who wait are seen, or see
    /// the new state, as in `give_back`.
    fn wake_all(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.freed.notify_waiters();
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

/// What is free in a state.
#[inline]
const fn free(state: u64) -> u64 {
    if state & PAUSED == 0 {
        (state >> LIMIT_SHIFT).saturating_sub(state & TAKEN)
    } else {
        0
    }
}

fn limit_bits(limit: usize) -> u64 {
    let limit = u64::try_from(limit).unwrap_or(MAX_LIMIT);
    limit.clamp(1, MAX_LIMIT) << LIMIT_SHIFT
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
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
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::{MAX_LIMIT, Slots, size};

    async fn is_pending(future: &mut (impl Future + Unpin)) -> bool {
        let polled = std::future::poll_fn(|cx| {
            std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx).is_pending())
        });
        polled.await
    }

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
            let mut waiter = pin!(Slots::take(Arc::clone(&slots)));
            assert!(is_pending(&mut waiter).await);
        }
        drop(held);
        assert_eq!(slots.waiting.load(Ordering::SeqCst), 0);
        assert!(Slots::try_take_for(slots).is_ok());
    }

    #[tokio::test]
    async fn who_only_looks_passes_the_wake_up_on() {
        let slots = Arc::new(Slots::new(1));
        let held = Slots::take(Arc::clone(&slots)).await;
        let mut looker = pin!(slots.wait_for_free());
        assert!(is_pending(&mut looker).await);
        let taker = tokio::spawn(Slots::take(Arc::clone(&slots)));
        tokio::task::yield_now().await;
        drop(held);
        assert!(!is_pending(&mut looker).await);
        let outcome = tokio::time::timeout(Duration::from_secs(10), taker).await;
        assert!(outcome.is_ok(), "the taker was forgotten: {slots:?}");
    }

    #[tokio::test]
    async fn a_pause_keeps_the_limit_and_what_runs() {
        let slots = Arc::new(Slots::new(2));
        let held = Slots::take(Arc::clone(&slots)).await;
        slots.pause();
        assert!(slots.is_paused());
        assert_eq!((slots.limit(), slots.taken(), slots.free()), (2, 1, 0));
        assert!(Slots::try_take_for(Arc::clone(&slots)).is_err());
        let mut taker = pin!(Slots::take(Arc::clone(&slots)));
        let mut looker = pin!(slots.wait_for_free());
        assert!(is_pending(&mut taker).await && is_pending(&mut looker).await);
        drop(held);
        slots.set_limit(3);
        assert!(is_pending(&mut taker).await && is_pending(&mut looker).await);
        slots.resume();
        assert!(!slots.is_paused());
        assert!(!is_pending(&mut taker).await && !is_pending(&mut looker).await);
        assert_eq!(slots.limit(), 3);
    }

    #[tokio::test]
    async fn a_higher_limit_wakes_as_many_as_it_has_places_for() {
        let slots = Arc::new(Slots::new(1));
        let _held = Slots::take(Arc::clone(&slots)).await;
        let mut takers: Vec<_> = (0..5)
            .map(|_| Box::pin(Slots::take(Arc::clone(&slots))))
            .collect();
        for taker in &mut takers {
            assert!(is_pending(taker).await);
        }
        slots.set_limit(4);
        let mut held = Vec::new();
        for mut taker in takers {
            tokio::select! {
                biased;
                slot = &mut taker => held.push(slot),
                () = std::future::ready(()) => {}
            }
        }
        assert_eq!((held.len(), slots.taken(), slots.free()), (3, 4, 0));
    }

    #[tokio::test]
    async fn a_lower_limit_lets_what_runs_finish() {
        let slots = Arc::new(Slots::new(3));
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(Slots::take(Arc::clone(&slots)).await);
        }
        slots.set_limit(1);
        assert_eq!((slots.limit(), slots.taken(), slots.free()), (1, 3, 0));
        let mut waiter = pin!(Slots::take(Arc::clone(&slots)));
        for left in [2, 1] {
            drop(held.pop());
            assert_eq!((slots.taken(), slots.free()), (left, 0));
            assert!(is_pending(&mut waiter).await);
        }
        drop(held.pop());
        assert!(!is_pending(&mut waiter).await);
    }

    #[test]
    fn a_limit_is_at_least_one_and_fits() {
        let slots = Slots::new(0);
        assert_eq!(slots.limit(), 1);
        slots.set_limit(usize::MAX);
        assert_eq!(slots.limit(), size(MAX_LIMIT));
        assert!(!slots.is_paused());
        slots.set_limit(0);
        assert_eq!((slots.limit(), slots.free()), (1, 1));
    }

    /// Takes places, looks for some, and gives up at random; says how often a place was held.
    async fn worker(slots: Arc<Slots>, seed: u64) -> usize {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut held = 0;
        for _ in 0..200 {
            let patience = Duration::from_micros(random.u64(0..200));
            let taken = match random.u8(0..4) {
                0 => Slots::try_take_for(Arc::clone(&slots)).ok(),
                1 => {
                    let taking = Slots::take(Arc::clone(&slots));
                    tokio::time::timeout(patience, taking).await.ok()
                }
                2 => {
                    slots.wait_for_free().await;
                    None
                }
                _ => Some(Slots::take(Arc::clone(&slots)).await),
            };
            held += usize::from(taken.is_some());
            if random.bool() {
                tokio::task::yield_now().await;
            }
        }
        held
    }

    /// Changes the limit and pauses at random, then leaves one place to the workers and does nothing
    /// more for them: a wake-up that it lost would stay lost.
    async fn disturb(slots: Arc<Slots>, seed: u64) {
        const MOST: usize = 6;
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..random.usize(1..500) {
            let mut limit = random.usize(1..=MOST);
            slots.set_limit(limit);
            if random.bool() {
                slots.pause();
                limit = 0;
            }
            let mut before = slots.taken();
            assert!(before <= MOST, "{before} places of {MOST} are taken");
            for _ in 0..random.u8(0..8) {
                tokio::task::yield_now().await;
                let now = slots.taken();
                let allowed = before.max(limit);
                assert!(now <= allowed, "{now} places are taken, {allowed} may be");
                before = now;
            }
            slots.resume();
        }
        slots.set_limit(1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    #[allow(clippy::print_stdout, reason = "the seed, to run a failure again")]
    async fn changes_and_pauses_lose_no_wake_up_and_no_place() {
        for _ in 0..20 {
            let seed = fastrand::u64(..);
            println!("seed {seed}");
            let slots = Arc::new(Slots::new(1));
            let disturber = tokio::spawn(disturb(Arc::clone(&slots), seed));
            let workers: Vec<_> = (1..=32)
                .map(|i| tokio::spawn(worker(Arc::clone(&slots), seed.wrapping_add(i))))
                .collect();
            let mut held = 0;
            let all = async {
                for worker in workers {
                    held += worker.await.expect("a worker does not panic");
                }
            };
            let all = tokio::time::timeout(Duration::from_secs(60), all).await;
            assert!(all.is_ok(), "somebody was forgotten: {slots:?}");
            disturber.await.expect("what it saw was allowed");
            assert!(held > 0);
            assert_eq!(
                (slots.taken(), slots.waiting.load(Ordering::SeqCst)),
                (0, 0)
            );
            assert_eq!((slots.limit(), slots.free()), (1, 1));
        }
    }
}
