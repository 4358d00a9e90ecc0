//! All that is not at QoS 1 or 2: order, QoS 0, requests, members, counts and texts.

use std::time::Duration;

use super::{BEGIN, CLOSING, Maker, SHUTDOWN};
use crate::checker::tests::story::{Act, MS, done, failed, sum};
use crate::evidence::{EffectKind, Outcome, Reply, What};

impl Maker {
    /// One publisher, one consumer, one at a time.
    pub(super) fn steps(&mut self) {
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
    pub(super) fn ticks(&mut self) {
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

    pub(super) fn requests(&mut self) {
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

    pub(super) fn members(&mut self) {
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

    pub(super) fn view(&mut self, process: &str, by: &str, at: u64) {
        self.story
            .put(at, process, (), What::ViewOpened { by: by.to_owned() });
    }

    pub(super) fn node(&mut self, node: &str, owner: &str, at: u64) {
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

    pub(super) fn see(&mut self, (node, owner): (&str, &str), by: &str, at: u64) {
        let (process, by) = (&by[2..4], by.to_owned());
        let (node, owner) = (node.to_owned(), owner.to_owned());
        self.story
            .put(at, process, (), What::NodeSeen { by, node, owner });
    }

    /// Counts, memory, what the server has, and what people read.
    pub(super) fn around(&mut self) {
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
}
