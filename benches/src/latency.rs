//! Which messages were handled, and how long each took.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::bench::Handled;

/// A message adds one to the lower bits and its number to the upper ones, in one step: a count alone would not
/// notice one message lost and another handled twice.
const COUNT_BITS: u32 = 24;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// How often those who wait for a number of messages are woken to look.
const STEP: u64 = 256;

/// Counts what is handled, and in the pass for it notes when.
#[derive(Clone)]
pub struct Tally(Arc<Inner>);

struct Inner {
    handled: AtomicU64,
    copies: u64,
    expected: Handled,
    progress: Notify,
    stamps: Option<Stamps>,
}

/// Nanoseconds of each message.
struct Stamps {
    began: Instant,
    sent: Box<[AtomicU64]>,
    took: Box<[AtomicU64]>,
}

/// Percentiles in nanoseconds.
#[derive(Clone, Serialize, Deserialize)]
pub struct Latency {
    pub count: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

impl Tally {
    pub(crate) fn new(operations: u64, copies: u64, with_latency: bool) -> Self {
        let expected = Handled::all(operations, copies);
        assert!(expected.count <= COUNT, "too many messages for the counter");
        let empty = || (0..operations).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Inner {
            handled: AtomicU64::new(0),
            copies,
            expected,
            progress: Notify::new(),
            stamps: with_latency.then(|| Stamps {
                began: Instant::now(),
                sent: empty(),
                took: empty(),
            }),
        }))
    }

    /// Message `i` is about to be sent.
    #[inline]
    pub fn sent(&self, i: u64) {
        if let Some(stamps) = &self.0.stamps {
            stamps.sent[i as usize].store(stamps.now(), Ordering::Relaxed);
        }
    }

    /// Message `i` was handled, or answered.
    #[inline]
    pub fn one(&self, i: u64) {
        let inner = &*self.0;
        if let Some(stamps) = &inner.stamps {
            let took = stamps.now() - stamps.sent[i as usize].load(Ordering::Relaxed);
            stamps.took[i as usize].fetch_max(took.max(1), Ordering::Relaxed);
        }
        let before = inner
            .handled
            .fetch_add((i << COUNT_BITS) + 1, Ordering::SeqCst);
        let count = (before & COUNT) + 1;
        if count.is_multiple_of(STEP) || count == inner.expected.count {
            inner.progress.notify_waiters();
        }
    }

    fn count(&self) -> u64 {
        self.0.handled.load(Ordering::SeqCst) & COUNT
    }

    /// Waits until so many were handled, asleep: who waits by looking takes the handlers' core.
    pub async fn reach(&self, count: u64) {
        let wanted = count
            .next_multiple_of(STEP)
            .min(self.0.expected.count.max(count));
        loop {
            let mut progress = std::pin::pin!(self.0.progress.notified());
            progress.as_mut().enable();
            if self.count() >= wanted {
                return;
            }
            progress.await;
        }
    }

    /// After message `i`, of those that are sent in order: keeps their sender at most two windows ahead of the handlers.
    pub async fn pace(&self, i: u64, window: u64) {
        if i % window == window - 1 {
            self.reach((i + 1 - window) * self.0.copies).await;
        }
    }

    pub async fn reach_all(&self) {
        self.reach(self.0.expected.count).await;
    }

    pub(crate) fn check(&self) {
        let handled = self.0.handled.load(Ordering::SeqCst);
        let Handled { count, sum } = self.0.expected;
        assert_eq!(handled & COUNT, count, "messages handled");
        assert_eq!(
            handled >> COUNT_BITS,
            sum & (u64::MAX >> COUNT_BITS),
            "the sum of the numbers of the messages handled"
        );
    }

    pub(crate) fn latency(&self) -> Option<Latency> {
        let stamps = self.0.stamps.as_ref()?;
        let mut histogram = Histogram::<u64>::new(3).expect("three digits are allowed");
        for took in &stamps.took {
            let took = took.load(Ordering::Relaxed);
            assert_ne!(took, 0, "a message was counted and not timed");
            histogram.record(took).expect("the histogram grows");
        }
        Some(Latency {
            count: histogram.len(),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        })
    }
}

impl Stamps {
    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    fn tally(handled: impl IntoIterator<Item = u64>) -> Tally {
        let tally = Tally::new(4, 1, true);
        (0..4).for_each(|i| tally.sent(i));
        handled.into_iter().for_each(|i| tally.one(i));
        tally
    }

    #[test]
    fn all_that_was_sent_was_handled() {
        let tally = tally([3, 0, 2, 1]);
        tally.check();
        assert_eq!(tally.latency().map(|latency| latency.count), Some(4));
    }

    #[test]
    #[should_panic(expected = "messages handled")]
    fn a_lost_message_is_noticed() {
        tally([0, 1, 2]).check();
    }

    #[test]
    #[should_panic(expected = "sum of the numbers")]
    fn one_lost_and_one_twice_is_noticed() {
        tally([0, 1, 1, 3]).check();
    }

    #[tokio::test]
    async fn who_waits_for_all_is_woken() {
        let tally = Tally::new(1000, 1, false);
        let waiting = tokio::spawn({
            let tally = tally.clone();
            async move { tally.reach_all().await }
        });
        (0..1000).for_each(|i| tally.one(i));
        waiting.await.unwrap();
    }
}
