//! After kills and faults: I6, ack after effect, and I7, no stuck consumer.

use std::collections::{BTreeMap, BTreeSet};

use super::clause::Clause;
use super::faults::us;
use super::history::{End, Handling, History};
use super::report::{Report, Topic};
use crate::evidence::{Event, What};

pub(super) fn check(history: &History<'_>, report: &mut Report) {
    for ((group, id), handling) in &history.handlings {
        if !history.group(group).is_durable() {
            continue;
        }
        for at in &handling.acked {
            acked(report, (group, *id, handling), *at);
        }
        for at in &handling.pending {
            let text = "was pending at the server";
            comes_back(history, report, (group, *id, handling), (*at, text), None);
        }
        for run in &handling.runs {
            if let Some(at) = run.ended(End::Killed) {
                let text = "was running when its consumer was killed";
                let process = Some(run.process);
                comes_back(history, report, (group, *id, handling), (at, text), process);
            }
        }
    }
    drained(history, report);
    restarts(history, report);
}

/// I6: what the server takes for acked had its effect before.
fn acked(report: &mut Report, (group, id, handling): (&str, u64, &Handling<'_>), at: u64) {
    let effect = handling.effects.iter().any(|(effect, _)| *effect <= at);
    let done = handling.done().is_some_and(|done| done <= at);
    // A dead letter is acked without one.
    let holds = effect || done || handling.dead().is_some();
    report.expect(
        Clause::AckedWithoutEffect,
        holds,
        at,
        Topic::Message(id),
        || format!("message {id} is acked for group {group}, and had no effect"),
    );
}

/// I6: what was not acked comes back, unless it was done before and its ack was only on the way. Where another run of the
/// process that is `killed` was done, its ack may have arrived or not.
fn comes_back(
    history: &History<'_>,
    report: &mut Report,
    (group, id, handling): (&str, u64, &Handling<'_>),
    (at, text): (u64, &str),
    killed: Option<&str>,
) {
    let done = handling.runs.iter().any(|run| {
        // An ack is told within a lease, or its process was killed before.
        let acks = |done| {
            let lives = history.killed_after(run.process, done);
            let lease = us(history.rules.lease);
            killed == Some(run.process) || lives.is_none_or(|kill| kill > done + lease)
        };
        run.done().is_some_and(|done| done <= at && acks(done))
    });
    let runs = handling.runs.iter();
    let back = runs
        .flat_map(|run| [Some(run.started), run.done()])
        .flatten()
        .filter(|back| *back > at)
        .min();
    let settled =
        done || handling.dead().is_some() || handling.acked.iter().any(|acked| *acked > at);
    let back = if settled { Some(at) } else { back };
    let due = history.faults.due(at, history.rules.recovery);
    report.expect_by(
        Clause::NotBack,
        due,
        back,
        history.end,
        Topic::Message(id),
        || format!("message {id} {text} in group {group}, and should come back"),
    );
}

/// I7: within R after the last fault and the last publish, the server has nothing left for the group.
fn drained(history: &History<'_>, report: &mut Report) {
    let mut readings: BTreeMap<&str, Vec<(u64, u64, u64)>> = BTreeMap::new();
    for event in history.events {
        if let (What::Drained { pending, lag }, Some(group)) = (&event.what, &event.group) {
            let of_group = readings.entry(group).or_default();
            of_group.push((event.at, *pending, *lag));
        }
    }
    for (group, readings) in readings {
        let Some(due) = history
            .faults
            .due(last_publish(history), history.rules.recovery)
        else {
            continue;
        };
        // Before it is due only the last word counts.
        let after = readings.partition_point(|(at, ..)| *at < due);
        let judged = after.min(readings.len() - 1);
        for (at, pending, lag) in &readings[judged..] {
            let holds = (*pending, *lag) == (0, 0);
            report.expect(Clause::Stuck, holds, *at, Topic::Group(group.to_owned()), || {
                format!("group {group} has {pending} pending and {lag} not delivered, when it should be drained")
            });
        }
    }
}

fn last_publish(history: &History<'_>) -> u64 {
    let publishes = history.messages.values().flatten();
    publishes
        .map(|publish| publish.began)
        .max()
        .unwrap_or(history.start)
}

/// I7: only what was killed, or shut down, is started again.
fn restarts(history: &History<'_>, report: &mut Report) {
    let mut down = BTreeSet::new();
    for Event {
        at, process, what, ..
    } in history.events
    {
        match what {
            What::Killed { process } => {
                down.insert(process.as_str());
            }
            What::ShutdownReturned { .. } => {
                down.insert(process);
            }
            What::Restarted { process } => {
                let was_down = down.remove(process.as_str());
                let topic = Topic::Process(process.clone());
                report.expect(Clause::RestartedByHand, was_down, *at, topic, || {
                    format!("{process} was restarted, which was neither killed nor shut down")
                });
            }
            _ => {}
        }
    }
}
