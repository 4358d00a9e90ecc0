//! I4, effectively once.

use super::clause::Clause;
use super::history::{End, Handling, History, Run};
use super::report::{Report, Topic, span};
use super::rules::Promise;
use crate::evidence::EffectKind;

pub(super) fn check(history: &History<'_>, report: &mut Report) {
    for ((group, id), handling) in &history.handlings {
        if history.group(group).promise != Promise::ExactlyOnce {
            continue;
        }
        let one = One {
            history,
            group,
            id: *id,
            handling,
        };
        one.completes_once(report);
        one.overlaps(report);
        one.guarded_effects(report);
        one.plain_effects(report);
        one.is_told(report);
    }
    for (group, rules) in &history.rules.groups {
        if rules.promise == Promise::ExactlyOnce {
            for id in history.messages.keys() {
                if let Some(stored) = history.stored(*id, &rules.subject) {
                    settles(history, report, (group, *id), stored);
                }
            }
        }
    }
}

/// A message in a group of QoS 2.
struct One<'a> {
    history: &'a History<'a>,
    group: &'a str,
    id: u64,
    handling: &'a Handling<'a>,
}

impl One<'_> {
    fn topic(&self) -> Topic {
        Topic::Message(self.id)
    }

    /// The completions that are certain: those that somebody saw; else runs that were done, and in whose way to the inbox
    /// nothing came.
    fn completions(&self) -> Vec<u64> {
        let Self {
            history,
            group,
            handling,
            ..
        } = self;
        let mut times: Vec<u64> = if history.completions_seen.contains(group) {
            handling.completed.clone()
        } else {
            let certain = handling.runs.iter().filter(|run| !history.cut(run));
            certain.filter_map(Run::done).collect()
        };
        times.sort_unstable();
        times
    }

    fn completes_once(&self, report: &mut Report) {
        let Self { group, id, .. } = self;
        let completions = self.completions();
        for (number, at) in completions.iter().enumerate() {
            report.expect(
                Clause::CompletedTwice,
                number == 0,
                *at,
                self.topic(),
                || {
                    format!(
                        "message {id} completed {} times in group {group}",
                        number + 1
                    )
                },
            );
        }
        let dead = self.handling.dead();
        if let (Some(done), Some(dead)) = (completions.first(), dead) {
            report.broken(
                Clause::Both,
                dead.max(*done),
                self.topic(),
                format!("message {id} completed in group {group}, and is in its dead letters"),
            );
        } else if dead.is_some() || !completions.is_empty() {
            report.held(Clause::Both);
        }
    }

    fn overlaps(&self, report: &mut Report) {
        let Self {
            history,
            group,
            id,
            handling,
        } = self;
        for (number, run) in handling.runs.iter().enumerate() {
            for earlier in &handling.runs[..number] {
                let over = earlier.end.is_some_and(|(at, _)| at <= run.started);
                let holds = over || history.lost_lease(earlier, run.started);
                report.expect(Clause::Overlap, holds, run.started, self.topic(), || {
                    format!(
                        "a run of message {id} began in group {group} on {}, {} after one on {} that went on and had not lost its lease",
                        run.process,
                        span(run.started - earlier.started),
                        earlier.process,
                    )
                });
            }
            if number == 0 {
                report.held(Clause::Overlap);
            }
        }
    }

    fn guarded_effects(&self, report: &mut Report) {
        let Self { group, id, .. } = self;
        for kind in [EffectKind::Keyed, EffectKind::Committed] {
            let effects = self
                .handling
                .effects
                .iter()
                .filter(|effect| effect.1 == kind);
            for (number, (at, _)) in effects.enumerate() {
                report.expect(Clause::EffectTwice, number == 0, *at, self.topic(), || {
                    format!(
                        "the {kind:?} effect of message {id} happened {} times in group {group}",
                        number + 1
                    )
                });
            }
        }
    }

    fn plain_effects(&self, report: &mut Report) {
        let Self {
            history,
            group,
            id,
            handling,
        } = self;
        let plain = |effects: &[(u64, EffectKind)], until: u64| {
            effects
                .iter()
                .filter(|(at, kind)| *kind == EffectKind::Plain && *at < until)
                .count()
        };
        for (at, kind) in &handling.effects {
            if *kind != EffectKind::Plain {
                continue;
            }
            let cuts = handling
                .runs
                .iter()
                .filter(|run| plain(&run.effects, *at) > 0 && history.cut(run));
            let again = handling.redriven.iter().filter(|redriven| *redriven < at);
            let allowed = 1 + cuts.count() + again.count();
            let count = 1 + plain(&handling.effects, *at);
            report.expect(Clause::PlainEffects, count <= allowed, *at, self.topic(), || {
                format!(
                    "the effect of message {id} happened {count} times in group {group}; only {} runs were cut between effect and completion",
                    allowed - 1
                )
            });
        }
    }

    fn is_told(&self, report: &mut Report) {
        let Self {
            group,
            id,
            handling,
            ..
        } = self;
        for pair in handling.runs.windows(2) {
            let [first, second] = pair else { continue };
            if first
                .ended(End::Killed)
                .is_none_or(|at| at > second.started)
            {
                continue;
            }
            report.expect(Clause::NotTold, second.was_told, second.started, self.topic(), || {
                format!(
                    "the run of message {id} on {} in group {group} was not told that it may have run, after the kill of {}",
                    second.process, first.process
                )
            });
        }
    }
}

/// Of what was stored, one of the two happens.
fn settles(history: &History<'_>, report: &mut Report, (group, id): (&str, u64), stored: u64) {
    if !history.is_there(group, stored) {
        return;
    }
    let handling = history.handlings.get(&(group, id));
    let settled = handling.and_then(|handling| {
        let completed = if history.completions_seen.contains(group) {
            handling.completed.iter().min().copied()
        } else {
            handling.done()
        };
        handling.dead().map(|_| stored).or(completed)
    });
    if settled.is_none() && history.may_be_lost(stored) {
        report.held(Clause::Unsettled);
        return;
    }
    let due = history.faults.due(stored, history.rules.recovery);
    report.expect_by(Clause::Unsettled, due, settled, history.end, Topic::Message(id), || {
        format!("message {id}, of which the publish returned Ok, should complete or be dead-lettered in group {group}")
    });
}
