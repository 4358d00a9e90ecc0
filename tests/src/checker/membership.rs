//! I13, membership.

mod views;

use std::collections::BTreeMap;
use std::time::Duration;

use super::SLACK;
use super::clause::Clause;
use super::faults::us;
use super::history::History;
use super::report::{Report, Topic};
use crate::evidence::{Event, What};
use views::{Listing, View, views};

/// One start of a node.
#[derive(Debug, Default)]
struct Life<'a> {
    process: &'a str,
    registering: Vec<u64>,
    registered: Vec<u64>,
    died: Option<u64>,
}

impl Life<'_> {
    fn is_dead(&self, by: u64) -> bool {
        self.died.is_some_and(|at| at <= by)
    }
}

/// By node and owner.
type Lives<'a> = BTreeMap<(&'a str, &'a str), Life<'a>>;

pub(super) fn check(history: &History<'_>, report: &mut Report) {
    let lives = lives(history);
    let views = views(history);
    let judge = Judge {
        history,
        lives: &lives,
    };
    for ((node, owner), life) in &lives {
        for registered in &life.registered {
            judge.one_owner(report, (node, owner), *registered);
            for view in views.values() {
                judge.listed(report, (node, owner, life), view, *registered);
            }
        }
        for view in views.values() {
            judge.gone(report, (node, owner, life), view);
        }
    }
    for view in views.values() {
        for (node, listings) in &view.listings {
            for (number, listing) in listings.iter().enumerate() {
                judge.stays(report, node, listing);
                judge.comes(report, node, &listings[..number], listing);
            }
        }
    }
}

fn lives<'a>(history: &'a History<'_>) -> Lives<'a> {
    let mut lives = Lives::new();
    for Event {
        at, process, what, ..
    } in history.events
    {
        match what {
            What::NodeRegistering { node, owner } => {
                let life = lives.entry((node, owner)).or_default();
                life.process = process;
                life.registering.push(*at);
            }
            What::NodeRegistered { node, owner } => {
                let life = lives.entry((node, owner)).or_default();
                life.process = process;
                life.registered.push(*at);
            }
            What::NodeLeft { node, owner } | What::NodeLost { node, owner } => {
                let life = lives.entry((node, owner)).or_default();
                life.died.get_or_insert(*at);
            }
            What::Killed { process } => {
                for life in lives.values_mut().filter(|life| life.process == process) {
                    life.died.get_or_insert(*at);
                }
            }
            _ => {}
        }
    }
    lives
}

struct Judge<'a> {
    history: &'a History<'a>,
    lives: &'a Lives<'a>,
}

impl Judge<'_> {
    fn due(&self, from: u64, bound: Duration) -> Option<u64> {
        let due = self.history.outages.due_after_each(from, bound);
        due.map(|due| due.saturating_add(SLACK))
    }

    fn two_heartbeats(&self) -> Duration {
        2 * self.history.rules.heartbeat
    }

    fn silence(&self) -> Duration {
        self.history.rules.node_timeout + self.history.rules.sweep
    }

    /// Within two heartbeats, while both the node and the view are there.
    fn listed(
        &self,
        report: &mut Report,
        (node, owner, life): (&str, &str, &Life<'_>),
        view: &View<'_>,
        registered: u64,
    ) {
        let from = registered.max(view.opened);
        let Some(due) = self.due(from, self.two_heartbeats()) else {
            return;
        };
        let listings = view.of(node, owner);
        let mut there = listings.filter(|listing| listing.to.is_none_or(|to| to >= from));
        let at = there.next().map(|listing| listing.from);
        if at.is_none() && self.history.end <= due || life.is_dead(due) || !view.is_open(due) {
            return;
        }
        let end = self.history.end;
        report.expect_by(
            Clause::NotListed,
            Some(due),
            at,
            end,
            Topic::Node(node.to_owned()),
            || format!("view {} should list node {node} of {owner}", view.by),
        );
    }

    /// Nobody takes a node that lives off the list, unless an outage kept its heartbeats away.
    fn stays(&self, report: &mut Report, node: &str, listing: &Listing<'_>) {
        let (Some(gone), false) = (listing.to, listing.replaced) else {
            return;
        };
        let before = gone.saturating_sub(us(self.silence()) + SLACK);
        // Others may notice a death before it is written down.
        let noticed = gone.saturating_add(us(self.two_heartbeats()));
        let life = self.lives.get(&(node, listing.owner));
        let dead = life.is_none_or(|life| life.is_dead(noticed));
        let holds = dead || self.history.outages.touch(before, gone);
        report.expect(
            Clause::GoneAlive,
            holds,
            gone,
            Topic::Node(node.to_owned()),
            || {
                format!(
                    "node {node} of {} was taken off a list, and lived",
                    listing.owner
                )
            },
        );
    }

    fn gone(
        &self,
        report: &mut Report,
        (node, owner, life): (&str, &str, &Life<'_>),
        view: &View<'_>,
    ) {
        let Some(due) = life.died.and_then(|died| self.due(died, self.silence())) else {
            return;
        };
        if !view.is_open(due) || self.history.end < due {
            return;
        }
        let still = view
            .of(node, owner)
            .any(|listing| listing.from <= due && listing.to.is_none_or(|to| to > due));
        report.expect(
            Clause::NotGone,
            !still,
            due,
            Topic::Node(node.to_owned()),
            || {
                format!(
                    "view {} still lists node {node} of {owner}, which is dead",
                    view.by
                )
            },
        );
    }

    /// Who was gone, or another's, comes back by registering.
    fn comes(
        &self,
        report: &mut Report,
        node: &str,
        before: &[Listing<'_>],
        listing: &Listing<'_>,
    ) {
        let Listing { owner, from, .. } = *listing;
        let topic = || Topic::Node(node.to_owned());
        let life = self.lives.get(&(node, owner));
        let registering = |since: u64| {
            let all = life.into_iter().flat_map(|life| &life.registering);
            all.into_iter().any(|at| (since..=from).contains(at))
        };
        report.expect(Clause::CameBack, registering(0), from, topic(), || {
            format!("node {node} of {owner} is listed, and never registered")
        });
        let Some(last) = before.iter().rev().find(|other| other.owner == owner) else {
            return;
        };
        let back = registering(last.to.unwrap_or_default());
        if last.replaced {
            report.expect(Clause::TwoOwners, back, from, topic(), || {
                format!("node {node} is {owner}'s again, after it had become another's")
            });
        } else {
            let lives = life.is_some_and(|life| !life.is_dead(from));
            report.expect(Clause::CameBack, back || lives, from, topic(), || {
                format!("node {node} of {owner} was gone and dead, and is listed again")
            });
        }
    }

    /// Two heartbeats after a second one was let in, the first is dead or knows that the id is another's.
    fn one_owner(&self, report: &mut Report, (node, owner): (&str, &str), registered: u64) {
        let Some(due) = self.due(registered, self.two_heartbeats()) else {
            return;
        };
        if self.history.end < due {
            return;
        }
        let own = self
            .lives
            .get(&(node, owner))
            .is_some_and(|life| life.is_dead(due));
        let mut others = self.lives.iter().filter(|((other, of), life)| {
            let before = life.registered.first().is_some_and(|at| *at <= registered);
            *other == node && *of != owner && before && !life.is_dead(due)
        });
        let other = others.next().filter(|_| !own);
        report.expect(
            Clause::TwoOwners,
            other.is_none(),
            due,
            Topic::Node(node.to_owned()),
            || {
                let of = other.map_or("", |((_, of), _)| of);
                format!(
                    "node {node} was registered by {owner} while {of} had it, and neither was told"
                )
            },
        );
    }
}
