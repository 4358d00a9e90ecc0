//! The table for people, and all figures for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::case::{Bar, Case};
use crate::figure::Unit;
use crate::machine::Machine;
use crate::row::{Row, Spread, Verdict};

/// More work of others than this makes a run one to repeat.
const QUIET: f64 = 0.1;

pub struct Run {
    pub machine: Machine,
    pub date: String,
    pub pinned: bool,
    pub quick: bool,
    pub rounds: usize,
    pub load_before: f64,
    pub load_after: f64,
    pub rows: Vec<Row>,
}

impl Run {
    /// What other processes took of all cores while a case ran, over all rounds.
    fn others(&self) -> Option<Spread> {
        let rounds = self.rows.iter().flat_map(Row::measured);
        Spread::of(rounds.map(|round| round.others))
    }

    fn is_busy(&self) -> bool {
        self.others().is_some_and(|others| others.median > QUIET)
    }

    /// One line about where and how, for tables and pictures.
    pub fn conditions(&self) -> Vec<String> {
        let Machine {
            cpu,
            cores,
            memory_mib,
            kernel,
            rustc,
            nats_server,
            redis_server,
            crates,
        } = &self.machine;
        // Cases that run once have no more, however many are asked for.
        let rounds = self.rows.iter().map(|row| row.rounds.len()).max();
        let rounds = match rounds.unwrap_or(self.rounds) {
            0 | 1 => "one round".to_owned(),
            rounds => format!("medians of {rounds} rounds"),
        };
        let cores_used = match self.pinned {
            true => "servers and client pinned to one core",
            false => "servers and client on all cores, over loopback",
        };
        let others = self.others().map_or(0.0, |others| others.median * 100.0);
        let verdict = match (self.is_busy(), self.quick) {
            (_, true) => "a quick run: its figures are no figures",
            (true, _) => "BUSY: figures are provisional",
            _ => "quiet",
        };
        let (first, second) = crates.split_at(crates.len().div_ceil(2));
        vec![
            format!("{cpu}, {cores} cores, {memory_mib} MiB, {kernel}; {cores_used}"),
            format!("{rustc}, release, thin LTO; nats-server {nats_server}, redis {redis_server}"),
            first.join(", "),
            second.join(", "),
            format!(
                "{}; {rounds}; load {:.1} before; others took {others:.0} % of the cores: {verdict}",
                self.date, self.load_before
            ),
        ]
    }

    fn groups(&self) -> Vec<&'static str> {
        let mut groups: Vec<_> = self.rows.iter().map(|row| row.case.group()).collect();
        groups.dedup();
        groups
    }
}

pub fn markdown(run: &Run) -> String {
    let mut text = String::from("# Figures\n\n");
    for line in run.conditions() {
        let _ = writeln!(text, "- {line}");
    }
    text.push_str("\nHow to read them: [benches](../../benches/README.md).\n");
    for group in run.groups() {
        let rows = || run.rows.iter().filter(|row| row.case.group() == group);
        let _ = write!(
            text,
            "\n## {group}\n\n\
             | case | time/op | least .. most | ops/s | CPU client | server | allocations | bytes | peak MiB | server | p50 | p99 | p99.9 | others | of | ratio | by CPU | asked |\n\
             |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|--:|--:|---|\n"
        );
        rows().for_each(|row| figures(&mut text, row, run));
        further(&mut text, &rows().collect::<Vec<_>>());
        text.push_str("\n| case | what | guarantee | kept | acknowledged | payload | settings |\n|---|---|---|---|---|---|---|\n");
        rows().for_each(|row| terms(&mut text, &row.case));
    }
    text
}

fn figures(text: &mut String, row: &Row, run: &Run) {
    let case = &row.case;
    if let Some(failure) = &row.failure {
        let first = failure.lines().next().unwrap_or_default();
        let _ = writeln!(text, "| {} | **failed**: {first} |", case.name);
        return;
    }
    if row.measured().next().is_none() {
        let trouble = row.trouble.as_deref().unwrap_or("not measured");
        let _ = writeln!(text, "| {} | **{trouble}** |", case.name);
        return;
    }
    let median = |spread: Option<Spread>, show: fn(f64) -> String| {
        spread.map_or(String::new(), |spread| show(spread.median))
    };
    let nanos = row.nanos();
    let ends = nanos.map(|nanos| format!("{} .. {}", time(nanos.least), time(nanos.most)));
    let (allocations, bytes) = match row.allocations_per_operation() {
        Some((count, bytes)) => (format!("{count:.1}"), format!("{bytes:.0}")),
        None => Default::default(),
    };
    let latency = |of: fn(&crate::latency::Latency) -> u64| {
        let latency = row.latencies();
        latency.map_or(String::new(), |latency| time(of(&latency) as f64))
    };
    let ratio = row.ratio(&run.rows).map(|ratio| {
        format!(
            "**{:.2}** ({:.2} .. {:.2})",
            ratio.median, ratio.least, ratio.most
        )
    });
    let mut asked: Vec<_> = row.verdicts(&run.rows).iter().map(asked).collect();
    asked.extend(row.trouble.as_ref().map(|trouble| format!("**{trouble}**")));
    let cells = [
        format!("`{}`", case.name),
        median(nanos, time),
        ends.unwrap_or_default(),
        median(nanos, |nanos| rate(1e9 / nanos)),
        median(row.client_cpu(), time),
        median(row.server_cpu(), time),
        allocations,
        bytes,
        median(row.peak_mib(), |mib| format!("{mib:.0}")),
        median(row.server_peak_mib(), |mib| format!("{mib:.0}")),
        latency(|latency| latency.p50),
        latency(|latency| latency.p99),
        latency(|latency| latency.p999),
        median(row.others(), |others| format!("{:.0} %", others * 100.0)),
        case.against
            .map_or(String::new(), |name| format!("`{name}`")),
        ratio.unwrap_or_default(),
        median(row.cpu_ratio(&run.rows), |ratio| format!("{ratio:.2}")),
        asked.join("; "),
    ];
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

/// The figures of a group that are its own.
fn further(text: &mut String, rows: &[&Row]) {
    let with: Vec<_> = rows
        .iter()
        .filter(|row| !row.figures().is_empty())
        .collect();
    let mut named: Vec<(&str, Unit)> = Vec::new();
    for (name, unit) in with.iter().flat_map(|row| row.figures()) {
        if !named.iter().any(|(known, _)| *known == name) {
            named.push((name, unit));
        }
    }
    if named.is_empty() {
        return;
    }
    let names: Vec<_> = named.iter().map(|(name, _)| *name).collect();
    let _ = writeln!(text, "\n| case | {} |", names.join(" | "));
    let _ = writeln!(text, "|---|{}", "--:|".repeat(names.len()));
    for row in with {
        let cells = named.iter().map(|(name, unit)| {
            let figure = row.figure(name);
            figure.map_or(String::new(), |spread| unit.show(spread.median))
        });
        let cells: Vec<_> = cells.collect();
        let _ = writeln!(text, "| `{}` | {} |", row.case.name, cells.join(" | "));
    }
}

fn terms(text: &mut String, case: &Case) {
    let terms = &case.terms;
    let _ = writeln!(
        text,
        "| `{}` | {} | {} | {} | {} | {} | {} |",
        case.name,
        case.does,
        terms.guarantee,
        terms.stored,
        terms.ack,
        terms.payload,
        terms.settings
    );
}

fn asked(verdict: &Verdict) -> String {
    let bar = match verdict.asked {
        Bar::RatioAtLeast(ratio) | Bar::RatioOnTwoCoresAtLeast(ratio) => format!("{ratio:.2}"),
        Bar::NanosAtMost(nanos) => format!("at most {}", time(nanos)),
        Bar::AllocationsAtMost(count) => format!("at most {count:.0} allocations"),
        Bar::GrowthAtMostMib(mib) => {
            format!("grows by at most {mib:.0} MiB ({:.1})", verdict.reached)
        }
        Bar::MedianRatioAtMost(ratio) => {
            format!("p50 at most {ratio:.2} times ({:.2})", verdict.reached)
        }
        Bar::P99BeyondAtMost(nanos) => format!(
            "p99 at most {} more ({})",
            time(nanos),
            time(verdict.reached.max(0.0))
        ),
        Bar::FigureAtMost(name, unit, most) => {
            let (most, reached) = (unit.show(most), unit.show(verdict.reached));
            format!("{name}: at most {most} ({reached})")
        }
        Bar::FigureRatioAtMost { figure, of, most } => {
            let reached = verdict.reached;
            format!("{figure}: at most {most:.2} times that of `{of}` ({reached:.2})")
        }
    };
    format!("{bar}: {}", if verdict.met { "met" } else { "**missed**" })
}

/// Nanoseconds for people.
pub fn time(nanos: f64) -> String {
    match nanos {
        n if n < 10.0 => format!("{n:.1} ns"),
        n if n < 1e3 => format!("{n:.0} ns"),
        n if n < 1e4 => format!("{:.2} µs", n / 1e3),
        n if n < 1e5 => format!("{:.1} µs", n / 1e3),
        n if n < 1e6 => format!("{:.0} µs", n / 1e3),
        n if n < 1e7 => format!("{:.2} ms", n / 1e6),
        n if n < 1e9 => format!("{:.0} ms", n / 1e6),
        n => format!("{:.1} s", n / 1e9),
    }
}

fn rate(per_second: f64) -> String {
    match per_second {
        r if r >= 1e6 => format!("{:.2}M", r / 1e6),
        r if r >= 1e3 => format!("{:.0}k", r / 1e3),
        r => format!("{r:.0}"),
    }
}

pub fn json(run: &Run) -> String {
    let rows: Vec<Value> = run.rows.iter().map(|row| row_json(row, run)).collect();
    let value = json!({
        "machine": run.machine,
        "date": run.date,
        "pinned": run.pinned,
        "quick": run.quick,
        "rounds": run.rounds,
        "load_before": run.load_before,
        "load_after": run.load_after,
        "others": run.others(),
        "busy": run.is_busy(),
        "rows": rows,
    });
    let mut text = serde_json::to_string_pretty(&value).expect("figures are plain values");
    text.push('\n');
    text
}

fn row_json(row: &Row, run: &Run) -> Value {
    let allocations = row.allocations_per_operation();
    json!({
        "case": row.case.name,
        "does": row.case.does,
        "terms": row.case.terms,
        "operations": row.case.operations,
        "failure": row.failure,
        "trouble": row.trouble,
        "ns_per_op": row.nanos(),
        "client_cpu_ns_per_op": row.client_cpu(),
        "server_cpu_ns_per_op": row.server_cpu(),
        "allocations_per_op": allocations.map(|(count, _)| count),
        "allocated_bytes_per_op": allocations.map(|(_, bytes)| bytes),
        "peak_mib": row.peak_mib(),
        "growth_mib": row.growth_mib(),
        "server_peak_mib": row.server_peak_mib(),
        "latency_ns": row.latencies(),
        "figures": figures_json(row),
        "others": row.others(),
        "against": row.case.against,
        "ratio": row.ratio(&run.rows),
        "cpu_ratio": row.cpu_ratio(&run.rows),
        "bars": row.verdicts(&run.rows),
    })
}

fn figures_json(row: &Row) -> Value {
    let figures = row.figures().into_iter();
    figures
        .map(|(name, unit)| json!({ "name": name, "unit": unit, "value": row.figure(name) }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{rate, time};

    #[test]
    fn figures_have_two_or_three_digits() {
        assert_eq!(time(8.25), "8.2 ns");
        assert_eq!(time(83.4), "83 ns");
        assert_eq!(time(2_399.0), "2.40 µs");
        assert_eq!(time(53_300.0), "53.3 µs");
        assert_eq!(time(1_234_000.0), "1.23 ms");
        assert_eq!(rate(12_345.0), "12k");
    }
}
