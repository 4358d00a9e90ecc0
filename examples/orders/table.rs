//! The report as people read it.

use std::fmt;
use std::time::Duration;

use indicatif::HumanCount;

use crate::books::Balance;
use crate::histogram::Histogram;
use crate::intake::Intake;
use crate::ledger::Ledger;
use crate::report::Report;

const COLUMNS: [&str; 6] = [
    "published",
    "handled",
    "retried",
    "dead-lettered",
    "dropped",
    "duplicates",
];

/// Everything that is printed at the end.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    pub(crate) report: &'a Report,
    pub(crate) ledger: &'a Ledger,
    pub(crate) intake: &'a Intake,
    /// What went wrong beside the sums.
    pub(crate) problems: &'a [String],
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts(f)?;
        self.latencies(f)?;
        self.totals(f)?;
        self.verdict(f)
    }
}

impl Table<'_> {
    fn counts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (message, handler) = ("message", "handled by");
        write!(f, "\n{message:<14}{handler:<18}")?;
        for column in COLUMNS {
            write!(f, "{column:>0$}", width(column))?;
        }
        writeln!(f)?;
        for row in &self.report.rows {
            write!(f, "{:<14}{:<18}", row.message, row.handler)?;
            let stats = &row.stats;
            let counts = [
                row.published,
                stats.handled,
                stats.retried,
                stats.dead_lettered,
                stats.dropped,
                stats.duplicates,
            ];
            for (column, count) in COLUMNS.into_iter().zip(counts) {
                write!(f, "{:>1$}", grouped(count), width(column))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    fn latencies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<32}{:>15}{:>15}{:>15}",
            "latency", "p50", "p99", "p99.9"
        )?;
        for (what, histogram) in [
            (
                "CreateOrder, sent to answered",
                &self.ledger.request_latency,
            ),
            ("OrderShipped, sent to billed", &self.ledger.billing_latency),
        ] {
            write!(f, "{what:<32}")?;
            for per_mille in [500, 990, 999] {
                write!(f, "{:>15}", latency(histogram, per_mille))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    fn totals(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { report, intake, .. } = self;
        writeln!(f)?;
        if intake.lines > 0 {
            let [lines, orders, malformed, blank] =
                [intake.lines, intake.orders, intake.malformed, intake.blank].map(grouped);
            writeln!(
                f,
                "input       {lines} lines read: {orders} orders, {malformed} malformed, {blank} blank"
            )?;
        }
        let handled = report.rows.iter().map(|row| row.stats.handled).sum();
        let [orders, per_second, messages] = [
            report.orders,
            rate(report.orders, report.took),
            rate(handled, report.took),
        ]
        .map(grouped);
        let Balance {
            payments,
            accounts,
            cents,
        } = report.balance;
        let (whole, part) = (grouped(cents / 100), cents % 100);
        writeln!(
            f,
            "books       {} payments over {whole}.{part:02} in {} accounts",
            grouped(payments),
            grouped(accounts),
        )?;
        let seconds = report.took.as_secs_f64();
        writeln!(
            f,
            "throughput  {orders} orders in {seconds:.2} s: {per_second} orders/s, {messages} messages handled/s"
        )
    }

    fn verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let checks = &self.report.checks;
        let wrong = self.report.wrong().count();
        if wrong == 0 {
            writeln!(f, "sums        all {} add up", checks.len())?;
        } else {
            writeln!(f, "sums        {wrong} of {} do not add up:", checks.len())?;
        }
        for check in self.report.wrong() {
            writeln!(
                f,
                "  {}: {} instead of {}",
                check.what, check.have, check.want
            )?;
        }
        for problem in self.problems {
            writeln!(f, "problem     {problem}")?;
        }
        Ok(())
    }
}

/// With room for a million and two blanks.
fn width(column: &str) -> usize {
    column.len().max(9) + 2
}

/// `1,234,567`.
fn grouped(count: u64) -> String {
    HumanCount(count).to_string()
}

fn latency(histogram: &Histogram, per_mille: u64) -> String {
    format!("{:.2?}", histogram.quantile(per_mille))
}

fn rate(count: u64, took: Duration) -> u64 {
    let per_second = u128::from(count) * 1_000_000 / took.as_micros().max(1);
    u64::try_from(per_second).unwrap_or(u64::MAX)
}
