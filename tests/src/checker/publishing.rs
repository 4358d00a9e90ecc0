//! I1, nothing invented, and I5, honest outcomes.

use super::SLACK;
use super::clause::Clause;
use super::faults::us;
use super::history::{Handling, History, Publish};
use super::report::{Report, Topic, span};
use super::rules::Promise;
use crate::evidence::Outcome;

pub(super) fn check(history: &History<'_>, report: &mut Report) {
    for ((group, id), handling) in &history.handlings {
        for (at, checksum, what) in arrivals(handling) {
            if history.group(group).promise == Promise::Requests {
                arrived_request(history, report, (*id, at, checksum, what));
            } else {
                arrived(history, report, group, (*id, at, checksum, what));
            }
        }
    }
    for (id, publishes) in &history.messages {
        for publish in publishes {
            returned(history, report, *id, publish);
        }
    }
}

/// A message that came out: its id, when, with which checksum, and how.
type Arrival = (u64, u64, u64, &'static str);

fn arrivals(handling: &Handling<'_>) -> impl Iterator<Item = (u64, u64, &'static str)> {
    let runs = handling.runs.iter();
    let started = runs.map(|run| (run.started, run.checksum, "delivered"));
    let dead = handling.dead.iter();
    started.chain(dead.map(|(at, checksum)| (*at, *checksum, "dead-lettered")))
}

/// What comes out went in before, and to this group; not in a call that was refused.
fn arrived(
    history: &History<'_>,
    report: &mut Report,
    group: &str,
    (id, at, checksum, what): Arrival,
) {
    let subject = &history.group(group).subject;
    let topic = || Topic::Message(id);
    let publishes = history.messages.get(&id).into_iter().flatten();
    let before: Vec<_> = publishes
        .filter(|publish| publish.subject == *subject && publish.began <= at)
        .collect();
    report.expect(Clause::Invented, !before.is_empty(), at, topic(), || {
        format!(
            "message {id} was {what} in group {group}, and nobody had published it to {subject}"
        )
    });
    if before.is_empty() {
        return;
    }
    let stored: Vec<_> = before
        .iter()
        .filter(|publish| !is_rejected(publish))
        .collect();
    report.expect(
        Clause::RejectedHandled,
        !stored.is_empty(),
        at,
        topic(),
        || format!("message {id} was {what} in group {group}, and its publish had been rejected"),
    );
    if stored.is_empty() {
        return;
    }
    let same = stored.iter().any(|publish| publish.checksum == checksum);
    report.expect(Clause::Altered, same, at, topic(), || {
        format!("message {id} was {what} in group {group} with other content than was published")
    });
}

fn arrived_request(history: &History<'_>, report: &mut Report, (id, at, checksum, what): Arrival) {
    let topic = || Topic::Message(id);
    let requests = history.requests.get(&id).into_iter().flatten();
    let before: Vec<_> = requests.filter(|request| request.sent <= at).collect();
    report.expect(Clause::Invented, !before.is_empty(), at, topic(), || {
        format!("request {id} was {what}, and nobody had sent it")
    });
    if before.is_empty() {
        return;
    }
    let same = before.iter().any(|request| request.checksum == checksum);
    report.expect(Clause::Altered, same, at, topic(), || {
        format!("request {id} was {what} with other content than was sent")
    });
}

fn is_rejected(publish: &Publish<'_>) -> bool {
    matches!(publish.returned, Some((_, Outcome::Rejected)))
}

/// A call returns by its deadline, unless its process was killed before.
fn returned(history: &History<'_>, report: &mut Report, id: u64, publish: &Publish<'_>) {
    let deadline = us(history.rules.publish_deadline);
    let due = publish.began.saturating_add(deadline).saturating_add(SLACK);
    let ended = publish.returned.map(|(at, _)| at).or(publish.killed);
    if ended.is_none() && history.end <= due {
        return;
    }
    let holds = ended.is_some_and(|at| at <= due);
    report.expect(Clause::PublishOverdue, holds, due, Topic::Message(id), || {
        let deadline = span(deadline);
        match ended {
            Some(at) => {
                let took = span(at - publish.began);
                format!("the publish of message {id} took {took}; its deadline is {deadline}")
            }
            None => format!(
                "the publish of message {id} had not returned at the end; its deadline was {deadline}"
            ),
        }
    });
}
