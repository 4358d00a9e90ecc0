//! Goes through the evidence once, and puts each event where it belongs.

use std::collections::{BTreeMap, BTreeSet};

use super::faults::us;
use super::history::{End, History, Publish, Request, Run};
use super::report::Topic;
use super::verdict::Kill;
use crate::evidence::{Event, What};

/// What is going on at one moment.
#[derive(Default)]
struct Open<'a> {
    /// Runs, publishes and requests by their numbers, as places in the history.
    runs: BTreeMap<u64, (&'a str, u64, usize)>,
    publishes: BTreeMap<u64, (u64, usize)>,
    requests: BTreeMap<u64, (u64, usize)>,
    /// The runs that came to their end.
    over: BTreeMap<u64, (&'a str, u64, usize)>,
    /// All numbers of runs that were ever given.
    known: BTreeSet<u64>,
    dead: BTreeSet<&'a str>,
}

pub(super) fn replay(history: &mut History<'_>) {
    let mut open = Open::default();
    for event in history.events {
        if open.dead.contains(event.process.as_str()) {
            let text = format!("{} was killed, and still writes", event.process);
            history.contradiction(event.at, Topic::Process(event.process.clone()), text);
        }
        match (&event.what, event.group.as_deref(), event.id) {
            (What::Killed { process }, ..) => open.kill(history, process, event.at),
            (What::Restarted { process }, ..) => {
                open.dead.remove(process.as_str());
            }
            (What::GroupCreated, Some(group), _) => history.live(group, true, event.at),
            (What::GroupRemoved, Some(group), _) => history.live(group, false, event.at),
            // What a group has as a whole is looked at where it is judged.
            (What::Drained { .. }, Some(_), _) => {}
            (_, Some(group), Some(id)) if !history.rules.groups.contains_key(group) => {
                let text = format!("there are no rules for group {group}");
                history.contradiction(event.at, Topic::Message(id), text);
            }
            (_, Some(group), Some(id)) => open.handle(history, event, group, id),
            (
                What::Publishing { .. }
                | What::Published { .. }
                | What::RequestSent { .. }
                | What::RequestResolved { .. },
                None,
                Some(id),
            ) => open.call(history, event, id),
            (what, ..) if needs_more(what) => {
                let text = format!("this needs a group and an id: {event}");
                history.contradiction(event.at, Topic::Process(event.process.clone()), text);
            }
            _ => {}
        }
    }
}

/// Whether the event means nothing without the group, or the id, that it is about.
fn needs_more(what: &What) -> bool {
    matches!(
        what,
        What::GroupCreated
            | What::GroupRemoved
            | What::Publishing { .. }
            | What::Published { .. }
            | What::RequestSent { .. }
            | What::RequestResolved { .. }
            | What::Started { .. }
            | What::Effect { .. }
            | What::LeaseLost { .. }
            | What::Done { .. }
            | What::Failed { .. }
            | What::Dropped { .. }
            | What::Completed
            | What::DeadLettered { .. }
            | What::Redriven
            | What::Acked
            | What::Pending
            | What::Drained { .. }
    )
}

impl<'a> Open<'a> {
    /// Events of the sending side.
    fn call(&mut self, history: &mut History<'a>, event: &'a Event, id: u64) {
        let at = event.at;
        match &event.what {
            What::Publishing {
                call,
                subject,
                key,
                checksum,
            } => {
                let publishes = history.messages.entry(id).or_default();
                self.publishes.insert(*call, (id, publishes.len()));
                publishes.push(Publish {
                    process: &event.process,
                    subject,
                    key: key.as_deref(),
                    checksum: *checksum,
                    began: at,
                    returned: None,
                    killed: None,
                });
            }
            What::Published { call, outcome } => match self.publishes.remove(call) {
                Some((of, place)) if of == id => {
                    let publish = history.messages.get_mut(&id).map(|all| &mut all[place]);
                    if let Some(publish) = publish {
                        publish.returned = Some((at, *outcome));
                    }
                }
                _ => {
                    let text = format!("publish {call} returned that did not begin");
                    history.contradiction(at, Topic::Message(id), text);
                }
            },
            What::RequestSent {
                call,
                key,
                deadline,
                checksum,
            } => {
                let requests = history.requests.entry(id).or_default();
                self.requests.insert(*call, (id, requests.len()));
                requests.push(Request {
                    process: &event.process,
                    key: key.as_deref(),
                    checksum: *checksum,
                    sent: at,
                    due: at
                        .saturating_add(us(*deadline))
                        .saturating_add(super::SLACK),
                    resolved: Vec::new(),
                    killed: None,
                });
            }
            What::RequestResolved { call, reply } => match self.requests.get(call) {
                Some((of, place)) if *of == id => {
                    let request = history.requests.get_mut(&id).map(|all| &mut all[*place]);
                    if let Some(request) = request {
                        request.resolved.push((at, *reply));
                    }
                }
                _ => {
                    let text = format!("request {call} was resolved that was not sent");
                    history.contradiction(at, Topic::Message(id), text);
                }
            },
            _ => {}
        }
    }

    /// Events of the handling side.
    fn handle(&mut self, history: &mut History<'a>, event: &'a Event, group: &'a str, id: u64) {
        let at = event.at;
        let handling = history.handlings.entry((group, id)).or_default();
        match &event.what {
            What::Started {
                run,
                may_have_run,
                checksum,
                ..
            } => {
                self.runs.insert(*run, (group, id, handling.runs.len()));
                handling.runs.push(Run {
                    process: &event.process,
                    started: at,
                    was_told: *may_have_run,
                    checksum: *checksum,
                    effects: Vec::new(),
                    lease_lost: None,
                    end: None,
                });
                if !self.known.insert(*run) {
                    let text = format!("two runs have the number {run}");
                    history.contradiction(at, Topic::Message(id), text);
                }
            }
            What::Effect { run, kind } => {
                handling.effects.push((at, *kind));
                if let Some(run) = run {
                    self.of_run(history, event, (group, id, *run), |run| {
                        run.effects.push((at, *kind));
                    });
                }
            }
            What::LeaseLost { run } => match self.over.get(run) {
                // It was told when it was to be settled.
                Some((of, message, place)) if (*of, *message) == (group, id) => {
                    handling.runs[*place].lease_lost = Some(at);
                }
                _ => self.of_run(history, event, (group, id, *run), |run| {
                    run.lease_lost = Some(at);
                }),
            },
            What::Done { run } => self.end(history, event, (group, id, *run), End::Done),
            What::Failed { run } => self.end(history, event, (group, id, *run), End::Failed),
            What::Dropped { run } => self.end(history, event, (group, id, *run), End::Dropped),
            What::Completed => {
                handling.completed.push(at);
                history.completions_seen.insert(group);
            }
            What::DeadLettered { checksum } => handling.dead.push((at, *checksum)),
            What::Redriven => handling.redriven.push(at),
            What::Acked => handling.acked.push(at),
            What::Pending => handling.pending.push(at),
            _ => {}
        }
    }

    fn end(
        &mut self,
        history: &mut History<'a>,
        event: &Event,
        place: (&'a str, u64, u64),
        end: End,
    ) {
        self.of_run(history, event, place, |run| run.end = Some((event.at, end)));
        if let Some(run) = self.runs.remove(&place.2) {
            self.over.insert(place.2, run);
        }
    }

    fn of_run(
        &self,
        history: &mut History<'a>,
        event: &Event,
        (group, id, number): (&'a str, u64, u64),
        change: impl FnOnce(&mut Run<'a>),
    ) {
        match self.runs.get(&number) {
            Some((of, message, place)) if (*of, *message) == (group, id) => {
                if let Some(handling) = history.handlings.get_mut(&(group, id)) {
                    change(&mut handling.runs[*place]);
                }
            }
            _ => {
                let text = format!("run {number} goes on that did not begin, or is over");
                history.contradiction(event.at, Topic::Message(id), text);
            }
        }
    }

    /// Ends what a process was at.
    fn kill(&mut self, history: &mut History<'a>, process: &'a str, at: u64) {
        let mut kill = Kill {
            process: process.to_owned(),
            at,
            publishes: self.publishes.len(),
            handlers: self.runs.len(),
            own_publishes: 0,
            own_handlers: 0,
            again: 0,
        };
        self.dead.insert(process);
        self.runs.retain(|_, (group, id, place)| {
            let handling = history.handlings.get_mut(&(*group, *id));
            let run = handling.map(|handling| &mut handling.runs[*place]);
            let Some(run) = run.filter(|run| run.process == process) else {
                return true;
            };
            run.end = Some((at, End::Killed));
            kill.own_handlers += 1;
            false
        });
        self.publishes.retain(|_, (id, place)| {
            let publishes = history.messages.get_mut(id).map(|all| &mut all[*place]);
            let Some(publish) = publishes.filter(|publish| publish.process == process) else {
                return true;
            };
            publish.killed = Some(at);
            kill.own_publishes += 1;
            false
        });
        for (id, place) in self.requests.values() {
            let request = history.requests.get_mut(id).map(|all| &mut all[*place]);
            if let Some(request) = request.filter(|request| request.process == process) {
                request.killed = Some(at);
            }
        }
        history.kills.push(kill);
    }
}
