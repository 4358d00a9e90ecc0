//! What went wrong on purpose, and when it was over.

use std::time::Duration;

/// The faults of a run.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Fault>);

/// One of them.
#[derive(Clone, Copy, Debug)]
struct Fault {
    begun: u64,
    /// Nobody knows when it was not healed.
    healed: Option<u64>,
}

impl Fault {
    fn lasts_until(self, at: u64) -> bool {
        self.healed.is_none_or(|healed| healed >= at)
    }
}

impl Faults {
    pub(super) fn add(&mut self, begun: u64, healed: Option<u64>) {
        self.0.push(Fault { begun, healed });
    }

    /// Whether something was wrong at some time from `from` to `to`.
    pub(super) fn touch(&self, from: u64, to: u64) -> bool {
        self.0
            .iter()
            .any(|fault| fault.begun <= to && fault.lasts_until(from))
    }

    /// Whether what began `from` was in a fault for `least` before `to`, of which the effects were there up to `after` its end.
    pub(super) fn broke(&self, from: u64, to: u64, least: u64, after: u64) -> bool {
        self.0.iter().any(|fault| {
            fault.begun.max(from).saturating_add(least) <= to
                && fault.lasts_until(from)
                && fault.lasts_until(to.saturating_sub(after))
        })
    }

    /// When what began `from` is due at the latest: so long after the last fault of the run.
    pub(super) fn due(&self, from: u64, bound: Duration) -> Option<u64> {
        let healed = self.0.iter().map(|fault| fault.healed);
        let healed: Vec<u64> = healed.collect::<Option<_>>()?;
        let last = healed.into_iter().max().unwrap_or_default();
        Some(from.max(last).saturating_add(us(bound)))
    }

    /// When what began `from` is due at the latest: so long after the last fault that was in its way.
    pub(super) fn due_after_each(&self, mut from: u64, bound: Duration) -> Option<u64> {
        loop {
            let due = from.saturating_add(us(bound));
            let in_the_way = |fault: &&Fault| {
                fault.begun <= due && fault.healed.is_none_or(|healed| healed > from)
            };
            match self.0.iter().find(in_the_way) {
                None => return Some(due),
                Some(fault) => from = fault.healed?,
            }
        }
    }

    /// When the latest fault before `at` was over.
    pub(super) fn heal_before(&self, at: u64) -> Option<u64> {
        let healed = self.0.iter().filter_map(|fault| fault.healed);
        healed.filter(|healed| *healed <= at).max()
    }
}

/// A duration in microseconds.
pub(super) fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
