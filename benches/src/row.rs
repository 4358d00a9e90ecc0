//! The rounds of a case, and what they say.

use serde::Serialize;

use crate::bench::{Allocations, Measured, Pass};
use crate::case::{Bar, Case};
use crate::figure::{Figure, Unit};
use crate::latency::Latency;

pub struct Row {
    pub case: Case,
    /// `None` where a peer failed.
    pub rounds: Vec<Option<Measured>>,
    /// That of the pass for it.
    pub latency: Option<Latency>,
    pub allocations: Option<Allocations>,
    /// Operations of the pass that counted allocations.
    pub counted: u64,
    /// Further figures of that pass.
    pub counted_figures: Vec<Figure>,
    pub failure: Option<String>,
    /// How it failed in some rounds, and not in others.
    pub trouble: Option<String>,
}

/// How the problem of a case begins that did not end.
pub const STALLED: &str = "stalled";

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
            counted_figures: Vec::new(),
            failure: None,
            trouble: None,
        }
    }

    /// The rounds that it did not fail in.
    pub fn measured(&self) -> impl Iterator<Item = &Measured> {
        self.rounds.iter().flatten()
    }

    /// Notes that it failed in a round: ours is a failure, that of a peer a row that says so.
    pub fn failed(&mut self, pass: Pass, problem: String) {
        let stalled = problem.starts_with(STALLED);
        if !self.case.is_peer() {
            self.failure = Some(problem);
            return;
        }
        if pass == Pass::Time {
            self.rounds.push(None);
        }
        let (failed, of) = (
            self.rounds.iter().filter(|round| round.is_none()).count(),
            self.rounds.len(),
        );
        let how = if stalled { STALLED } else { "failed" };
        self.trouble = Some(match pass {
            Pass::Time => format!("{how} in {failed} of {of} rounds"),
            _ => format!("{how} in the pass for {}", pass.name()),
        });
    }

    /// Says of how many rounds it failed in some, once all have been.
    pub fn conclude(&mut self) {
        let failed = self.rounds.iter().filter(|round| round.is_none()).count();
        if let Some(trouble) = &mut self.trouble
            && failed > 0
        {
            let how = trouble.split(" in ").next().unwrap_or_default();
            *trouble = format!("{how} in {failed} of {} rounds", self.rounds.len());
        }
    }

    fn each(&self, figure: impl Fn(&Measured) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.measured().filter_map(figure))
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

    /// Its latencies: of the pass for them, or the middle ones of rounds that tell them by themselves.
    pub fn latencies(&self) -> Option<Latency> {
        if self.latency.is_some() {
            return self.latency.clone();
        }
        let middle = |of: fn(&Latency) -> u64| {
            let each = self.each(|round| round.latency.as_ref().map(|latency| of(latency) as f64));
            each.map(|spread| spread.median as u64)
        };
        Some(Latency {
            count: middle(|latency| latency.count)?,
            p50: middle(|latency| latency.p50)?,
            p90: middle(|latency| latency.p90)?,
            p99: middle(|latency| latency.p99)?,
            p999: middle(|latency| latency.p999)?,
            max: middle(|latency| latency.max)?,
        })
    }

    /// What it measures beside time and CPU, in the order in which it tells it.
    pub fn figures(&self) -> Vec<(&str, Unit)> {
        let mut named: Vec<(&str, Unit)> = Vec::new();
        let rounds = self.measured().flat_map(|round| &round.figures);
        for figure in rounds.chain(&self.counted_figures) {
            if !named.iter().any(|(name, _)| *name == figure.name) {
                named.push((&figure.name, figure.unit));
            }
        }
        named
    }

    /// One of those.
    pub fn figure(&self, name: &str) -> Option<Spread> {
        let value = |figures: &[Figure]| {
            let mut named = figures.iter().filter(|figure| figure.name == name);
            named.next().map(|figure| figure.value)
        };
        let counted = value(&self.counted_figures);
        Spread::of(
            self.measured()
                .filter_map(|round| value(&round.figures))
                .chain(counted),
        )
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
        let other = self.other(rows)?;
        let rounds = self.rounds.iter().zip(&other.rounds);
        Spread::of(
            rounds
                .filter_map(|(ours, theirs)| Some(nanos(theirs.as_ref()?) / nanos(ours.as_ref()?))),
        )
    }

    /// Its latencies, and those of the case that it is held against.
    fn both_latencies(&self, rows: &[Row]) -> Option<(Latency, Latency)> {
        self.latencies().zip(self.other(rows)?.latencies())
    }

    /// The case that it is held against.
    fn other<'a>(&self, rows: &'a [Row]) -> Option<&'a Row> {
        let name = self.case.against?;
        rows.iter().find(|row| row.case.name == name)
    }

    pub fn verdicts(&self, rows: &[Row]) -> Vec<Verdict> {
        let judge = |bar: &Bar| {
            let (reached, met) = match *bar {
                Bar::RatioAtLeast(least) | Bar::RatioOnTwoCoresAtLeast(least) => {
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
                Bar::MedianRatioAtMost(most) => {
                    let (ours, theirs) = self.both_latencies(rows)?;
                    let ratio = ours.p50 as f64 / theirs.p50 as f64;
                    (ratio, ratio <= most)
                }
                Bar::P99BeyondAtMost(most) => {
                    let (ours, theirs) = self.both_latencies(rows)?;
                    let beyond = ours.p99 as f64 - theirs.p99 as f64;
                    (beyond, beyond <= most)
                }
                Bar::FigureAtMost(name, _, most) => {
                    let figure = self.figure(name)?.median;
                    (figure, figure <= most)
                }
                Bar::FigureRatioAtMost { figure, of, most } => {
                    let other = rows.iter().find(|row| row.case.name == of)?;
                    let ratio = self.figure(figure)?.median / other.figure(figure)?.median;
                    (ratio, ratio <= most)
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
    use super::{Bar, Figure, Row, STALLED, Spread, Unit};
    use crate::bench::Pass;
    use crate::case::Case;

    #[test]
    fn the_median_is_the_middle_one() {
        let spread = Spread::of([3.0, 1.0, 10.0]).unwrap();
        assert_eq!((spread.least, spread.median, spread.most), (1.0, 3.0, 10.0));
        assert!(Spread::of([]).is_none());
    }

    fn row(name: &'static str) -> Row {
        Row::new(Case::new(name, "", 1, |_| unreachable!("it is not run")))
    }

    #[test]
    fn a_figure_is_judged_by_itself_and_by_that_of_another() {
        let with = |name, value| {
            let mut row = row(name);
            row.counted_figures = vec![Figure::number("messages", value)];
            row
        };
        let few = with("discovery/few", 2.0);
        let mut many = with("discovery/many", 3.0);
        many.case = many
            .case
            .asked(Bar::FigureAtMost("messages", Unit::Number, 3.0))
            .asked(Bar::FigureRatioAtMost {
                figure: "messages",
                of: "discovery/few",
                most: 1.4,
            });
        let verdicts = many.verdicts(&[few]);
        let told: Vec<_> = verdicts.iter().map(|v| (v.reached, v.met)).collect();
        assert_eq!(told, [(3.0, true), (1.5, false)]);
    }

    #[test]
    fn a_peer_that_stalls_is_a_row_that_says_so() {
        let mut peer = row("peers/slow");
        peer.failed(Pass::Time, format!("{STALLED}: not ended after 120 s"));
        peer.failed(Pass::Time, format!("{STALLED}: not ended after 120 s"));
        peer.conclude();
        assert_eq!(peer.failure, None);
        assert_eq!(peer.trouble.as_deref(), Some("stalled in 2 of 2 rounds"));
        let mut ours = row("nats/slow");
        ours.failed(Pass::Time, "it fell".to_owned());
        assert!(ours.failure.is_some());
    }
}
