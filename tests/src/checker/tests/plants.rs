//! Bugs, each planted in a run in which everything else is right.

mod around;
mod members;
mod messages;
mod once;

use std::collections::BTreeMap;

use super::story::sum;
use super::world::{BEGIN, Weather, World};
use crate::checker::{Clause, Violation};
use crate::evidence::{self, EffectKind, Event, Outcome, What};

/// A bug, and the rule that it breaks.
pub(super) struct Plant {
    pub(super) name: &'static str,
    pub(super) clause: Clause,
    pub(super) weather: Weather,
    /// Plants it, and tells what the violation is about.
    pub(super) apply: fn(&mut World) -> About,
}

/// What a violation has to be about.
#[derive(Debug)]
pub(super) enum About {
    Message(u64),
    Name(&'static str),
}

impl About {
    pub(super) fn is(&self, violation: &Violation) -> bool {
        match self {
            Self::Message(id) => violation.message() == Some(*id),
            Self::Name(name) => violation.name() == Some(name),
        }
    }
}

pub(super) fn plants() -> impl Iterator<Item = &'static Plant> {
    [
        messages::PLANTS,
        once::PLANTS,
        around::PLANTS,
        members::PLANTS,
    ]
    .into_iter()
    .flatten()
}

/// Lists bugs: the rule, the weather, what it is, and how it is planted.
macro_rules! list {
    ($($clause:ident $weather:ident $name:literal: $apply:expr;)+) => {
        pub(super) const PLANTS: &[super::Plant] = &[$(super::Plant {
            name: $name,
            clause: crate::checker::Clause::$clause,
            weather: crate::checker::tests::world::Weather::$weather,
            apply: $apply,
        },)+];
    };
}
use list;

/// So many milliseconds after the begin of the run.
fn at(ms: u64) -> u64 {
    BEGIN + ms * 1_000
}

/// What planters do.
impl World {
    /// One message of the group, no matter which, that was published once with Ok, outside of anybody's trouble, and handled once.
    fn simple(&mut self, group: &str) -> u64 {
        let mut counts: BTreeMap<u64, [u8; 4]> = BTreeMap::new();
        for event in &self.events {
            let of_other = event.group.as_deref().is_some_and(|of| of != group);
            let (Some(id), false) = (event.id, of_other) else {
                continue;
            };
            let [published, ok, started, done] = counts.entry(id).or_default();
            match event.what {
                What::Publishing { .. } if (at(2_900)..at(8_000)).contains(&event.at) => {
                    *published += 1;
                }
                What::Publishing { .. } => *published += 2,
                What::Published { outcome, .. } => *ok += u8::from(outcome == Outcome::Ok),
                What::Started { .. } => *started += 1,
                What::Done { .. } => *done += 1,
                _ => {}
            }
        }
        counts.retain(|_, counts| *counts == [1; 4]);
        self.chance
            .choice(counts.into_keys())
            .expect("there is one in every run")
    }

    fn insert(&mut self, at: u64, process: &str, about: impl Into<evidence::About>, what: What) {
        let evidence::About { group, id } = about.into();
        let process = process.to_owned();
        self.events.push(Event {
            at,
            process,
            group,
            id,
            what,
        });
    }

    /// A run that was not there.
    pub(super) fn run(
        &mut self,
        group: &str,
        id: u64,
        process: &str,
        (from, to): (u64, u64),
        end: fn(u64) -> What,
    ) {
        let run = 900_000 + self.events.len() as u64;
        let started = What::Started {
            run,
            attempt: 2,
            redelivered: true,
            may_have_run: true,
            checksum: sum(id),
        };
        self.insert(from, process, (group, id), started);
        self.insert(to, process, (group, id), end(run));
    }

    /// A message that was not there, published with Ok.
    pub(super) fn publish(&mut self, subject: &str, id: u64, (began, returned): (u64, u64)) {
        let call = 900_000 + self.events.len() as u64;
        let (subject, checksum) = (subject.to_owned(), sum(id));
        self.insert(
            began,
            "p1",
            id,
            What::Publishing {
                call,
                subject,
                key: None,
                checksum,
            },
        );
        self.insert(
            returned,
            "p1",
            id,
            What::Published {
                call,
                outcome: Outcome::Ok,
            },
        );
    }

    fn remove(&mut self, what: impl Fn(&Event) -> bool) {
        let before = self.events.len();
        self.events.retain(|event| !what(event));
        assert!(self.events.len() < before, "there was something to remove");
    }

    /// Takes away what a group did with a message.
    fn forget(&mut self, group: &str, id: u64) {
        self.remove(|event| is_of(event, group, id));
    }

    /// Changes the first event that `change` accepts.
    fn change(&mut self, change: impl FnMut(&mut Event) -> bool) {
        assert!(
            self.events.iter_mut().any(change),
            "there was something to change"
        );
    }

    /// Moves all that a group did with a message.
    fn delay(&mut self, group: &str, id: u64, by: u64) {
        for event in self
            .events
            .iter_mut()
            .filter(|event| is_of(event, group, id))
        {
            event.at += by;
        }
    }

    fn set_outcome(&mut self, id: u64, outcome: Outcome) {
        self.change(|event| match &mut event.what {
            What::Published { outcome: old, .. } if event.id == Some(id) => {
                *old = outcome;
                true
            }
            _ => false,
        });
    }

    /// When it first happened to the message.
    fn when(&self, id: u64, what: impl Fn(&What) -> bool) -> u64 {
        let mut events = self.events.iter();
        let event = events.find(|event| event.id == Some(id) && what(&event.what));
        event.expect("it happened").at
    }

    fn started(&self, id: u64) -> u64 {
        self.when(id, |what| matches!(what, What::Started { .. }))
    }

    fn done(&self, id: u64) -> u64 {
        self.when(id, |what| matches!(what, What::Done { .. }))
    }

    /// Writes an event of a message a second time, a millisecond later.
    fn repeat(&mut self, what: impl Fn(&Event) -> bool) -> u64 {
        let matching: Vec<Event> = self
            .events
            .iter()
            .filter(|event| what(event))
            .cloned()
            .collect();
        let mut event = self
            .chance
            .choice(matching)
            .expect("there is one in every run");
        event.at += 1_000;
        if let What::Effect { run, .. } = &mut event.what {
            *run = None;
        }
        let id = event.id.expect("it is about a message");
        self.events.push(event);
        id
    }

    fn repeat_effect(&mut self, group: &str, kind: EffectKind) -> About {
        let id = self.repeat(|event| {
            let same = matches!(event.what, What::Effect { kind: of, .. } if of == kind);
            same && event.group.as_deref() == Some(group)
        });
        About::Message(id)
    }
}

fn is_of(event: &Event, group: &str, id: u64) -> bool {
    event.id == Some(id) && event.group.as_deref() == Some(group)
}
