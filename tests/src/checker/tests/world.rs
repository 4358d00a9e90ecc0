//! A random run in which everything is right: publishers, consumers, kills, outages, redeliveries, dead letters, requests and
//! members.

mod around;
mod storm;

use std::time::Duration;

use super::story::{Act, MS, Story, done, failed, sum};
use crate::checker::{GroupRules, Promise, Rules};
use crate::evidence::{EffectKind, Event, Outcome, What};

/// Whether anything goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weather {
    /// Only handlers fail.
    Calm,
    /// A consumer, a publisher and the server are killed, and a link is cut.
    Storm,
}

/// The run.
#[derive(Debug)]
pub(super) struct World {
    pub(super) events: Vec<Event>,
    pub(super) rules: Rules,
    pub(super) chance: fastrand::Rng,
    /// When the consumer `c1` is killed.
    pub(super) kill: u64,
}

pub(super) const SECRET: &str = "hunter2/x";
pub(super) const BEGIN: u64 = 1_700_000_000_000_000;
pub(super) const CUT: (u64, u64) = (BEGIN + 7_000 * MS, BEGIN + 8_600 * MS);
const SERVER: (u64, u64) = (BEGIN + 6_000 * MS, BEGIN + 6_300 * MS);
const PUBLISHER: u64 = BEGIN + 5_000 * MS;
pub(super) const SHUTDOWN: (u64, u64) = (BEGIN + 9_500 * MS, BEGIN + 9_700 * MS);
pub(super) const CLOSING: u64 = BEGIN + 14_000 * MS;

impl World {
    pub(super) fn new(seed: u64, weather: Weather) -> Self {
        let mut story = Story::new(seed);
        let kill = BEGIN + (3_000 + story.chance.u64(0..200)) * MS;
        let mut maker = Maker {
            story,
            kill: (weather == Weather::Storm).then_some(kill),
        };
        maker.groups();
        maker.orders();
        maker.special();
        maker.steps();
        maker.ticks();
        maker.requests();
        maker.members();
        maker.around();
        if weather == Weather::Storm {
            maker.storm(kill);
        }
        let mut world = Self {
            events: maker.story.events,
            rules: rules(),
            chance: maker.story.chance,
            kill,
        };
        world.sort();
        world
    }

    pub(super) fn sort(&mut self) {
        self.events.sort_by_key(|event| event.at);
    }
}

fn rules() -> Rules {
    let mut rules = Rules::new()
        .group(
            "least",
            GroupRules::new("orders", Promise::AtLeastOnce)
                .max_deliver(3)
                .again(8),
        )
        .group(
            "once",
            GroupRules::new("payments", Promise::ExactlyOnce).max_deliver(3),
        )
        .group("seen", GroupRules::new("refunds", Promise::ExactlyOnce))
        .group(
            "steps",
            GroupRules::new("steps", Promise::AtLeastOnce)
                .ordered()
                .concurrency(1),
        )
        .group(
            "zero",
            GroupRules::new("ticks", Promise::AtMostOnce).keeps_up(),
        )
        .group("rpc", GroupRules::new("rpc", Promise::Requests));
    rules.recovery = Duration::from_secs(4);
    rules.publish_deadline = Duration::from_secs(2);
    rules.replication = Some(Duration::from_millis(50));
    rules.secrets = vec![SECRET.to_owned()];
    rules
}

struct Maker {
    story: Story,
    /// When `c1` is killed, if it is.
    kill: Option<u64>,
}

impl Maker {
    fn groups(&mut self) {
        for group in ["least", "once", "seen", "steps", "zero"] {
            self.story.put(BEGIN, "parent", group, What::GroupCreated);
        }
    }

    /// Messages for `least`, `once` and `seen` that go any way.
    fn orders(&mut self) {
        for (group, subject, first) in [
            ("least", "orders", 1_000),
            ("once", "payments", 2_000),
            ("seen", "refunds", 6_000),
        ] {
            for id in first..first + 60 {
                let began = BEGIN + (200 + self.story.chance.u64(0..7_000)) * MS;
                let publisher = if id % 2 == 0 { "p1" } else { "p3" };
                let mut outcome = match self.story.chance.u8(0..10) {
                    0 => Outcome::Unknown,
                    1 => Outcome::Rejected,
                    _ => Outcome::Ok,
                };
                let mut returned = began + self.story.chance.u64(1..50) * MS;
                if self.kill.is_some() && began < SERVER.1 && returned > SERVER.0 {
                    (outcome, returned) = (Outcome::Unknown, SERVER.1 + 50 * MS);
                }
                self.story
                    .publish((publisher, subject, id), (began, returned), Some(outcome));
                let arrives = match outcome {
                    Outcome::Ok => true,
                    Outcome::Unknown => self.story.chance.bool(),
                    Outcome::Rejected => false,
                };
                if arrives {
                    let from = began + self.story.chance.u64(1..200) * MS;
                    self.handle(group, id, from);
                }
            }
        }
    }

    /// Runs a message's handler until it is done or dead-lettered.
    fn handle(&mut self, group: &str, id: u64, mut from: u64) {
        let (mut attempt, mut crashes, mut told, mut keyed) = (0, 0, false, false);
        let kind = match id % 3 {
            _ if group != "once" => EffectKind::Plain,
            0 => EffectKind::Plain,
            1 => EffectKind::Keyed,
            _ => EffectKind::Committed,
        };
        loop {
            attempt += 1;
            let process = self.somebody(from);
            let to = from + self.story.chance.u64(10..100) * MS;
            let killed = self
                .kill
                .filter(|kill| process == "c1" && (from..=to + 5 * MS).contains(kill));
            let fails = killed.is_none_or(|kill| kill <= to)
                && group != "seen"
                && self.story.chance.u8(0..8) == 0;
            let happens =
                !fails && kind != EffectKind::Committed && !(keyed && kind == EffectKind::Keyed);
            self.story.act(Act {
                group,
                id,
                process,
                attempt,
                told,
                from,
                to,
                killed,
                effect: happens.then_some(kind),
                end: if fails { failed } else { done },
            });
            if let Some(kill) = killed {
                crashes += u32::from(kill <= to);
                keyed |= from.midpoint(to) < kill;
                told = true;
                from = kill + (1_000 + self.story.chance.u64(0..500)) * MS;
            } else if !fails {
                return self.settle(group, id, kind, to);
            } else if attempt >= 3 + crashes {
                let dead = What::DeadLettered { checksum: sum(id) };
                return self.story.put(CLOSING, "parent", (group, id), dead);
            } else {
                from = to + self.story.chance.u64(100..300) * MS;
            }
        }
    }

    fn settle(&mut self, group: &str, id: u64, kind: EffectKind, done: u64) {
        if kind == EffectKind::Committed {
            let effect = What::Effect { run: None, kind };
            self.story.put(done + 2 * MS, "parent", (group, id), effect);
        }
        if group == "seen" {
            self.story
                .put(done + 3 * MS, "parent", (group, id), What::Completed);
        }
    }

    /// A consumer that is there.
    fn somebody(&mut self, at: u64) -> &'static str {
        let there: &[&str] = match self.kill {
            Some(kill) if (kill..kill + 400 * MS).contains(&at) => &["c2", "c3"],
            _ if at > SHUTDOWN.0 - 300 * MS => &["c1", "c2"],
            _ => &["c1", "c2", "c3"],
        };
        self.story.chance.choice(there).copied().unwrap_or("c2")
    }
}
