//! Random schedules against what must hold whatever happens.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use super::*;

const IDS: usize = 40;
const PARTITIONS: usize = 4;

/// A delivery that a member believes to have.
struct Held {
    id: usize,
    token: Token,
    until: Instant,
}

struct Schedule {
    random: fastrand::Rng,
    f: Fixture,
    ordered: bool,
    claims: bool,
    copies: usize,
    held: Vec<Held>,
    pushed: usize,
    /// How often each id completed.
    completed: Vec<usize>,
    /// In each partition, what completed and was never dead, in order.
    order: BTreeMap<usize, Vec<usize>>,
    /// What was redriven, which is out of order.
    redriven: Vec<bool>,
}

impl Schedule {
    fn new(seed: u64, ordered: bool, claims: bool) -> Self {
        let settings = Settings {
            capacity: 1000,
            dead_letters: 1000,
            ..Settings::default()
        };
        let qos = if claims {
            QoS::ExactlyOnce
        } else {
            QoS::AtLeastOnce
        };
        let consumers = Consumers::Group(Name::from_static("g"));
        let subscribe = Subscribe::new(NAME, qos, consumers)
            .with_ack_wait(SECOND)
            .with_ordered(NonZeroU16::new(4).filter(|_| ordered))
            .with_max_in_flight(4);
        let mut log = Log::new(NAME, settings, Arc::default());
        for member in 0..3 {
            log.join(member, &subscribe).unwrap();
        }
        Self {
            random: fastrand::Rng::with_seed(seed),
            f: Fixture {
                log,
                now: Instant::now(),
            },
            ordered,
            claims,
            copies: 0,
            held: Vec::new(),
            pushed: 0,
            completed: vec![0; IDS],
            order: BTreeMap::new(),
            redriven: vec![false; IDS],
        }
    }

    fn push(&mut self) {
        // Each id at first in its turn, and copies of those before.
        let id = if self.pushed < IDS && self.random.bool() {
            self.pushed += 1;
            self.pushed - 1
        } else if self.claims && self.pushed > 0 && self.copies < 3 * IDS {
            self.copies += 1;
            self.random.usize(..self.pushed)
        } else {
            return;
        };
        let partition = u16::try_from(id % PARTITIONS).unwrap();
        let envelope = Envelope::received(NAME, QoS::ExactlyOnce, Bytes::from(id.to_string()))
            .with_id(MessageId::from_key(&id.to_string()))
            .with_partition(Some(partition));
        self.f.log.push(envelope, SystemTime::now());
    }

    fn take(&mut self) {
        let (member, max) = (self.random.u64(..3), self.random.usize(1..4));
        let handover = Arc::<Handover>::default();
        let seen = self.random.u8(..8) > 0;
        if seen {
            assert!(handover.take());
        }
        let handed = self.f.log.take(member, max, self.f.now, &handover);
        if !seen {
            let tokens: Vec<Token> = handed.iter().map(|h| h.token).collect();
            self.f.log.give_back(&tokens, self.f.now);
            return;
        }
        for handed in handed {
            let id = text(&handed.envelope).parse().unwrap();
            let live = self.held.iter().filter(|held| held.until > self.f.now);
            for held in live {
                assert!(!self.claims || held.id != id, "two owners of {id}");
                let same = held.id % PARTITIONS == id % PARTITIONS;
                assert!(!self.ordered || !same, "{id} overtakes {}", held.id);
            }
            assert!(!self.claims || self.completed[id] == 0, "{id} ran again");
            self.held.push(Held {
                id,
                token: handed.token,
                until: self.f.now + SECOND,
            });
        }
    }

    fn settle(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let at = self.random.usize(..self.held.len());
        let Held { id, token, until } = self.held.swap_remove(at);
        let delay = SECOND * self.random.u32(..3) / 2;
        let (verdict, ends) = match self.random.u8(..10) {
            0 => (Verdict::Retry(delay), false),
            1 => (RELEASE, false),
            2 => (Verdict::Release { began: true }, false),
            3 => (poison(), false),
            _ => (Verdict::Done, true),
        };
        let dead = matches!(verdict, Verdict::DeadLetter(_));
        let settled = self.f.settle(token, verdict);
        // Leases end when somebody looks.
        if until > self.f.now {
            settled.as_ref().unwrap();
        }
        if settled.is_ok() {
            self.redriven[id] |= dead;
            if ends {
                self.completed[id] += 1;
                self.order.entry(id % PARTITIONS).or_default().push(id);
            }
        }
    }

    fn step(&mut self) {
        match self.random.u8(..12) {
            0..=2 => self.push(),
            3..=5 => self.take(),
            6..=9 => self.settle(),
            10 => {
                let letters = self.f.log.letters.list(&DeadLetterFilter::all(), None, 1);
                if let Some(letter) = letters.first() {
                    let (number, _) = crate::letters::parse_id(&letter.id).unwrap();
                    assert!(self.f.log.redrive(number));
                }
            }
            _ => {
                let pause = SECOND * self.random.u32(1..8) / 8;
                self.f.pass(pause);
                let now = self.f.now;
                self.held
                    .retain(|held| held.until > now || held.id % 2 == 0);
            }
        }
    }

    fn run(mut self) {
        while self.completed.contains(&0) {
            self.step();
        }
        // What is left is copies, and what nobody settles.
        for _ in 0..100 {
            self.take();
            self.held.clear();
            self.f.pass(SECOND * 2);
            let all = self.f.take(0, 100);
            for handed in all {
                let id: usize = text(&handed.envelope).parse().unwrap();
                assert!(!self.claims || self.completed[id] == 0);
                self.completed[id] += 1;
                self.f.settle(handed.token, Verdict::Done).unwrap();
            }
        }
        assert!(self.f.log.slots.is_empty() && self.f.log.leases.len() == 0);
        if self.claims {
            assert!(self.completed.iter().all(|count| *count == 1));
        }
        if self.ordered {
            for done in self.order.values() {
                let in_turn = done.iter().filter(|id| !self.redriven[**id]);
                assert!(in_turn.is_sorted(), "{done:?}");
            }
        }
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "a failure shows the seed")]
fn whatever_happens_owners_are_one_completions_are_one_and_order_is_kept() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    for round in 0..150 {
        for (ordered, claims) in [(true, true), (true, false), (false, true), (false, false)] {
            Schedule::new(seed.wrapping_add(round), ordered, claims).run();
        }
    }
}
