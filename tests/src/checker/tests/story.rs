//! Writes evidence for a run that is only imagined.

use crate::evidence::{About, EffectKind, Event, Outcome, What, checksum};

/// A millisecond.
pub(super) const MS: u64 = 1_000;

/// The evidence so far, in no order.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) events: Vec<Event>,
    pub(super) chance: fastrand::Rng,
    next: u64,
}

/// One run of a handler.
#[derive(Clone, Copy, Debug)]
pub(super) struct Act<'a> {
    pub(super) group: &'a str,
    pub(super) id: u64,
    pub(super) process: &'a str,
    pub(super) attempt: u32,
    pub(super) told: bool,
    pub(super) from: u64,
    pub(super) to: u64,
    /// When the process is killed, if that is before the end.
    pub(super) killed: Option<u64>,
    pub(super) effect: Option<EffectKind>,
    pub(super) end: fn(u64) -> What,
}

pub(super) fn done(run: u64) -> What {
    What::Done { run }
}

pub(super) fn failed(run: u64) -> What {
    What::Failed { run }
}

pub(super) fn dropped(run: u64) -> What {
    What::Dropped { run }
}

impl Story {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            events: Vec::new(),
            chance: fastrand::Rng::with_seed(seed),
            next: 0,
        }
    }

    pub(super) fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn put(&mut self, at: u64, process: &str, about: impl Into<About>, what: What) {
        let About { group, id } = about.into();
        self.events.push(Event {
            at,
            process: process.to_owned(),
            group,
            id,
            what,
        });
    }

    /// A publish; without an outcome it never returns.
    pub(super) fn publish(
        &mut self,
        (process, subject, id): (&str, &str, u64),
        (began, returned): (u64, u64),
        outcome: Option<Outcome>,
    ) {
        let call = self.fresh();
        let publishing = What::Publishing {
            call,
            subject: subject.to_owned(),
            key: None,
            checksum: sum(id),
        };
        self.put(began, process, id, publishing);
        if let Some(outcome) = outcome {
            self.put(returned, process, id, What::Published { call, outcome });
        }
    }

    /// A run of a handler, up to the kill of its process.
    pub(super) fn act(&mut self, act: Act<'_>) -> u64 {
        let run = self.fresh();
        let about = (act.group, act.id);
        let started = What::Started {
            run,
            attempt: act.attempt,
            redelivered: act.attempt > 1,
            may_have_run: act.told,
            checksum: sum(act.id),
        };
        self.put(act.from, act.process, about, started);
        let lives = |at: u64| act.killed.is_none_or(|killed| at < killed);
        let middle = act.from.midpoint(act.to);
        if let Some(kind) = act.effect.filter(|_| lives(middle)) {
            let effect = What::Effect {
                run: Some(run),
                kind,
            };
            self.put(middle, act.process, about, effect);
        }
        if lives(act.to) {
            self.put(act.to, act.process, about, (act.end)(run));
        }
        run
    }
}

/// The checksum of the message with this id.
pub(super) fn sum(id: u64) -> u64 {
    checksum(&id.to_string(), [("number", "one")], &id.to_le_bytes())
}

impl Event {
    pub(super) fn is_request(&self) -> bool {
        matches!(
            self.what,
            What::RequestSent { .. } | What::RequestResolved { .. }
        )
    }
}
