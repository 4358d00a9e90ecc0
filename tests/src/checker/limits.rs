//! I10, bounded memory, I14, isolation, and I15, hygiene.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

use super::clause::Clause;
use super::faults::us;
use super::history::{History, Publish};
use super::report::{Report, Topic, span};
use super::rules::{GroupRules, Promise};
use crate::evidence::{Event, Outcome, What};

/// How many readings the second half of a run needs before it says anything about memory.
const READINGS: usize = 4;

pub(super) fn check(history: &History<'_>, report: &mut Report) {
    let mut memory: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
    for event in history.events {
        match &event.what {
            What::Memory { bytes } => {
                let of_process = memory.entry(&event.process).or_default();
                of_process.push((event.at, *bytes));
            }
            // What starts anew begins small.
            What::Restarted { process } => {
                memory.remove(process.as_str());
            }
            _ => {}
        }
        counts(report, event);
        hygiene(history, report, event);
    }
    for (process, readings) in memory {
        flat(report, process, &readings);
    }
    running(history, report);
    isolation(history, report);
}

fn counts(report: &mut Report, event: &Event) {
    let What::Counted {
        in_flight,
        in_flight_limit,
        buffered,
        buffered_limit,
    } = event.what
    else {
        return;
    };
    let group = event.group.as_deref().unwrap_or("all groups");
    for (count, limit, name) in [
        (in_flight, in_flight_limit, "in flight"),
        (buffered, buffered_limit, "buffered"),
    ] {
        let topic = Topic::Process(event.process.clone());
        report.expect(Clause::OverLimit, count <= limit, event.at, topic, || {
            format!(
                "{} has {count} {name} of {group}; the limit is {limit}",
                event.process
            )
        });
    }
}

/// In the second half no reading is further than 10 % from the middle one.
fn flat(report: &mut Report, process: &str, readings: &[(u64, u64)]) {
    let (Some((first, _)), Some((last, _))) = (readings.first(), readings.last()) else {
        return;
    };
    let half = first + (last - first) / 2;
    let second: Vec<_> = readings.iter().filter(|(at, _)| *at >= half).collect();
    if second.len() < READINGS {
        return;
    }
    let mut sorted: Vec<u64> = second.iter().map(|(_, bytes)| *bytes).collect();
    sorted.sort_unstable();
    let middle = sorted[sorted.len() / 2];
    for (at, bytes) in second {
        let holds = bytes.abs_diff(middle) <= middle / 10;
        report.expect(Clause::MemoryGrows, holds, *at, Topic::Process(process.to_owned()), || {
            format!("{process} holds {bytes} bytes, over 10 % from the {middle} that are usual in its second half")
        });
    }
}

/// How many handlers of a group run at once in a process.
fn running(history: &History<'_>, report: &mut Report) {
    // By group and process: when, one more or one less, and by which message.
    type Changes<'a> = BTreeMap<(&'a str, &'a str), Vec<(u64, i64, u64)>>;
    let mut changes = Changes::new();
    for ((group, id), handling) in &history.handlings {
        if history.group(group).concurrency.is_none() {
            continue;
        }
        for run in &handling.runs {
            let of_group = changes.entry((group, run.process)).or_default();
            of_group.push((run.started, 1, *id));
            if let Some((at, _)) = run.end {
                of_group.push((at, -1, *id));
            }
        }
    }
    for ((group, process), mut changes) in changes {
        let limit = history.group(group).concurrency.unwrap_or(usize::MAX);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        // At the same moment an end comes before a start.
        changes.sort_unstable();
        let mut count = 0;
        for (at, change, id) in changes {
            count += change;
            report.expect(Clause::TooManyRuns, count <= limit, at, Topic::Message(id), || {
                format!("{count} handlers of group {group} ran at once in {process} with that of message {id}; the limit is {limit}")
            });
        }
    }
}

/// What somebody's trouble is about: a group, and maybe one message of it.
type Scope<'a> = (Option<&'a str>, Option<u64>);

/// While one is in trouble, what is published for the others is delivered soon.
fn isolation(history: &History<'_>, report: &mut Report) {
    let mut begun: BTreeMap<Scope<'_>, u64> = BTreeMap::new();
    let mut troubles = Vec::new();
    for event in history.events {
        let scope = (event.group.as_deref(), event.id);
        match event.what {
            What::Troubled => {
                begun.insert(scope, event.at);
            }
            What::Relieved => {
                if let Some(from) = begun.remove(&scope) {
                    troubles.push((scope, from, event.at));
                }
            }
            _ => {}
        }
    }
    for (scope, from) in begun {
        troubles.push((scope, from, history.end));
    }
    for (group, rules) in &history.rules.groups {
        if !(rules.is_durable() || rules.keeps_up) || rules.promise == Promise::Requests {
            continue;
        }
        for (scope, from, to) in &troubles {
            if *scope != (Some(group), None) {
                others_flow(history, report, (group, rules), (*scope, *from, *to));
            }
        }
    }
}

fn others_flow(
    history: &History<'_>,
    report: &mut Report,
    (group, rules): (&str, &GroupRules),
    ((troubled, poison), from, to): (Scope<'_>, u64, u64),
) {
    let bound = us(history.rules.isolation);
    for (id, publishes) in &history.messages {
        let itself = troubled == Some(group) && poison == Some(*id);
        let stored = publishes
            .iter()
            .filter_map(stored)
            .find(|(subject, at)| *subject == rules.subject && (from..=to).contains(at));
        let Some((_, stored)) = stored.filter(|_| !itself) else {
            continue;
        };
        let due = stored.saturating_add(bound);
        if !history.is_there(group, stored)
            || history.faults.touch(stored.saturating_sub(bound), due)
        {
            continue;
        }
        let handling = history.handlings.get(&(group, *id));
        let arrived = handling.and_then(|handling| {
            let first = handling.runs.first().map(|run| run.started);
            first.or(handling.dead().map(|_| stored))
        });
        if arrived.is_none() && history.end < due {
            continue;
        }
        report.expect_by(Clause::HeldUp, Some(due), arrived, history.end, Topic::Message(*id), || {
            let limit = span(bound);
            format!("message {id} should reach group {group} within {limit} while somebody else is in trouble")
        });
    }
}

fn stored<'a>(publish: &Publish<'a>) -> Option<(&'a str, u64)> {
    match publish.returned {
        Some((at, Outcome::Ok)) => Some((publish.subject, at)),
        _ => None,
    }
}

fn hygiene(history: &History<'_>, report: &mut Report, event: &Event) {
    let topic = Topic::Process(event.process.clone());
    match &event.what {
        What::Text { text } => {
            let decoded = percent_decode_str(text).decode_utf8_lossy();
            for secret in &history.rules.secrets {
                let told = text.contains(secret) || decoded.contains(secret);
                report.expect(Clause::Secret, !told, event.at, topic.clone(), || {
                    format!("{} told a credential", event.process)
                });
            }
        }
        What::WireName { name } => {
            let holds = (history.rules.wire_name)(name);
            report.expect(Clause::BadName, holds, event.at, topic, || {
                format!("the name {name:?} reached the wire")
            });
        }
        _ => {}
    }
}
