//! What a run that broke no rule amounts to.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::clause::{Clause, Invariant};
use super::history::{History, Run};
use super::report::Report;
use super::rules::Promise;
use crate::evidence::Outcome;

/// The counts of a run, and what was checked on it.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Verdict {
    /// Messages of which a publish returned Ok.
    pub published_ok: usize,
    /// Messages of which no publish returned Ok, and one may have stored it; those of killed publishers too.
    pub published_unknown: usize,
    /// Messages of which every publish was rejected.
    pub published_rejected: usize,
    /// Messages that a handler finished, counted for each group.
    pub handled: usize,
    /// How often a handler finished a message that its group had finished before.
    pub duplicates: usize,
    /// Messages in the dead-letter store at the end, counted for each group.
    pub dead_lettered: usize,
    /// Messages that were stored at a server just before it was killed, so that they may be lost with it, counted for each group.
    pub may_be_lost: usize,
    /// Those of them that were lost.
    pub lost: usize,
    /// Each kill, and what it hit.
    pub kills: Vec<Kill>,
    /// The longest time from the end of a fault until a message that was stored before was settled.
    pub worst_recovery: Option<Duration>,
    /// How often each rule was checked. A rule that is not here had nothing to be checked on.
    pub checked: BTreeMap<Clause, usize>,
}

/// A kill of a process or a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    /// Its name.
    pub process: String,
    /// When, in microseconds since 1970.
    pub at: u64,
    /// How many publishes had begun and not returned, in all processes.
    pub publishes: usize,
    /// How many handlers ran, in all processes.
    pub handlers: usize,
    /// How many of the publishes were its own.
    pub own_publishes: usize,
    /// How many of the handlers were its own.
    pub own_handlers: usize,
    /// How many messages came again that it had handled, counted for each group.
    pub again: usize,
}

impl Verdict {
    /// The invariants of which no rule had anything to be checked on.
    #[must_use]
    pub fn unchecked(&self) -> Vec<Invariant> {
        let mut all: Vec<_> = self.unchecked_clauses();
        all.retain(|clause| {
            let same = |other: &&Clause| other.invariant() == clause.invariant();
            !self.checked.keys().any(|other| same(&other))
        });
        let mut invariants: Vec<_> = all.into_iter().map(Clause::invariant).collect();
        invariants.dedup();
        invariants
    }

    /// The rules that had nothing to be checked on.
    #[must_use]
    pub fn unchecked_clauses(&self) -> Vec<Clause> {
        let all = Clause::ALL.iter().copied();
        all.filter(|clause| !self.checked.contains_key(clause))
            .collect()
    }
}

pub(super) fn of(history: &History<'_>, report: Report) -> Verdict {
    let mut verdict = Verdict {
        kills: history.kills.clone(),
        checked: report.checked,
        ..Verdict::default()
    };
    for kill in &mut verdict.kills {
        let again = |group: &String| history.again(group, kill);
        kill.again = history.rules.groups.keys().map(again).sum();
    }
    for (group, rules) in history
        .rules
        .groups
        .iter()
        .filter(|(_, rules)| rules.is_durable())
    {
        for id in history.messages.keys() {
            let stored = history.stored(*id, &rules.subject);
            if stored.is_none_or(|at| !history.may_be_lost(at)) {
                continue;
            }
            let handling = history.handlings.get(&(group.as_str(), *id));
            let arrived = handling.is_some_and(|h| h.done().is_some() || h.dead().is_some());
            verdict.may_be_lost += 1;
            verdict.lost += usize::from(!arrived);
        }
    }
    for publishes in history.messages.values() {
        let count = |outcome| {
            let returned = publishes.iter().filter_map(|publish| publish.returned);
            returned.filter(|(_, how)| *how == outcome).count()
        };
        if count(Outcome::Ok) > 0 {
            verdict.published_ok += 1;
        } else if count(Outcome::Rejected) == publishes.len() {
            verdict.published_rejected += 1;
        } else {
            verdict.published_unknown += 1;
        }
    }
    for ((group, id), handling) in &history.handlings {
        let rules = history.group(group);
        let done = handling.runs.iter().filter_map(Run::done).count();
        verdict.handled += usize::from(done > 0);
        verdict.duplicates += done.saturating_sub(1);
        verdict.dead_lettered += usize::from(handling.dead().is_some());
        if rules.promise == Promise::Requests {
            continue;
        }
        let stored = history.stored(*id, &rules.subject);
        let (Some(stored), Some(settled)) = (stored, handling.done()) else {
            continue;
        };
        let healed = history.faults.heal_before(settled);
        if let Some(healed) = healed.filter(|healed| *healed > stored) {
            let took = Duration::from_micros(settled - healed);
            verdict.worst_recovery = verdict.worst_recovery.max(Some(took));
        }
    }
    verdict
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "published: {} ok, {} unknown, {} rejected; handled: {}, {} of them again; dead letters: {}",
            self.published_ok,
            self.published_unknown,
            self.published_rejected,
            self.handled,
            self.duplicates,
            self.dead_lettered
        )?;
        if self.may_be_lost > 0 {
            writeln!(
                f,
                "stored just before the kill of their server: {}; lost with it: {}",
                self.may_be_lost, self.lost
            )?;
        }
        for kill in &self.kills {
            writeln!(
                f,
                "kill of {}: {} publishes in flight ({} its own), {} handlers ({} its own); {} messages came again that it had handled",
                kill.process,
                kill.publishes,
                kill.own_publishes,
                kill.handlers,
                kill.own_handlers,
                kill.again
            )?;
        }
        if let Some(worst) = self.worst_recovery {
            writeln!(f, "worst recovery: {worst:.3?}")?;
        }
        let names = |invariants: Vec<Invariant>| {
            let names: Vec<_> = invariants.iter().map(ToString::to_string).collect();
            if names.is_empty() {
                "-".to_owned()
            } else {
                names.join(" ")
            }
        };
        let mut checked: Vec<_> = self
            .checked
            .keys()
            .map(|clause| clause.invariant())
            .collect();
        checked.dedup();
        writeln!(
            f,
            "checked: {}; nothing to check: {}",
            names(checked),
            names(self.unchecked())
        )
    }
}
