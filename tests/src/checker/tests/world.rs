//! A random run in which everything is right: publishers, consumers, kills, outages, redeliveries, dead letters, requests and
//! members.

use std::time::Duration;

use super::story::{Act, MS, Story, done, dropped, failed, sum};
use crate::checker::{GroupRules, Promise, Rules};
use crate::evidence::{EffectKind, Event, Outcome, Reply, What};

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
            GroupRules::new("orders", Promise::AtLeastOnce).max_deliver(3),
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

    /// One for each way that a plant needs.
    fn special(&mut self) {
        let at = |ms: u64| BEGIN + ms * MS;
        let act = |id, process, attempt, (from, to): (u64, u64), end| Act {
            group: if id < 2_000 { "least" } else { "once" },
            id,
            process,
            attempt,
            told: attempt > 1,
            from: at(from),
            to: at(to),
            killed: None,
            effect: None,
            end,
        };
        for id in [1_501, 1_502, 1_503, 1_504, 1_510] {
            self.story
                .publish(("p1", "orders", id), (at(500), at(510)), Some(Outcome::Ok));
        }
        let dead = |id| What::DeadLettered { checksum: sum(id) };
        self.story.act(Act {
            effect: Some(EffectKind::Plain),
            ..act(1_501, "c2", 1, (600, 620), done)
        });
        self.story
            .put(at(3_500), "parent", ("least", 1_501), What::Acked);
        // An error that ends it at once.
        self.story.act(act(1_502, "c2", 1, (600, 620), failed));
        self.story
            .put(at(700), "parent", ("least", 1_502), dead(1_502));
        // The last attempt.
        for (attempt, from) in [(1, 600), (2, 800), (3, 1_000)] {
            self.story
                .act(act(1_503, "c2", attempt, (from, from + 50), failed));
        }
        self.story
            .put(CLOSING, "parent", ("least", 1_503), dead(1_503));
        // Moved back.
        self.story.act(act(1_504, "c2", 1, (600, 620), failed));
        self.story
            .put(at(700), "parent", ("least", 1_504), dead(1_504));
        self.story
            .put(at(800), "parent", ("least", 1_504), What::Redriven);
        self.story.act(act(1_504, "c2", 1, (900, 920), done));
        // Published again, as nobody knew; stored twice.
        self.story.publish(
            ("p1", "orders", 1_506),
            (at(500), at(700)),
            Some(Outcome::Unknown),
        );
        self.story.publish(
            ("p1", "orders", 1_506),
            (at(710), at(720)),
            Some(Outcome::Ok),
        );
        self.story.act(act(1_506, "c2", 1, (650, 660), done));
        self.story.act(act(1_506, "c3", 1, (750, 760), done));
        self.story.publish(
            ("p1", "orders", 1_507),
            (at(500), at(505)),
            Some(Outcome::Rejected),
        );
        // Poison, which troubles nobody else.
        self.story
            .put(at(590), "parent", ("least", 1_510), What::Troubled);
        self.story.act(act(1_510, "c2", 1, (600, 610), failed));
        self.story.act(act(1_510, "c2", 2, (900, 910), done));
        self.story
            .put(at(910), "parent", ("least", 1_510), What::Relieved);
        // In flight when `c3` shuts down.
        for id in [1_508, 1_509] {
            self.story.publish(
                ("p1", "orders", id),
                (at(9_400), at(9_410)),
                Some(Outcome::Ok),
            );
        }
        self.story.act(act(1_508, "c3", 1, (9_450, 9_550), done));
        self.story.act(act(1_509, "c3", 1, (9_450, 9_690), dropped));
        self.story.act(act(1_509, "c2", 2, (9_800, 9_850), done));
        let deadline = Duration::from_secs(1);
        self.story
            .put(SHUTDOWN.0, "c3", (), What::ShutdownCalled { deadline });
        let (finished, unfinished) = (Some(1), Some(1));
        self.story.put(
            SHUTDOWN.1,
            "c3",
            (),
            What::ShutdownReturned {
                finished,
                unfinished,
            },
        );
    }

    /// One publisher, one consumer, one at a time.
    fn steps(&mut self) {
        for number in 0..60 {
            let id = 3_000 + number;
            let began = BEGIN + (300 + number * 60) * MS;
            let unknown = number % 9 == 8;
            let outcome = if unknown {
                Outcome::Unknown
            } else {
                Outcome::Ok
            };
            self.story
                .publish(("p4", "steps", id), (began, began + 20 * MS), Some(outcome));
            if unknown && self.story.chance.bool() {
                continue;
            }
            let from = began + 21 * MS;
            let act = Act {
                group: "steps",
                id,
                process: "c-steps",
                attempt: 1,
                told: false,
                from,
                to: from + 10 * MS,
                killed: None,
                effect: None,
                end: done,
            };
            let again = number % 7 == 6;
            if again {
                self.story.act(Act { end: failed, ..act });
            }
            let from = if again { from + 15 * MS } else { from };
            let attempt = if again { 2 } else { 1 };
            self.story.act(Act {
                attempt,
                from,
                to: from + 10 * MS,
                ..act
            });
        }
    }

    /// QoS 0.
    fn ticks(&mut self) {
        for id in 4_000..4_040 {
            let began = BEGIN + (200 + self.story.chance.u64(0..7_000)) * MS;
            self.story.publish(
                ("p1", "ticks", id),
                (began, began + MS / 2),
                Some(Outcome::Ok),
            );
            let from = began + self.story.chance.u64(1..20) * MS;
            self.story.act(Act {
                group: "zero",
                id,
                process: "c-zero",
                attempt: 1,
                told: false,
                from,
                to: from + MS,
                killed: None,
                effect: Some(EffectKind::Plain),
                end: done,
            });
        }
    }

    fn requests(&mut self) {
        for id in 5_000..5_030 {
            let sent = BEGIN + (300 + 100 * (id - 5_000)) * MS;
            let lost = id % 5 == 0;
            let nobody = id % 6 == 0;
            let key = (!nobody).then(|| format!("key-{id}"));
            if !nobody {
                let from = sent + self.story.chance.u64(1..20) * MS;
                self.story.act(Act {
                    group: "rpc",
                    id,
                    process: "c2",
                    attempt: 1,
                    told: false,
                    from,
                    to: from + 10 * MS,
                    killed: None,
                    effect: Some(EffectKind::Keyed),
                    end: done,
                });
            }
            let reply = if lost || nobody {
                Reply::Error
            } else {
                Reply::Own
            };
            let took = if lost { 500 } else { 50 };
            self.request((id, key.clone()), (sent, sent + took * MS), reply);
            if lost && !nobody {
                let again = sent + 600 * MS;
                self.request((id, key), (again, again + 20 * MS), Reply::Own);
            }
        }
    }

    fn request(
        &mut self,
        (id, key): (u64, Option<String>),
        (sent, resolved): (u64, u64),
        reply: Reply,
    ) {
        let call = self.story.fresh();
        let deadline = Duration::from_millis(500);
        let checksum = sum(id);
        self.story.put(
            sent,
            "p1",
            id,
            What::RequestSent {
                call,
                key,
                deadline,
                checksum,
            },
        );
        self.story
            .put(resolved, "p1", id, What::RequestResolved { call, reply });
    }

    fn members(&mut self) {
        for process in ["c1", "c2", "c3"] {
            self.view(process, &format!("v-{process}"), BEGIN + 10 * MS);
            self.node(process, &format!("{process}-first"), BEGIN + 20 * MS);
            for by in ["v-c1", "v-c2", "v-c3"] {
                let at = BEGIN + self.story.chance.u64(25..400) * MS;
                self.see((process, &format!("{process}-first")), by, at);
            }
        }
        let left = SHUTDOWN.0 - 10 * MS;
        let (node, owner) = ("c3".to_owned(), "c3-first".to_owned());
        self.story
            .put(left, "c3", (), What::NodeLeft { node, owner });
        self.story.put(
            left,
            "c3",
            (),
            What::ViewClosed {
                by: "v-c3".to_owned(),
            },
        );
        // After the kill `c1` looks through another view.
        let others = if self.kill.is_some() {
            ["v-c1b", "v-c2"]
        } else {
            ["v-c1", "v-c2"]
        };
        for by in others {
            self.story.put(
                left + 50 * MS,
                &by[2..4],
                (),
                What::NodeGone {
                    by: by.to_owned(),
                    node: "c3".to_owned(),
                },
            );
        }
    }

    fn view(&mut self, process: &str, by: &str, at: u64) {
        self.story
            .put(at, process, (), What::ViewOpened { by: by.to_owned() });
    }

    fn node(&mut self, node: &str, owner: &str, at: u64) {
        let named = || (node.to_owned(), owner.to_owned());
        let (process, (node, owner)) = (node, named());
        self.story
            .put(at, process, (), What::NodeRegistering { node, owner });
        let (node, owner) = named();
        self.story.put(
            at + 5 * MS,
            process,
            (),
            What::NodeRegistered { node, owner },
        );
    }

    fn see(&mut self, (node, owner): (&str, &str), by: &str, at: u64) {
        let (process, by) = (&by[2..4], by.to_owned());
        let (node, owner) = (node.to_owned(), owner.to_owned());
        self.story
            .put(at, process, (), What::NodeSeen { by, node, owner });
    }

    /// Counts, memory, what the server has, and what people read.
    fn around(&mut self) {
        let at = |ms: u64| BEGIN + ms * MS;
        self.story.put(at(2_000), "parent", "stuck", What::Troubled);
        self.story.put(at(2_800), "parent", "stuck", What::Relieved);
        for second in 0..14 {
            let bytes = if second < 5 {
                50_000_000
            } else {
                95_000_000 + self.story.chance.u64(0..9_000_000)
            };
            self.story
                .put(at(second * 1_000), "c2", (), What::Memory { bytes });
            let counted = What::Counted {
                in_flight: self.story.chance.u64(0..=64),
                in_flight_limit: 64,
                buffered: self.story.chance.u64(0..=100),
                buffered_limit: 100,
            };
            self.story.put(at(second * 1_000), "c2", "least", counted);
        }
        for group in ["least", "once", "seen", "steps"] {
            let (pending, lag) = (self.story.chance.u64(0..9), self.story.chance.u64(0..9));
            self.story
                .put(at(5_000), "parent", group, What::Drained { pending, lag });
            self.story.put(
                CLOSING,
                "parent",
                group,
                What::Drained { pending: 0, lag: 0 },
            );
        }
        let text = "connected to nats://user:***@localhost".to_owned();
        self.story.put(at(100), "c2", (), What::Text { text });
        let name = "catga.s.orders".to_owned();
        self.story
            .put(at(100), "parent", (), What::WireName { name });
        let text = "the end".to_owned();
        self.story
            .put(CLOSING + 1_000 * MS, "parent", (), What::Text { text });
    }

    fn storm(&mut self, kill: u64) {
        let killed = |process: &str| What::Killed {
            process: process.to_owned(),
        };
        let restarted = |process: &str| What::Restarted {
            process: process.to_owned(),
        };
        self.consumer_dies(kill);
        self.story.put(kill, "parent", (), killed("c1"));
        self.story
            .put(kill + 300 * MS, "parent", (), restarted("c1"));
        self.comes_back(kill);
        // A publisher dies in a publish; the message was stored.
        self.story
            .publish(("p2", "orders", 1_505), (PUBLISHER - 10 * MS, 0), None);
        self.handle("least", 1_505, PUBLISHER + 50 * MS);
        self.story.put(PUBLISHER, "parent", (), killed("p2"));
        self.story
            .put(PUBLISHER + 200 * MS, "parent", (), restarted("p2"));
        self.story.put(SERVER.0, "parent", (), killed("server"));
        self.story.put(SERVER.1, "parent", (), restarted("server"));
        let fault = || "link of c2".to_owned();
        self.story
            .put(CUT.0, "parent", (), What::FaultBegun { fault: fault() });
        self.story
            .put(CUT.1, "parent", (), What::FaultHealed { fault: fault() });
        self.lease_is_lost();
        let (by, node) = ("v-c1b".to_owned(), "c2".to_owned());
        self.story
            .put(CUT.1 - 200 * MS, "c1", (), What::NodeGone { by, node });
        self.see(("c2", "c2-first"), "v-c1b", CUT.1 + 100 * MS);
    }

    /// Four runs on `c1`, after their effects and before their ends.
    fn consumer_dies(&mut self, kill: u64) {
        for (group, subject, id, kind) in [
            ("least", "orders", 1_500, EffectKind::Plain),
            ("once", "payments", 2_500, EffectKind::Plain),
            ("once", "payments", 2_501, EffectKind::Keyed),
            ("once", "payments", 2_502, EffectKind::Committed),
        ] {
            let began = kill - 100 * MS;
            self.story.publish(
                ("p1", subject, id),
                (began, began + 10 * MS),
                Some(Outcome::Ok),
            );
            let happens = kind != EffectKind::Committed;
            let act = Act {
                group,
                id,
                process: "c1",
                attempt: 1,
                told: false,
                from: kill - 30 * MS,
                to: kill + 10 * MS,
                killed: Some(kill),
                effect: happens.then_some(kind),
                end: done,
            };
            self.story.act(act);
            let (from, to) = (kill + 1_100 * MS, kill + 1_150 * MS);
            let effect = (kind == EffectKind::Plain).then_some(kind);
            let (attempt, told, killed) = (2, true, None);
            self.story.act(Act {
                process: "c2",
                attempt,
                told,
                from,
                to,
                killed,
                effect,
                ..act
            });
            self.settle(group, id, kind, to);
        }
        self.story
            .put(kill + 10 * MS, "parent", ("least", 1_500), What::Pending);
    }

    /// `c1` registers anew: one view saw it go, the other only that it is another's.
    fn comes_back(&mut self, kill: u64) {
        self.node("c1", "c1-second", kill + 310 * MS);
        self.view("c1", "v-c1b", kill + 330 * MS);
        for node in [("c1", "c1-second"), ("c2", "c2-first"), ("c3", "c3-first")] {
            self.see(node, "v-c1b", kill + 400 * MS);
        }
        let (by, node) = ("v-c3".to_owned(), "c1".to_owned());
        self.story
            .put(kill + 350 * MS, "c3", (), What::NodeGone { by, node });
        self.see(("c1", "c1-second"), "v-c2", kill + 500 * MS);
        self.see(("c1", "c1-second"), "v-c3", kill + 500 * MS);
    }

    /// A run that is cut off loses its lease; another one begins before it ends.
    fn lease_is_lost(&mut self) {
        let id = 2_504;
        let began = CUT.0 - 200 * MS;
        self.story.publish(
            ("p1", "payments", id),
            (began, began + 10 * MS),
            Some(Outcome::Ok),
        );
        let act = Act {
            group: "once",
            id,
            process: "c2",
            attempt: 1,
            told: false,
            from: CUT.0 - 100 * MS,
            to: CUT.1 + 100 * MS,
            killed: None,
            effect: Some(EffectKind::Plain),
            end: done,
        };
        let run = self.story.act(act);
        self.story
            .put(CUT.1 + 50 * MS, "c2", ("once", id), What::LeaseLost { run });
        let (from, to) = (CUT.0 + 1_100 * MS, CUT.0 + 1_200 * MS);
        let (attempt, told) = (2, true);
        self.story.act(Act {
            process: "c1",
            attempt,
            told,
            from,
            to,
            ..act
        });
    }
}
