//! I11, shutdown.

use std::collections::BTreeMap;

use super::SLACK;
use super::clause::Clause;
use super::faults::us;
use super::history::{End, Handling, History, Run};
use super::report::{Report, Topic, span};
use crate::evidence::{Event, What};

/// One shutdown of one process.
struct Shutdown<'a> {
    process: &'a str,
    called: u64,
    deadline: u64,
    returned: Option<u64>,
    finished: Option<u64>,
    unfinished: Option<u64>,
    /// When the process was there again, or the end of the run.
    until: u64,
    killed: bool,
}

pub(super) fn check(history: &History<'_>, report: &mut Report) {
    for shutdown in shutdowns(history) {
        in_time(history, report, &shutdown);
        if let Some(returned) = shutdown.returned {
            leaves_nothing(history, report, &shutdown, returned);
        }
    }
}

fn shutdowns<'a>(history: &'a History<'_>) -> Vec<Shutdown<'a>> {
    let mut open: BTreeMap<&str, Shutdown<'_>> = BTreeMap::new();
    let mut all = Vec::new();
    for Event {
        at, process, what, ..
    } in history.events
    {
        match what {
            What::ShutdownCalled { deadline } => {
                // Who calls again, or from a handler, waits for the same end.
                open.entry(process).or_insert(Shutdown {
                    process,
                    called: *at,
                    deadline: us(*deadline),
                    returned: None,
                    finished: None,
                    unfinished: None,
                    until: history.end,
                    killed: false,
                });
            }
            What::ShutdownReturned {
                finished,
                unfinished,
            } => {
                if let Some(shutdown) = open.get_mut(process.as_str()) {
                    shutdown.returned.get_or_insert(*at);
                    shutdown.finished = shutdown.finished.or(*finished);
                    shutdown.unfinished = shutdown.unfinished.or(*unfinished);
                }
            }
            What::Killed { process } | What::Restarted { process } => {
                if let Some(mut shutdown) = open.remove(process.as_str()) {
                    shutdown.until = *at;
                    shutdown.killed = matches!(what, What::Killed { .. });
                    all.push(shutdown);
                }
            }
            _ => {}
        }
    }
    all.extend(open.into_values());
    all
}

fn in_time(history: &History<'_>, report: &mut Report, shutdown: &Shutdown<'_>) {
    let Shutdown {
        process,
        called,
        deadline,
        returned,
        until,
        killed,
        ..
    } = shutdown;
    let due = called.saturating_add(*deadline).saturating_add(SLACK);
    let over = *killed || history.end <= due;
    if returned.is_none() && over && *until <= due {
        return;
    }
    let topic = Topic::Process((*process).to_owned());
    report.expect_by(
        Clause::ShutdownOverdue,
        Some(due),
        *returned,
        history.end,
        topic,
        || {
            format!(
                "the shutdown of {process} should return within {}",
                span(*deadline)
            )
        },
    );
}

fn leaves_nothing(
    history: &History<'_>,
    report: &mut Report,
    shutdown: &Shutdown<'_>,
    returned: u64,
) {
    let (mut finished, mut unfinished) = (0, 0);
    for ((group, id), handling) in &history.handlings {
        for run in handling
            .runs
            .iter()
            .filter(|run| run.process == shutdown.process)
        {
            runs_no_more(report, shutdown, (*id, run), returned);
            let ended = run
                .end
                .filter(|(at, _)| (shutdown.called..=returned).contains(at));
            let settled = history
                .group(group)
                .is_durable()
                .then_some((*group, *id, handling));
            match ended {
                Some((_, End::Dropped)) => {
                    unfinished += 1;
                    if let Some(message) = settled {
                        goes_elsewhere(history, report, message, returned);
                    }
                }
                Some((_, End::Done)) => {
                    finished += 1;
                    if let Some(message) = settled {
                        stays_acked(history, report, message, returned);
                    }
                }
                Some((_, End::Failed)) => finished += 1,
                _ => {}
            }
        }
    }
    for (says, counted, name) in [
        (shutdown.finished, finished, "finished"),
        (shutdown.unfinished, unfinished, "unfinished"),
    ] {
        let Some(says) = says else { continue };
        let topic = Topic::Process(shutdown.process.to_owned());
        report.expect(
            Clause::ShutdownMiscounts,
            says == counted,
            returned,
            topic,
            || {
                format!(
                    "the shutdown of {} says {says} {name}; it was {counted}",
                    shutdown.process
                )
            },
        );
    }
}

/// When it returned, no handler runs, and none begins until the process is started again.
fn runs_no_more(
    report: &mut Report,
    shutdown: &Shutdown<'_>,
    (id, run): (u64, &Run<'_>),
    returned: u64,
) {
    let begins = (returned..shutdown.until).contains(&run.started) && run.started > returned;
    let goes_on = run.started <= returned && run.end.is_none_or(|(at, _)| at > returned);
    let at = run.started.max(returned);
    report.expect(
        Clause::RunsAfterShutdown,
        !begins && !goes_on,
        at,
        Topic::Message(id),
        || {
            format!(
                "the handler of message {id} ran in {} after its shutdown had returned",
                shutdown.process
            )
        },
    );
}

/// What finished is acked: it is not delivered again. Nobody can ack over a link that is down.
fn stays_acked(
    history: &History<'_>,
    report: &mut Report,
    (group, id, handling): (&str, u64, &Handling<'_>),
    returned: u64,
) {
    let publishes = history.messages.get(&id).map_or(0, Vec::len);
    let lease = us(history.rules.lease);
    if publishes != 1
        || history
            .outages
            .touch(returned.saturating_sub(2 * lease), returned)
    {
        return;
    }
    let starts = handling.runs.iter().map(|run| run.started);
    let again = starts
        .chain(handling.pending.iter().copied())
        .find(|at| *at > returned);
    let at = again.unwrap_or(returned);
    report.expect(
        Clause::FinishedNotAcked,
        again.is_none(),
        at,
        Topic::Message(id),
        || {
            format!(
                "message {id} finished in group {group} before shutdown returned, and was not acked"
            )
        },
    );
}

/// What did not finish is delivered again, and is no dead letter.
fn goes_elsewhere(
    history: &History<'_>,
    report: &mut Report,
    (group, id, handling): (&str, u64, &Handling<'_>),
    returned: u64,
) {
    let due = history.faults.due(returned, history.rules.recovery);
    let dropped = handling
        .runs
        .iter()
        .filter_map(|run| run.ended(End::Dropped));
    let dropped = dropped
        .filter(|at| *at <= returned)
        .max()
        .unwrap_or(returned);
    let starts = handling.runs.iter().map(|run| run.started);
    let again = starts.filter(|at| *at > dropped).min();
    report.expect_by(Clause::UnfinishedNotBack, due, again, history.end, Topic::Message(id), || {
        format!("message {id} was not finished in group {group} when shutdown returned, and should be redelivered")
    });
}
