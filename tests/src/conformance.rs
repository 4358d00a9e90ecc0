//! The run: every scenario and every mutant on every backend, as named tests, and what came of it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use libtest_mimic::{Arguments, Completion, Trial};

use crate::bus::Bus;
use crate::harness::{Clock, Scenario, seed};
use crate::mutants::{Mutant, Planted};
use crate::outcome::{Outcome, note_panics};
use crate::report::{Finding, Report, overwrites};
use crate::subject::{Subject, Time};
use crate::suite::suite;
use crate::worker;

/// How many scenarios run at once on a backend that goes by the clock on the wall.
const WAITING: usize = 8;

/// All scenarios and mutants on these backends, as the `main` of a test without harness.
///
/// Each is a test of its own: `memory::redelivery::handler_error`, `memory::mutant::naks_without_delay`; what
/// `cargo test` says of names and options holds. A scenario that needs what a backend does not claim passes when it is
/// refused by a typed error, and is counted as refused.
///
/// # Examples
/// ```no_run
/// use catga_testkit::{Subject, conformance};
///
/// fn main() -> std::process::ExitCode {
///     conformance([Subject::memory()]).main()
/// }
/// ```
pub fn conformance(subjects: impl IntoIterator<Item = Subject>) -> Conformance {
    let subjects: Vec<Subject> = subjects.into_iter().collect();
    let names: BTreeSet<_> = subjects.iter().map(Subject::name).collect();
    assert_eq!(
        names.len(),
        subjects.len(),
        "two backends have one name: tell them apart with `.named(..)`"
    );
    let known = suite();
    let left_out = subjects.iter().flat_map(Subject::left_out);
    for (name, _) in left_out {
        let is_known = known.iter().any(|scenario| scenario.name() == *name);
        assert!(is_known, "there is no scenario `{name}` to be without");
    }
    Conformance {
        subjects,
        missing: Vec::new(),
        table: None,
    }
}

/// A run that is to be made; see [`conformance`].
#[derive(Debug)]
#[must_use = "nothing runs before `.main()`"]
pub struct Conformance {
    subjects: Vec<Subject>,
    missing: Vec<(&'static str, String)>,
    table: Option<PathBuf>,
}

impl Conformance {
    /// Keeps the table of guarantees in a file: a run of everything fails when it says something else, and
    /// writes it with `GUARANTEES=overwrite`.
    pub fn with_table(mut self, path: impl Into<PathBuf>) -> Self {
        self.table = Some(path.into());
        self
    }

    /// Says that a backend cannot be tried here, and why: no server, say. It counts as not run, and a run that asks for it by
    /// name fails.
    pub fn without_backend(mut self, name: &'static str, reason: impl Into<String>) -> Self {
        self.missing.push((name, reason.into()));
        self
    }

    /// Runs what the arguments of this process ask for.
    #[must_use]
    pub fn main(self) -> ExitCode {
        if let Some(end) = worker::when_asked(&self.subjects) {
            return end;
        }
        let mut arguments = Arguments::from_args();
        let seed = seed();
        let (find, found) = channel();
        let mut trials = self.trials(seed, &find);
        for (name, reason) in &self.missing {
            trials.push(missing_trial(name, reason, arguments.filter.as_deref()));
        }
        drop(find);
        if arguments.list {
            return libtest_mimic::run(&arguments, trials).exit_code();
        }
        if self
            .subjects
            .iter()
            .any(|subject| subject.time() == Time::Wall)
        {
            // Most of them wait most of the time.
            arguments.test_threads.get_or_insert(WAITING);
        }
        say(&format!("\nseed={seed} (again with CATGA_SEED={seed})"));
        note_panics();
        let conclusion = libtest_mimic::run(&arguments, trials);
        if let (0, Some(filter)) = (
            conclusion.num_passed + conclusion.num_failed + conclusion.num_ignored,
            &arguments.filter,
        ) {
            say(&format!(
                "no scenario of these backends has `{filter}` in its name"
            ));
            return ExitCode::FAILURE;
        }
        let report = Report::new(&self.subjects, found.try_iter().collect());
        say(&report.summary());
        let everything = conclusion.num_filtered_out == 0 && !looks_for_more();
        if overwrites() && (conclusion.has_failed() || !everything) {
            say("the table is written by a run of everything that passes");
        }
        let stale = match &self.table {
            Some(path) if everything && !conclusion.has_failed() => report.keep(path),
            None if everything => {
                say(&report.to_string());
                Ok(())
            }
            _ => Ok(()),
        };
        match stale {
            Ok(()) => conclusion.exit_code(),
            Err(stale) => {
                say(&stale);
                ExitCode::FAILURE
            }
        }
    }

    fn trials(&self, seed: u64, find: &Sender<Finding>) -> Vec<Trial> {
        let suite: Arc<[_]> = suite().into();
        let mut trials = Vec::new();
        for subject in &self.subjects {
            for scenario in suite.iter().filter(|scenario| scenario.runs_on(subject)) {
                trials.push(scenario_trial(subject, *scenario, seed, find.clone()));
            }
            let of_the_kit = Mutant::ALL.iter().map(|mutant| Planted::Mutant(*mutant));
            let of_its_own = subject.bugs().iter().map(|bug| Planted::Bug(*bug));
            for planted in of_the_kit.chain(of_its_own) {
                let suite = Arc::clone(&suite);
                trials.push(planted_trial(subject, planted, suite, seed, find.clone()));
            }
        }
        trials
    }
}

/// Fails when somebody asked for this backend.
fn missing_trial(name: &str, reason: &str, filter: Option<&str>) -> Trial {
    let asked = filter.is_some_and(|filter| filter.contains(name));
    let reason = reason.to_owned();
    Trial::ignorable_test(format!("{name}::*"), move || {
        if asked {
            return Err(reason.into());
        }
        Ok(Completion::ignored_with(reason))
    })
}

fn scenario_trial(
    subject: &Subject,
    scenario: Scenario,
    seed: u64,
    find: Sender<Finding>,
) -> Trial {
    let name = format!("{}::{}", subject.name(), scenario.name());
    let subject = subject.clone();
    Trial::ignorable_test(name, move || {
        let outcome = scenario.run(Bus::on(&subject, scenario.name(), seed));
        let _ = find.send(Finding::of_scenario(&subject, scenario, &outcome));
        match outcome {
            Outcome::Passed | Outcome::Refused(_) => Ok(Completion::Completed),
            Outcome::NotRun(why) => Ok(Completion::ignored_with(why)),
            Outcome::Failed(failure) => Err(failure.into()),
        }
    })
}

/// Whether somebody looks for all that catches a mutant.
fn looks_for_more() -> bool {
    std::env::var_os("CATGA_MUTANTS").is_some_and(|which| which == "all")
}

/// What is tried on every mutant when somebody looks for what else catches it.
fn is_quick(scenario: &Scenario) -> bool {
    !scenario.rows().is_empty() && scenario.clock() == Clock::Paused
}

/// Passes when each scenario that is to catch the bug fails on it.
fn planted_trial(
    subject: &Subject,
    planted: Planted,
    suite: Arc<[Scenario]>,
    seed: u64,
    find: Sender<Finding>,
) -> Trial {
    let name = format!("{}::mutant::{planted}", subject.name());
    let subject = subject.clone();
    Trial::ignorable_test(name, move || {
        let everything = looks_for_more();
        let (mut applies, mut missed) = (false, Vec::new());
        for name in planted.caught_by() {
            if !suite.iter().any(|scenario| scenario.name() == *name) {
                missed.push(format!("there is no scenario `{name}`"));
            }
        }
        let asked = suite.iter().filter(|scenario| {
            let listed = planted.caught_by().contains(&scenario.name());
            let asked = listed && planted.is_felt(scenario.name(), &subject);
            scenario.runs_on(&subject) && (asked || everything && is_quick(scenario))
        });
        for scenario in asked {
            let bus = planted.plant(Bus::on(&subject, scenario.name(), seed));
            match scenario.run(bus) {
                Outcome::Failed(failure) if failure.is_evidence => {
                    applies = true;
                    let text = failure.to_string().replace('\n', " ");
                    let text: String = text.chars().take(200).collect();
                    say(&format!("{planted}: caught by {}: {text}", scenario.name()));
                    let _ = find.send(Finding::of_planted(&subject, *scenario, planted));
                }
                Outcome::Failed(failure) if !everything => {
                    missed.push(format!(
                        "`{}` says nothing of it: {failure}",
                        scenario.name()
                    ));
                }
                Outcome::Passed if !everything => {
                    missed.push(format!("`{}` did not notice it", scenario.name()));
                }
                _ => {}
            }
        }
        if !missed.is_empty() {
            Err(format!("{} ({})", missed.join("; "), planted.bug()).into())
        } else if applies {
            Ok(Completion::Completed)
        } else {
            Ok(Completion::ignored_with(
                "nothing that it breaks runs on this backend",
            ))
        }
    })
}

#[allow(
    clippy::print_stdout,
    reason = "whoever looks for a failure needs the seed, and what was not run"
)]
fn say(text: &str) {
    println!("{text}");
}
