//! A recorder of metrics as an exporter has one: counters are atomics, histograms are buckets of atomics.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, SharedString, Unit};

#[derive(Clone, Default)]
pub struct Recorder(Arc<Registry>);

#[derive(Default)]
struct Registry {
    numbers: Mutex<HashMap<Key, Arc<AtomicU64>>>,
    histograms: Mutex<HashMap<Key, Arc<Buckets>>>,
}

/// Two for each power of two, from a nanosecond to some hours.
struct Buckets([AtomicU64; 88]);

impl Default for Buckets {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl HistogramFn for Buckets {
    fn record(&self, seconds: f64) {
        let nanos = (seconds * 1e9) as u64;
        let power = 63 - (nanos | 1).leading_zeros() as usize;
        // The bit below the highest; nothing is below a nanosecond.
        let upper_half = power > 0 && (nanos >> (power - 1)) & 1 == 1;
        let bucket = (2 * power + usize::from(upper_half)).min(self.0.len() - 1);
        self.0[bucket].fetch_add(1, Ordering::Relaxed);
    }
}

impl Recorder {
    /// That of this process from here on.
    pub fn install() -> Self {
        let recorder = Self::default();
        let installed = metrics::set_global_recorder(recorder.clone());
        assert!(installed.is_ok(), "a process runs one case");
        recorder
    }

    /// How many values the histograms of this name have.
    pub fn recorded(&self, name: &str) -> u64 {
        let histograms = self.0.histograms.lock().expect("nobody panics with it");
        let named = histograms.iter().filter(|(key, _)| key.name() == name);
        named
            .flat_map(|(_, buckets)| &buckets.0)
            .map(|bucket| bucket.load(Ordering::Relaxed))
            .sum()
    }

    fn number(&self, key: &Key) -> Arc<AtomicU64> {
        let mut numbers = self.0.numbers.lock().expect("nobody panics with it");
        Arc::clone(numbers.entry(key.clone()).or_default())
    }
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.number(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.number(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let mut histograms = self.0.histograms.lock().expect("nobody panics with it");
        Histogram::from_arc(Arc::clone(histograms.entry(key.clone()).or_default()))
    }
}

#[cfg(test)]
mod tests {
    use metrics::HistogramFn;

    use super::{Buckets, Ordering};

    #[test]
    fn each_value_has_its_bucket() {
        let buckets = Buckets::default();
        for seconds in [0.0, 1e-9, 3e-9, 1.5e-6, 2.0, 1e9] {
            buckets.record(seconds);
        }
        let filled = |bucket: &&std::sync::atomic::AtomicU64| bucket.load(Ordering::Relaxed) > 0;
        assert_eq!(buckets.0.iter().filter(filled).count(), 5);
    }
}
