//! The rounds of a case, and what they say.

use serde::Serialize;

use crate::bench::{Allocations, Measured};
use crate::case::{Bar, Case};
use crate::latency::Latency;

pub struct Row {
    pub case: Case,
    pub rounds: Vec<Measured>,
    pub latency: Option<Latency>,
    pub allocations: Option<Allocations>,
    /// Operations of the pass that counted allocations.
    pub counted: u64,
    pub failure: Option<String>,
}

/// The middle one, and the ends.
#[derive(Clone, Copy, Serialize)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Some(Self {
            median: *values.get(values.len() / 2)?,
            least: *values.first()?,
            most: *values.last()?,
        })
    }
}

/// Whether what is asked was reached.
#[derive(Serialize)]
pub struct Verdict {
    pub asked: Bar,
    pub reached: f64,
    pub met: bool,
}

impl Row {
    pub fn new(case: Case) -> Self {
        Self {
            case,
            rounds: Vec::new(),
            latency: None,
            allocations: None,
            counted: 0,
            failure: None,
        }
    }

    fn each(&self, figure: impl Fn(&Measured) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(figure))
    }

    /// Nanoseconds from one operation to the next.
    pub fn nanos(&self) -> Option<Spread> {
        self.each(|round| Some(per_operation(round.wall, round)))
    }

    pub fn client_cpu(&self) -> Option<Spread> {
        self.each(|round| Some(per_operation(round.client_cpu, round)))
    }

    pub fn server_cpu(&self) -> Option<Spread> {
        self.each(|round| round.server_cpu.map(|cpu| per_operation(cpu, round)))
    }

    pub fn others(&self) -> Option<Spread> {
        self.each(|round| Some(round.others))
    }

    pub fn peak_mib(&self) -> Option<Spread> {
        self.each(|round| Some(round.peak_kib as f64 / 1024.0))
    }

    pub fn growth_mib(&self) -> Option<Spread> {
        self.each(|round| Some(round.growth_kib as f64 / 1024.0))
    }

    pub fn server_peak_mib(&self) -> Option<Spread> {
        self.each(|round| round.server_peak_kib.map(|kib| kib as f64 / 1024.0))
    }

    pub fn allocations_per_operation(&self) -> Option<(f64, f64)> {
        let Allocations { count, bytes } = self.allocations?;
        let operations = self.counted as f64;
        Some((count as f64 / operations, bytes as f64 / operations))
    }

    /// This one's rate over that of the case that it is held against, in the same round.
    pub fn ratio(&self, rows: &[Row]) -> Option<Spread> {
        self.compare(rows, |round| per_operation(round.wall, round))
    }

    /// The same for what a second of CPU does, of client and server: steadier on a machine that others use.
    pub fn cpu_ratio(&self, rows: &[Row]) -> Option<Spread> {
        self.compare(rows, |round| {
            let cpu = round.client_cpu + round.server_cpu.unwrap_or_default();
            per_operation(cpu, round)
        })
    }

    fn compare(&self, rows: &[Row], nanos: impl Fn(&Measured) -> f64) -> Option<Spread> {
        let name = self.case.against?;
        let other = rows.iter().find(|row| row.case.name == name)?;
        let rounds = self.rounds.iter().zip(&other.rounds);
        Spread::of(rounds.map(|(ours, theirs)| nanos(theirs) / nanos(ours)))
    }

    pub fn verdicts(&self, rows: &[Row]) -> Vec<Verdict> {
        let judge = |bar: &Bar| {
            let (reached, met) = match *bar {
                Bar::RatioAtLeast(least) => {
                    let ratio = self.ratio(rows)?.median;
                    (ratio, ratio >= least)
                }
                Bar::NanosAtMost(most) => {
                    let nanos = self.nanos()?.median;
                    (nanos, nanos <= most)
                }
                Bar::AllocationsAtMost(most) => {
                    let (count, _) = self.allocations_per_operation()?;
                    // What is allocated once for all operations rounds away.
                    (count, count.mul_add(1000.0, 0.5).floor() / 1000.0 <= most)
                }
                Bar::GrowthAtMostMib(most) => {
                    let growth = self.growth_mib()?.median;
                    (growth, growth <= most)
                }
            };
            Some(Verdict {
                asked: *bar,
                reached,
                met,
            })
        };
        self.case.bars.iter().filter_map(judge).collect()
    }
}

fn per_operation(time: std::time::Duration, round: &Measured) -> f64 {
    time.as_nanos() as f64 / round.operations as f64
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn the_median_is_the_middle_one() {
        let spread = Spread::of([3.0, 1.0, 10.0]).unwrap();
        assert_eq!((spread.least, spread.median, spread.most), (1.0, 3.0, 10.0));
        assert!(Spread::of([]).is_none());
    }
}
