//! What is delivered, and how often: I2, I3, I8 and I9.

use std::collections::BTreeMap;

use super::clause::Clause;
use super::faults::us;
use super::history::{End, Handling, History, Publish};
use super::report::{Report, Topic};
use super::rules::{GroupRules, Promise};
use crate::evidence::Outcome;

pub(super) fn check(history: &History<'_>, report: &mut Report) {
    for ((group, id), handling) in &history.handlings {
        let rules = history.group(group);
        if rules.promise == Promise::AtMostOnce {
            at_most_once(report, group, *id, handling);
        }
        if let Some(max) = rules.max_deliver {
            bounded(history, report, (group, *id, handling), max);
        }
    }
    for (group, rules) in &history.rules.groups {
        for id in history.messages.keys() {
            let stored = history.stored(*id, &rules.subject);
            if let Some(stored) = stored.filter(|at| history.is_there(group, *at)) {
                arrives(history, report, (group, *id, rules), stored);
            }
        }
        if rules.ordered {
            in_order(history, report, group, rules);
        }
        if let Some(most) = rules.again {
            comes_again(history, report, group, most);
        }
    }
}

/// I2: no second start.
fn at_most_once(report: &mut Report, group: &str, id: u64, handling: &Handling<'_>) {
    for (number, run) in handling.runs.iter().enumerate() {
        let topic = Topic::Message(id);
        report.expect(
            Clause::HandledTwice,
            number == 0,
            run.started,
            topic,
            || {
                format!(
                    "group {group} got message {id} of QoS 0 {} times",
                    number + 1
                )
            },
        );
    }
}

/// I3, and I2 of those that keep up: what was published arrives.
fn arrives(
    history: &History<'_>,
    report: &mut Report,
    (group, id, rules): (&str, u64, &GroupRules),
    stored: u64,
) {
    let handling = history.handlings.get(&(group, id));
    let due = history.faults.due(stored, history.rules.recovery);
    let (clause, arrived, text) = match rules.promise {
        Promise::AtMostOnce if rules.keeps_up => {
            let bound = us(history.rules.recovery);
            if history
                .faults
                .touch(stored.saturating_sub(bound), stored.saturating_add(bound))
            {
                return;
            }
            let first = handling.and_then(|handling| handling.runs.first());
            let arrived = first.map(|run| run.started);
            (
                Clause::Missed,
                arrived,
                "did not lag behind, and should get",
            )
        }
        Promise::AtLeastOnce => {
            let arrived = handling.and_then(|h| h.dead().map(|_| stored).or(h.done()));
            if arrived.is_none() && history.may_be_lost(stored) {
                report.held(Clause::Lost);
                return;
            }
            (Clause::Lost, arrived, "should handle or dead-letter")
        }
        _ => return,
    };
    let topic = Topic::Message(id);
    report.expect_by(clause, due, arrived, history.end, topic, || {
        format!("group {group} {text} message {id}, of which the publish returned Ok")
    });
}

/// I8: so many deliveries, then it is a dead letter, then it is not handled.
fn bounded(
    history: &History<'_>,
    report: &mut Report,
    (group, id, handling): (&str, u64, &Handling<'_>),
    max: usize,
) {
    let (mut count, mut crashes, mut failed) = (0, 0, None);
    let mut redriven = handling.redriven.iter().copied().peekable();
    for run in &handling.runs {
        while redriven.next_if(|at| *at <= run.started).is_some() {
            (count, crashes, failed) = (0, 0, None);
        }
        count += 1;
        let (at, topic) = (run.started, Topic::Message(id));
        report.expect(Clause::TooManyDeliveries, count <= max + crashes, at, topic, || {
            format!(
                "group {group} got message {id} {count} times; {max} are allowed, and {crashes} for crashes of its consumer"
            )
        });
        crashes += usize::from(history.crashed(run));
        if count >= max + crashes {
            failed = run.ended(End::Failed);
        }
        buried(report, (group, id, handling), at);
    }
    if let Some(failed) = failed.filter(|_| handling.done().is_none()) {
        let due = history.faults.due(failed, history.rules.recovery);
        let dead = handling.dead().map(|_| failed);
        report.expect_by(Clause::NotDeadLettered, due, dead, history.end, Topic::Message(id), || {
            format!("message {id} failed for the last time in group {group}, and should be dead-lettered")
        });
    }
}

/// I8: of what a process had handled, what comes again after its kill.
fn comes_again(history: &History<'_>, report: &mut Report, group: &str, most: usize) {
    for kill in &history.kills {
        let again = history.again(group, kill);
        let topic = Topic::Process(kill.process.clone());
        report.expect(Clause::TooManyAgain, again <= most, kill.at, topic, || {
            format!(
                "group {group} got {again} messages again that {} had handled when it was killed; {most} are allowed",
                kill.process
            )
        });
    }
}

fn buried(report: &mut Report, (group, id, handling): (&str, u64, &Handling<'_>), started: u64) {
    let dead = handling.dead.iter().map(|(at, _)| *at);
    let Some(dead) = dead.filter(|at| *at < started).max() else {
        report.held(Clause::HandledDead);
        return;
    };
    let mut redriven = handling.redriven.iter();
    let back = redriven.any(|at| (dead..=started).contains(at));
    report.expect(
        Clause::HandledDead,
        back,
        started,
        Topic::Message(id),
        || format!("group {group} got message {id}, which was in its dead letters"),
    );
}

/// I9: whoever was published before another began is not delivered for the first time after it.
fn in_order(history: &History<'_>, report: &mut Report, group: &str, rules: &GroupRules) {
    let mut first: Vec<(u64, u64, &Publish<'_>)> = Vec::new();
    for (id, publishes) in &history.messages {
        // Of several calls nobody knows which one is delivered.
        let [publish] = publishes.as_slice() else {
            continue;
        };
        let Some(handling) = history.handlings.get(&(group, *id)) else {
            continue;
        };
        if let Some(run) = handling
            .runs
            .first()
            .filter(|_| publish.subject == rules.subject)
        {
            first.push((run.started, *id, publish));
        }
    }
    first.sort_unstable_by_key(|(started, ..)| *started);
    // By publisher and key, the message that began to be published last among those delivered so far.
    let mut newest: BTreeMap<(&str, Option<&str>), (u64, u64)> = BTreeMap::new();
    for (started, id, publish) in first {
        let (latest, newer) = *newest
            .entry((publish.process, publish.key))
            .and_modify(|newest| *newest = (*newest).max((publish.began, id)))
            .or_insert((publish.began, id));
        let Some((returned, Outcome::Ok)) = publish.returned else {
            continue;
        };
        let ordered = returned >= latest;
        report.expect(Clause::OutOfOrder, ordered, started, Topic::Message(id), || {
            format!(
                "group {group} first got message {id} after message {newer}, which {} began to publish after it",
                publish.process
            )
        });
    }
}
