//! What the example counts for itself, to hold against what Catga counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use catga::Published;

use crate::histogram::Histogram;

/// How many orders came by, and a sum over their ids: two tallies are of the same orders when both
/// are equal, and memory does not grow with their number.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    count: AtomicU64,
    ids: AtomicU64,
}

impl Tally {
    pub(crate) fn add(&self, order_id: &str) {
        self.ids.fetch_add(hash(order_id), Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    pub(crate) fn ids(&self) -> u64 {
        self.ids.load(Ordering::Relaxed)
    }
}

/// What the three nodes share: no more than counters, since a real shop would not share memory.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) began: Instant,
    /// Orders that a node accepted, as their senders heard it.
    pub(crate) accepted: Tally,
    /// `OrderCreated` that were published.
    pub(crate) created: Tally,
    /// `OrderShipped` that were published.
    pub(crate) shipped: Tally,
    pub(crate) billed: Tally,
    /// What was billed in all.
    pub(crate) billed_cents: AtomicU64,
    /// Bills that were given up on purpose.
    pub(crate) declined: Tally,
    /// Bills that failed on purpose, to be tried again.
    pub(crate) hiccups: Tally,
    /// Orders that were sent again after they had been answered.
    pub(crate) resent: Tally,
    /// `PaymentTaken` that were published and stored.
    pub(crate) paid: Tally,
    /// `PaymentTaken` that were published again on purpose, under the id of one that was stored.
    pub(crate) repeated: Tally,
    /// `PaymentTaken` that the broker had already, as it said.
    pub(crate) suppressed: Tally,
    /// Copies of `PaymentTaken` that were stored on purpose, for the inbox to suppress.
    pub(crate) copied: Tally,
    /// Payments that were booked.
    pub(crate) booked: Tally,
    /// Bookings that failed on purpose after they had written to the books.
    pub(crate) spilled: Tally,
    /// From sending the request to its answer.
    pub(crate) request_latency: Histogram,
    /// From publishing `OrderShipped` to its bill.
    pub(crate) billing_latency: Histogram,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            accepted: Tally::default(),
            created: Tally::default(),
            shipped: Tally::default(),
            billed: Tally::default(),
            billed_cents: AtomicU64::new(0),
            declined: Tally::default(),
            hiccups: Tally::default(),
            resent: Tally::default(),
            paid: Tally::default(),
            repeated: Tally::default(),
            suppressed: Tally::default(),
            copied: Tally::default(),
            booked: Tally::default(),
            spilled: Tally::default(),
            request_latency: Histogram::new(),
            billing_latency: Histogram::new(),
        }
    }

    /// Microseconds since the beginning.
    pub(crate) fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// The time since `us` microseconds after the beginning.
    pub(crate) fn since(&self, us: u64) -> Duration {
        Duration::from_micros(self.now_us().saturating_sub(us))
    }

    /// A `PaymentTaken` was published: what did the broker say?
    pub(crate) fn published(&self, order_id: &str, published: Published) {
        let tally = if published.duplicate {
            &self.suppressed
        } else {
            &self.paid
        };
        tally.add(order_id);
    }

    /// Orders that went all the way.
    pub(crate) fn done(&self) -> u64 {
        self.billed.count() + self.declined.count()
    }
}

/// What one node saw go by.
#[derive(Debug, Default)]
pub(crate) struct NodeLog {
    pub(crate) created: Tally,
    pub(crate) shipped: Tally,
    /// Whether to print it too.
    pub(crate) verbose: bool,
}

impl NodeLog {
    pub(crate) fn new(verbose: bool) -> Self {
        Self {
            verbose,
            ..Self::default()
        }
    }
}

/// The same in every run, so that the same orders fail: FNV-1a, with its bits mixed at the end.
pub(crate) fn hash(text: &str) -> u64 {
    let fnv = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}
