//! What happened, by message: the evidence in the shape that the checks ask for.

use std::collections::{BTreeMap, BTreeSet};

use super::SLACK;
use super::clause::Clause;
use super::faults::{Faults, us};
use super::report::{Report, Topic};
use super::rules::{GroupRules, Rules};
use super::verdict::Kill;
use crate::evidence::{EffectKind, Event, Outcome, Reply, What};

/// All that the checks look at.
#[derive(Debug)]
pub(super) struct History<'a> {
    pub(super) rules: &'a Rules,
    pub(super) events: &'a [Event],
    pub(super) start: u64,
    pub(super) end: u64,
    /// The publishes of each id.
    pub(super) messages: BTreeMap<u64, Vec<Publish<'a>>>,
    /// The requests of each id.
    pub(super) requests: BTreeMap<u64, Vec<Request<'a>>>,
    /// What each group did with each id.
    pub(super) handlings: BTreeMap<(&'a str, u64), Handling<'a>>,
    /// From when to when each group existed.
    lives: BTreeMap<&'a str, Vec<(u64, Option<u64>)>>,
    /// The groups of which somebody saw the completions.
    pub(super) completions_seen: BTreeSet<&'a str>,
    pub(super) kills: Vec<Kill>,
    /// All that went wrong, kills included.
    pub(super) faults: Faults,
    /// What went wrong with links and servers.
    pub(super) outages: Faults,
    /// When servers were killed, which write no evidence.
    server_kills: Vec<u64>,
    contradictions: Vec<(u64, Topic, String)>,
}

/// One call of `publish`.
#[derive(Debug)]
pub(super) struct Publish<'a> {
    pub(super) process: &'a str,
    pub(super) subject: &'a str,
    pub(super) key: Option<&'a str>,
    pub(super) checksum: u64,
    pub(super) began: u64,
    /// When it returned, and with what. Nothing of a process that was killed in the call.
    pub(super) returned: Option<(u64, Outcome)>,
    pub(super) killed: Option<u64>,
}

/// One call of `send`.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) process: &'a str,
    pub(super) key: Option<&'a str>,
    pub(super) checksum: u64,
    pub(super) sent: u64,
    pub(super) due: u64,
    pub(super) resolved: Vec<(u64, Reply)>,
    pub(super) killed: Option<u64>,
}

/// What one group did with one message.
#[derive(Debug, Default)]
pub(super) struct Handling<'a> {
    /// In the order in which they began.
    pub(super) runs: Vec<Run<'a>>,
    /// All effects.
    pub(super) effects: Vec<(u64, EffectKind)>,
    pub(super) completed: Vec<u64>,
    /// When it was found dead-lettered, and with which checksum.
    pub(super) dead: Vec<(u64, u64)>,
    pub(super) redriven: Vec<u64>,
    pub(super) acked: Vec<u64>,
    pub(super) pending: Vec<u64>,
}

/// One run of a handler.
#[derive(Debug)]
pub(super) struct Run<'a> {
    pub(super) process: &'a str,
    pub(super) started: u64,
    /// That an earlier run may have had its effect.
    pub(super) was_told: bool,
    pub(super) checksum: u64,
    pub(super) effects: Vec<(u64, EffectKind)>,
    pub(super) lease_lost: Option<u64>,
    pub(super) end: Option<(u64, End)>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Done,
    Failed,
    Dropped,
    Killed,
}

impl Run<'_> {
    pub(super) fn ended(&self, end: End) -> Option<u64> {
        self.end.filter(|(_, how)| *how == end).map(|(at, _)| at)
    }

    pub(super) fn done(&self) -> Option<u64> {
        self.ended(End::Done)
    }
}

impl Handling<'_> {
    /// When the first run was done.
    pub(super) fn done(&self) -> Option<u64> {
        self.runs.iter().filter_map(Run::done).min()
    }

    /// Whether it lies in the store of dead letters at the end, and since when that is known.
    pub(super) fn dead(&self) -> Option<u64> {
        let found = self.dead.iter().map(|(at, _)| *at).max()?;
        let moved = self.redriven.iter().max().copied().unwrap_or_default();
        (found > moved).then_some(found)
    }
}

impl<'a> History<'a> {
    pub(super) fn of(events: &'a [Event], rules: &'a Rules) -> Self {
        let mut history = Self {
            rules,
            events,
            start: events.first().map_or(0, |event| event.at),
            end: events.last().map_or(0, |event| event.at),
            messages: BTreeMap::new(),
            requests: BTreeMap::new(),
            handlings: BTreeMap::new(),
            lives: BTreeMap::new(),
            completions_seen: BTreeSet::new(),
            kills: Vec::new(),
            faults: Faults::default(),
            outages: Faults::default(),
            server_kills: Vec::new(),
            contradictions: Vec::new(),
        };
        super::replay::replay(&mut history);
        history.find_faults();
        history.check_lives();
        history
    }

    /// What the group was promised. Groups without rules are contradictions, and in no handling.
    pub(super) fn group(&self, name: &str) -> &'a GroupRules {
        &self.rules.groups[name]
    }

    /// Whether the group was there `at` that time, and stayed.
    pub(super) fn is_there(&self, group: &str, at: u64) -> bool {
        let lives = self.lives.get(group).into_iter().flatten();
        lives
            .into_iter()
            .any(|(from, to)| *from <= at && to.is_none())
    }

    /// When the first publish of the message to the subject returned Ok.
    pub(super) fn stored(&self, id: u64, subject: &str) -> Option<u64> {
        let publishes = self.messages.get(&id)?.iter();
        let to = publishes.filter(|publish| publish.subject == subject);
        to.filter_map(|publish| match publish.returned {
            Some((at, Outcome::Ok)) => Some(at),
            _ => None,
        })
        .min()
    }

    /// When one of these processes was killed at the time or later.
    pub(super) fn killed_after(&self, process: &str, at: u64) -> Option<u64> {
        let kills = self.kills.iter().filter(|kill| kill.process == process);
        kills.map(|kill| kill.at).find(|kill| *kill >= at)
    }

    /// Whether what was stored at that time may be lost with a server that was killed: no replica may have had it.
    pub(super) fn may_be_lost(&self, stored: u64) -> bool {
        let Some(window) = self.rules.replication else {
            return false;
        };
        let mut kills = self.server_kills.iter();
        // What was stored just before is noted just behind.
        kills.any(|kill| (kill.saturating_sub(us(window))..=kill + SLACK).contains(&stored))
    }

    /// The messages that a group had handled in a process when that was killed, and that came again.
    pub(super) fn again(&self, group: &str, kill: &Kill) -> usize {
        let kills = self.kills.iter().filter(|one| one.process == kill.process);
        let before = kills.map(|one| one.at).filter(|at| *at < kill.at).max();
        let life = before.unwrap_or_default()..=kill.at;
        let of_group = self.handlings.iter().filter(|((of, _), _)| *of == group);
        let came_again = |handling: &&Handling<'_>| {
            let handled = handling.runs.iter().any(|run| {
                let done = run.done().is_some_and(|done| life.contains(&done));
                done && run.process == kill.process
            });
            handled && handling.runs.iter().any(|run| run.started > kill.at)
        };
        of_group
            .map(|(_, handling)| handling)
            .filter(came_again)
            .count()
    }

    pub(super) fn contradiction(&mut self, at: u64, topic: Topic, text: impl Into<String>) {
        self.contradictions.push((at, topic, text.into()));
    }

    pub(super) fn contradictions(&self, report: &mut Report) {
        if !self.events.is_empty() {
            report.held(Clause::Consistent);
        }
        for (at, topic, text) in &self.contradictions {
            report.broken(Clause::Consistent, *at, topic.clone(), text.clone());
        }
    }

    pub(super) fn live(&mut self, group: &'a str, created: bool, at: u64) {
        let lives = self.lives.entry(group).or_default();
        if created {
            lives.push((at, None));
        } else if let Some((_, to @ None)) = lives.last_mut() {
            *to = Some(at);
        } else {
            let topic = Topic::Group(group.to_owned());
            self.contradiction(at, topic, "a group is removed that is not there");
        }
    }

    /// A durable group whose beginning is not known could lose everything unnoticed.
    fn check_lives(&mut self) {
        for (name, rules) in &self.rules.groups {
            if rules.is_durable() && !self.lives.contains_key(name.as_str()) {
                let topic = Topic::Group(name.clone());
                self.contradiction(self.start, topic, format!("group {name} was never created"));
            }
        }
    }

    fn find_faults(&mut self) {
        let writers: BTreeSet<&str> = self.events.iter().map(|e| e.process.as_str()).collect();
        let mut open: BTreeMap<(bool, &str), u64> = BTreeMap::new();
        let mut spans = Vec::new();
        for Event { at, what, .. } in self.events {
            match what {
                What::FaultBegun { fault } => {
                    open.insert((false, fault), *at);
                }
                What::FaultHealed { fault } => match open.remove(&(false, fault.as_str())) {
                    Some(begun) => spans.push((begun, Some(*at), true)),
                    None => {
                        let topic = Topic::Process(fault.clone());
                        self.contradiction(
                            *at,
                            topic,
                            format!("{fault} is healed, and never began"),
                        );
                    }
                },
                What::Killed { process } => {
                    open.insert((true, process), *at);
                    if !writers.contains(process.as_str()) {
                        self.server_kills.push(*at);
                    }
                }
                What::Restarted { process } => {
                    if let Some(begun) = open.remove(&(true, process.as_str())) {
                        spans.push((begun, Some(*at), !writers.contains(process.as_str())));
                    }
                }
                _ => {}
            }
        }
        for ((is_kill, name), begun) in open {
            // A worker that stays dead is no fault that lasts: the others take over.
            let healed = is_kill.then_some(begun);
            spans.push((begun, healed, !is_kill || !writers.contains(name)));
        }
        for (begun, healed, outage) in spans {
            self.faults.add(begun, healed);
            if outage {
                self.outages.add(begun, healed);
            }
        }
    }

    /// Whether a run had lost its lease by then: it was told so, or an outage kept it from renewing.
    pub(super) fn lost_lease(&self, run: &Run<'_>, by: u64) -> bool {
        let lease = us(self.rules.lease);
        run.lease_lost.is_some_and(|lost| lost <= by)
            || self.outages.broke(run.started, by, lease / 2, 2 * lease)
    }

    /// Whether the process of a run was killed in it, or before its end was recorded.
    pub(super) fn crashed(&self, run: &Run<'_>) -> bool {
        let until = |at: u64| at.saturating_add(us(self.rules.lease));
        match run.end {
            Some((_, End::Killed)) => true,
            Some((at, _)) => self
                .killed_after(run.process, at)
                .is_some_and(|kill| kill <= until(at)),
            None => false,
        }
    }

    /// Whether what a run did may not have been recorded: it was cut short, or what came between its end and the record.
    pub(super) fn cut(&self, run: &Run<'_>) -> bool {
        let lease = us(self.rules.lease);
        match run.end {
            None | Some((_, End::Killed | End::Dropped)) => true,
            Some((at, _)) => {
                let until = at.saturating_add(lease);
                run.lease_lost.is_some()
                    || self.crashed(run)
                    || self.outages.touch(at.saturating_sub(2 * lease), until)
            }
        }
    }
}
