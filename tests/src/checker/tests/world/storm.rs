//! What a plant needs one of, and what goes wrong in a storm.

use std::time::Duration;

use super::{BEGIN, CLOSING, CUT, Maker, PUBLISHER, SERVER, SHUTDOWN};
use crate::checker::tests::story::{Act, MS, done, dropped, failed, sum};
use crate::evidence::{EffectKind, Outcome, What};

impl Maker {
    /// One for each way that a plant needs.
    pub(super) fn special(&mut self) {
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

    pub(super) fn storm(&mut self, kill: u64) {
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
