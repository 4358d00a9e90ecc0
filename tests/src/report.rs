//! What a run found: the table of guarantees, and one line of it.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use catga::Capability;

use crate::harness::Scenario;
use crate::mutants::{Mutant, Planted};
use crate::outcome::Outcome;
use crate::rows::ROWS;
use crate::subject::Subject;

/// One thing that was found.
#[derive(Debug)]
pub(crate) struct Finding {
    subject: &'static str,
    scenario: Scenario,
    found: Found,
}

#[derive(Clone, Debug, PartialEq)]
enum Found {
    Passed,
    Refused(Capability),
    NotRun(String),
    Failed,
    Caught(String),
}

impl Finding {
    pub(crate) fn of_scenario(subject: &Subject, scenario: Scenario, outcome: &Outcome) -> Self {
        let found = match outcome {
            Outcome::Passed => Found::Passed,
            Outcome::Refused(capability) => Found::Refused(*capability),
            Outcome::NotRun(why) => Found::NotRun(why.clone()),
            Outcome::Failed(_) => Found::Failed,
        };
        Self {
            subject: subject.name(),
            scenario,
            found,
        }
    }

    pub(crate) fn of_planted(subject: &Subject, scenario: Scenario, planted: Planted) -> Self {
        Self {
            subject: subject.name(),
            scenario,
            found: Found::Caught(planted.to_string()),
        }
    }
}

/// What one backend has to show for one row.
enum Cell {
    /// The row means nothing on it.
    Without,
    Passed {
        caught: BTreeSet<String>,
        refused: BTreeSet<String>,
        not_run: BTreeSet<String>,
    },
    Refused(BTreeSet<String>),
    /// For these reasons; with none, there is no scenario that could show it on this backend.
    NotRun(BTreeSet<String>),
    Failed,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &BTreeSet<String>| {
            let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            names.join(", ")
        };
        let words = |reasons: &BTreeSet<String>| {
            let reasons: Vec<_> = reasons.iter().map(String::as_str).collect();
            reasons.join(", ")
        };
        match self {
            Self::Without => f.write_str("-"),
            Self::NotRun(reasons) if reasons.is_empty() => f.write_str("**not run**"),
            Self::NotRun(reasons) => write!(f, "**not run**: {}", words(reasons)),
            Self::Failed => f.write_str("**FAILED**"),
            Self::Refused(refused) => write!(f, "refused: {}", list(refused)),
            Self::Passed {
                caught,
                refused,
                not_run,
            } => {
                if caught.is_empty() {
                    f.write_str("pass, no mutant")?;
                } else {
                    write!(f, "pass: {}", list(caught))?;
                }
                if !refused.is_empty() {
                    write!(f, "; refused: {}", list(refused))?;
                }
                if !not_run.is_empty() {
                    write!(f, "; not run: {}", words(not_run))?;
                }
                Ok(())
            }
        }
    }
}

/// Whether the table is to be written.
pub(crate) fn overwrites() -> bool {
    std::env::var_os("GUARANTEES").is_some_and(|how| how == "overwrite")
}

/// What a run found.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    subjects: &'a [Subject],
    findings: Vec<Finding>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(subjects: &'a [Subject], findings: Vec<Finding>) -> Self {
        Self { subjects, findings }
    }

    fn cell(&self, subject: &Subject, row: u8) -> Cell {
        if subject.is_without(row) {
            return Cell::Without;
        }
        let mut passed = false;
        let mut failed = false;
        let mut caught = BTreeSet::new();
        let (mut refused, mut not_run) = (BTreeSet::new(), BTreeSet::new());
        let of_row = |finding: &&Finding| {
            finding.subject == subject.name() && finding.scenario.rows().contains(&row)
        };
        for finding in self.findings.iter().filter(of_row) {
            match &finding.found {
                Found::Passed => passed = true,
                Found::Failed => failed = true,
                Found::NotRun(why) => {
                    not_run.insert(why.clone());
                }
                Found::Refused(capability) => {
                    refused.insert(capability.to_string());
                }
                Found::Caught(planted) => {
                    caught.insert(planted.clone());
                }
            }
        }
        match (failed, passed, refused.is_empty()) {
            (true, ..) => Cell::Failed,
            (_, true, _) => Cell::Passed {
                caught,
                refused,
                not_run,
            },
            (_, _, false) => Cell::Refused(refused),
            _ => Cell::NotRun(not_run),
        }
    }

    /// A line for each backend: how many rows came to what.
    pub(crate) fn summary(&self) -> String {
        let mut lines = Vec::new();
        for subject in self.subjects {
            let (mut passed, mut unproved, mut refused) = (0, 0, 0);
            let (mut not_run, mut failed, mut without) = (0, 0, 0);
            for (row, _) in ROWS {
                match self.cell(subject, *row) {
                    Cell::Passed { caught, .. } if caught.is_empty() => unproved += 1,
                    Cell::Passed { .. } => passed += 1,
                    Cell::Refused(_) => refused += 1,
                    Cell::NotRun(_) => not_run += 1,
                    Cell::Failed => failed += 1,
                    Cell::Without => without += 1,
                }
            }
            let of_it = |finding: &&Finding| finding.subject == subject.name();
            let is_refusal = |finding: &&Finding| matches!(finding.found, Found::Refused(_));
            let scenarios = self
                .findings
                .iter()
                .filter(of_it)
                .filter(is_refusal)
                .count();
            lines.push(format!(
                "{}: of {} rows {passed} passed, {unproved} passed without a mutant, {refused} refused, {not_run} not run, {failed} failed; {without} mean nothing there; {scenarios} scenarios were refused",
                subject.title(),
                ROWS.len(),
            ));
        }
        lines.join("\n")
    }

    /// Compares the table with the one that is kept, or keeps it.
    pub(crate) fn keep(&self, path: &Path) -> Result<(), String> {
        let table = self.to_string();
        if overwrites() {
            let written = fs::write(path, &table);
            return written.map_err(|error| format!("cannot write {}: {error}", path.display()));
        }
        let kept = fs::read_to_string(path).unwrap_or_default();
        if kept == table {
            return Ok(());
        }
        Err(format!(
            "{} does not say what this run found: run this again with GUARANTEES=overwrite, and look at the difference{}",
            path.display(),
            difference(&kept, &table)
        ))
    }
}

/// The lines that only one of two tables has.
fn difference(kept: &str, found: &str) -> String {
    let only = |sign: char, lines: &str, others: &str| -> String {
        let others: BTreeSet<_> = others.lines().collect();
        let lines = lines.lines().filter(|line| !others.contains(line));
        lines
            .flat_map(|line| ["\n".to_owned(), sign.to_string(), format!(" {line}")])
            .collect()
    };
    only('-', kept, found) + &only('+', found, kept)
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let titles: Vec<_> = self.subjects.iter().map(Subject::title).collect();
        writeln!(f, "{HEAD}")?;
        writeln!(f, "| # | row | {} |", titles.join(" | "))?;
        writeln!(f, "|--:|---|{}", "---|".repeat(titles.len()))?;
        for (row, name) in ROWS {
            write!(f, "| {row} | {name} |")?;
            for subject in self.subjects {
                write!(f, " {} |", self.cell(subject, *row))?;
            }
            writeln!(f)?;
        }
        for subject in self.subjects {
            for (rows, why) in subject.reasons() {
                writeln!(f, "\n`-` on {}, rows {rows}: {why}.", subject.name())?;
            }
        }
        for subject in self.subjects {
            for (scenario, why) in subject.left_out() {
                writeln!(f, "\nOn {} without `{scenario}`: {why}.", subject.name())?;
            }
        }
        writeln!(
            f,
            "\n## Mutants\n\n| mutant | its bug | caught by |\n|---|---|---|"
        )?;
        let bugs = self.subjects.iter().flat_map(Subject::bugs);
        let planted = Mutant::ALL.iter().map(|mutant| Planted::Mutant(*mutant));
        for planted in planted.chain(bugs.map(|bug| Planted::Bug(*bug))) {
            let name = planted.to_string();
            let caught: BTreeSet<_> = self
                .findings
                .iter()
                .filter(|finding| finding.found == Found::Caught(name.clone()))
                .map(|finding| format!("`{}`", finding.scenario.name()))
                .collect();
            let caught: Vec<_> = caught.into_iter().collect();
            writeln!(
                f,
                "| `{name}` | {} | {} |",
                planted.bug(),
                caught.join(", ")
            )?;
        }
        Ok(())
    }
}

const HEAD: &str = "<!-- Written by the conformance run: GUARANTEES=overwrite cargo test -p catga-testkit --test conformance -->
# What was shown of which backend

Each row is a promise, and the scenarios of the [test kit](../tests/README.md) that carry its number show it on a real backend.
*pass* names the mutants, backends with a planted bug, on which one of these scenarios fails: a row that no bug breaks shows
nothing; one that is broken shows that its check can fail, not that no other bug gets past it. *refused* names the ability that the backend does not claim: what needs it ends in a typed error. What was *not run*
is not known. `-` means nothing on that backend.
";
