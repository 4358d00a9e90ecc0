//! I12, requests.

use std::collections::{BTreeMap, BTreeSet};

use super::clause::Clause;
use super::history::{History, Request};
use super::report::{Report, Topic, span};
use super::rules::Promise;
use crate::evidence::Reply;

pub(super) fn check(history: &History<'_>, report: &mut Report) {
    for (id, requests) in &history.requests {
        for request in requests {
            resolves(history, report, *id, request);
        }
    }
    effects(history, report);
}

/// Once, in time, with its own reply; a caller that was killed waits no more.
fn resolves(history: &History<'_>, report: &mut Report, id: u64, request: &Request<'_>) {
    for (number, (at, reply)) in request.resolved.iter().enumerate() {
        let topic = Topic::Message(id);
        report.expect(
            Clause::ResolvedTwice,
            number == 0,
            *at,
            topic.clone(),
            || format!("request {id} was resolved {} times", number + 1),
        );
        if *reply != Reply::Error {
            report.expect(
                Clause::ForeignReply,
                *reply == Reply::Own,
                *at,
                topic,
                || format!("request {id} got the reply to another one"),
            );
        }
    }
    let resolved = request
        .resolved
        .first()
        .map(|(at, _)| *at)
        .or(request.killed);
    if resolved.is_none() && history.end <= request.due {
        return;
    }
    let due = Some(request.due);
    report.expect_by(
        Clause::RequestOverdue,
        due,
        resolved,
        history.end,
        Topic::Message(id),
        || {
            let deadline = request.due - request.sent - super::SLACK;
            format!("request {id} should resolve within {}", span(deadline))
        },
    );
}

/// All requests of one key have one effect together.
fn effects(history: &History<'_>, report: &mut Report) {
    let mut ids: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for (id, requests) in &history.requests {
        for key in requests.iter().filter_map(|request| request.key) {
            ids.entry(key).or_default().insert(*id);
        }
    }
    for (key, ids) in ids {
        let mut effects: Vec<(u64, u64)> = Vec::new();
        for ((group, id), handling) in &history.handlings {
            if ids.contains(id) && history.group(group).promise == Promise::Requests {
                effects.extend(handling.effects.iter().map(|(at, _)| (*at, *id)));
            }
        }
        effects.sort_unstable();
        for (number, (at, id)) in effects.iter().enumerate() {
            report.expect(
                Clause::RequestEffectTwice,
                number == 0,
                *at,
                Topic::Message(*id),
                || {
                    format!(
                        "the idempotency key {key:?} had its effect {} times, last by request {id}",
                        number + 1
                    )
                },
            );
        }
    }
}
