//! Latencies, counted without a lock and with an error below 2 %.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Each power of two is divided into so many buckets (as a power of two).
const BITS: u32 = 6;
const BUCKETS: usize = ((64 - BITS as usize) + 1) << BITS;

/// A histogram of microseconds in the manner of [HdrHistogram](https://hdrhistogram.org):
/// buckets that are narrow where values are small and grow with them.
pub(crate) struct Histogram(Box<[AtomicU64]>);

impl Histogram {
    pub(crate) fn new() -> Self {
        Self((0..BUCKETS).map(|_| AtomicU64::new(0)).collect())
    }

    pub(crate) fn record(&self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.0[bucket(us)].fetch_add(1, Ordering::Relaxed);
    }

    /// The least latency that `per_mille` of 1000 do not exceed, to the width of a bucket; zero when nothing was recorded.
    pub(crate) fn quantile(&self, per_mille: u64) -> Duration {
        let counts: Vec<u64> = self.0.iter().map(|n| n.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        let rank = (total * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        let at = counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        at.map_or(Duration::ZERO, |at| Duration::from_micros(least(at)))
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {:?}", self.quantile(500))
    }
}

/// The bucket of a value: itself while it is small, then its highest bits with their place.
fn bucket(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(BITS + 1);
    let index = (u64::from(shift) << BITS) + (value >> shift);
    usize::try_from(index).expect("there are some 3,800 buckets")
}

/// The least value of a bucket: what [`bucket`] does, backwards.
fn least(bucket: usize) -> u64 {
    let index = bucket as u64;
    let shift = (index >> BITS).saturating_sub(1);
    (index - (shift << BITS)) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_within_two_percent_of_its_bucket() {
        for value in (0..5000).chain([10_000, 123_456_789, 1 << 40, u64::MAX]) {
            let least = least(bucket(value));
            assert!(least <= value, "{value} is in the bucket of {least}");
            assert!(
                value - least <= value >> BITS,
                "{value} is in the bucket of {least}"
            );
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let histogram = Histogram::new();
        assert_eq!(histogram.quantile(500), Duration::ZERO);
        for us in 1..=1000 {
            histogram.record(Duration::from_micros(us));
        }
        for (per_mille, expected) in [
            (0, 1),
            (1, 1),
            (500, 500),
            (990, 990),
            (999, 999),
            (1000, 1000),
        ] {
            let us = u64::try_from(histogram.quantile(per_mille).as_micros()).unwrap();
            assert!(
                us <= expected && us + 16 > expected,
                "{per_mille}: {us} is not {expected}"
            );
        }
    }
}
