//! Random sequences of everything that can be asked of the backend at QoS 1, each step compared with a reference.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use catga_core::{
    Completion, DeadLetter, DeadLetterFilter, DeadLetters, Delivery, Error, ErrorKind, QoS, Reason,
    ReasonKind, Settlement, Start, Subscription, Transport,
};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use proptest::sample::Index;
use proptest::test_runner::{Config, FileFailurePersistence};
use tokio::time::{Instant, timeout};

use self::reference::{End, Group, Message, Reference};
use crate::{connect, in_group, message, text};

mod reference;

const GROUPS: [&str; 2] = ["g", "h"];
const MEMBERS: usize = 4;
const CAPACITY: usize = 6;
const MAX_IN_FLIGHT: usize = 3;
const ACK_WAIT: Duration = Duration::from_millis(50);
/// How long is waited for what comes at once, if it comes.
const MOMENT: Duration = Duration::from_millis(1);

#[derive(Clone, Debug)]
enum Step {
    Publish,
    /// A member comes to the group that its number says, or goes; what it holds stays its own.
    Join(usize, Start),
    Leave(usize, bool),
    Receive(usize, usize),
    /// A member waits while somebody publishes.
    ReceivePublished(usize),
    Settle(Index, End),
    Extend(Index),
    Redrive(Index),
    Pass(Duration),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let millis = || (0_u64..4).prop_map(|step| Duration::from_millis(step * 20));
    let end = prop_oneof![
        4 => Just(End::Ack),
        2 => Just(End::Complete),
        2 => millis().prop_map(End::Nak),
        1 => millis().prop_map(End::Defer),
        2 => any::<bool>().prop_map(|began| End::Release { began }),
        1 => Just(End::DeadLetter),
    ];
    let start = prop_oneof![Just(Start::Oldest), Just(Start::New)];
    let step = prop_oneof![
        4 => Just(Step::Publish),
        3 => (0..MEMBERS, start).prop_map(|(member, start)| Step::Join(member, start)),
        1 => (0..MEMBERS, any::<bool>()).prop_map(|(member, closes)| Step::Leave(member, closes)),
        6 => (0..MEMBERS, 1..4_usize).prop_map(|(member, max)| Step::Receive(member, max)),
        2 => (0..MEMBERS).prop_map(Step::ReceivePublished),
        6 => (any::<Index>(), end).prop_map(|(which, end)| Step::Settle(which, end)),
        1 => any::<Index>().prop_map(Step::Extend),
        1 => any::<Index>().prop_map(Step::Redrive),
        2 => millis().prop_map(Step::Pass),
    ];
    vec(step, 1..80)
}

/// A delivery that somebody holds, or believes to.
struct Held {
    delivery: Delivery,
    number: u64,
    member: usize,
    group: Group,
    message: Message,
}

struct Run {
    bus: Arc<dyn Transport>,
    letters: Arc<dyn DeadLetters>,
    members: [Option<Box<dyn Subscription>>; MEMBERS],
    held: Vec<Held>,
    deliveries: u64,
    reference: Reference,
}

impl Run {
    async fn new() -> Self {
        let backend = connect(&format!("memory://?capacity={CAPACITY}")).await;
        Self {
            bus: backend.transport,
            letters: backend.dead_letters.unwrap(),
            members: Default::default(),
            held: Vec::new(),
            deliveries: 0,
            reference: Reference::new(CAPACITY),
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Publish => self.publish().await,
            Step::Join(member, start) if self.members[member].is_none() => {
                let group = group_of(member);
                let subscribe = in_group(QoS::AtLeastOnce, GROUPS[group])
                    .with_start(start)
                    .with_ack_wait(ACK_WAIT)
                    .with_max_in_flight(MAX_IN_FLIGHT);
                self.members[member] = Some(self.bus.subscribe(&subscribe).await.unwrap());
                self.reference.join(group, start);
            }
            Step::Leave(member, closes) => self.leave(member, closes).await,
            Step::Receive(member, max) => self.receive(member, max).await,
            Step::ReceivePublished(member) => self.receive_published(member).await,
            Step::Settle(which, end) if !self.held.is_empty() => {
                let held = self.held.swap_remove(which.index(self.held.len()));
                self.settle(held, end).await;
            }
            Step::Extend(which) if !self.held.is_empty() => {
                let held = which.index(self.held.len());
                let held = &mut self.held[held];
                let extended = held.delivery.extend().await.is_ok();
                let until = Instant::now() + ACK_WAIT;
                let expected = self
                    .reference
                    .extend(held.group, held.message, held.number, until);
                assert_eq!(extended, expected);
            }
            Step::Redrive(which) => {
                let letters = self.list().await;
                if !letters.is_empty() {
                    let letter = &letters[which.index(letters.len())];
                    self.letters.redrive(&letter.id).await.unwrap();
                    let (group, message) = key(letter);
                    self.reference.redrive(group, message);
                }
            }
            Step::Pass(time) => tokio::time::sleep(time).await,
            Step::Join(..) | Step::Settle(..) | Step::Extend(_) => {}
        }
    }

    /// It has the number of its publish as its content, and finds room where the reference has some.
    async fn publish(&mut self) {
        let expected = self.reference.publish();
        let content = expected.map_or("too many".to_owned(), |message| message.to_string());
        let mut envelope = message(QoS::AtLeastOnce, &content);
        match self.bus.publish(&mut envelope, MOMENT).await {
            Ok(_) => assert!(expected.is_some(), "there was no room"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::LimitReached);
                assert!(expected.is_none(), "there was room");
            }
        }
    }

    async fn leave(&mut self, member: usize, closes: bool) {
        if let Some(mut subscription) = self.members[member].take()
            && closes
        {
            subscription.close().await.unwrap();
        }
        // Who comes in its place may hold as much again.
        self.held
            .iter_mut()
            .filter(|held| held.member == member)
            .for_each(|held| held.member = MEMBERS);
    }

    /// How much a member can be handed now.
    fn room(&self, member: usize) -> usize {
        let out = |held: &&Held| {
            held.member == member && self.reference.is_out(held.group, held.message, held.number)
        };
        MAX_IN_FLIGHT - self.held.iter().filter(out).count()
    }

    async fn receive(&mut self, member: usize, max: usize) {
        let ready = self.reference.ready(group_of(member));
        let expected = max.min(self.room(member)).min(ready);
        let Some(mut subscription) = self.members[member].take() else {
            return;
        };
        let mut received = Vec::new();
        {
            let mut receiving = pin!(subscription.recv(max, &mut received));
            if !is_ready(&mut receiving).await {
                // By then the log has answered, as far as it can.
                self.list().await;
                assert_eq!(is_ready(&mut receiving).await, expected > 0);
            }
        }
        assert_eq!(received.len(), expected);
        self.members[member] = Some(subscription);
        if expected == 0 {
            // Else it would still wait, and be handed what comes meanwhile.
            self.leave(member, true).await;
        }
        self.check(member, received);
    }

    async fn receive_published(&mut self, member: usize) {
        let waits = self.room(member) > 0
            && self.reference.ready(group_of(member)) == 0
            && self.reference.has_room();
        let Some(mut subscription) = self.members[member].take_if(|_| waits) else {
            return;
        };
        let mut received = Vec::new();
        let receiving = timeout(MOMENT, subscription.recv(1, &mut received));
        let (in_time, ()) = tokio::join!(biased; receiving, self.publish());
        in_time.expect("it is handed over at once").unwrap();
        assert_eq!(received.len(), 1);
        self.members[member] = Some(subscription);
        self.check(member, received);
    }

    /// Compares deliveries with what the reference would hand out.
    fn check(&mut self, member: usize, received: Vec<Delivery>) {
        let until = Instant::now() + ACK_WAIT;
        for delivery in received {
            let (group, message) = (group_of(member), text(&delivery).parse().unwrap());
            let number = self.deliveries;
            self.deliveries += 1;
            let expected = self.reference.deliver(group, message, number, until);
            let is = (
                delivery.count(),
                delivery.generation(),
                delivery.may_have_run(),
            );
            assert_eq!(is, expected, "{message} to {}", GROUPS[group]);
            self.held.push(Held {
                delivery,
                number,
                member,
                group,
                message,
            });
        }
    }

    async fn settle(&mut self, held: Held, end: End) {
        let settlement = match end {
            End::Ack => Settlement::Ack,
            End::Complete => Settlement::Complete(Completion::new()),
            End::Nak(after) => Settlement::Nak { after },
            End::Defer(after) => Settlement::Defer { after },
            End::Release { began } => Settlement::Release { began },
            End::DeadLetter => Settlement::DeadLetter {
                reason: Reason::new(ReasonKind::Terminal, "no"),
                claim: None,
            },
        };
        let settled = held.delivery.settle(settlement).await;
        let (group, message, number) = (held.group, held.message, held.number);
        let expected = self
            .reference
            .settle(group, message, number, end, Instant::now());
        // An ack is not waited for.
        assert_eq!(settled.is_ok(), expected || matches!(end, End::Ack));
        if let Err(error) = settled {
            assert_eq!(error.kind(), ErrorKind::LostOwnership);
        }
    }

    /// Goes through the task of the log, which then has seen whatever is over.
    async fn list(&self) -> Vec<DeadLetter> {
        let all = DeadLetterFilter::all();
        let page = self.letters.list(&all, None, 1000).await;
        page.unwrap().letters
    }

    /// Compares what is left.
    async fn compare(&mut self) {
        let letters = self.list().await;
        self.reference.expire(Instant::now());
        let letters: BTreeMap<_, _> = letters.iter().map(|l| (key(l), l.generation)).collect();
        assert_eq!(letters, self.reference.dead());
        for (member, subscription) in self.members.iter().enumerate() {
            let Some(subscription) = subscription else {
                continue;
            };
            let waiting = subscription.stats_reader().read().waiting;
            let expected = self.reference.waiting(group_of(member));
            assert_eq!(waiting, Some(expected as u64), "waiting");
        }
    }
}

/// Whether a future is ready, polled once.
async fn is_ready(future: &mut (impl Future<Output = Result<(), Error>> + Unpin)) -> bool {
    tokio::select! {
        biased;
        outcome = future => outcome.is_ok(),
        () = std::future::ready(()) => false,
    }
}

fn group_of(member: usize) -> Group {
    member % GROUPS.len()
}

fn key(letter: &DeadLetter) -> (Group, Message) {
    let group = GROUPS
        .iter()
        .position(|group| letter.group.as_str() == *group);
    let content = letter.envelope.payload().as_bytes().unwrap();
    let content = std::str::from_utf8(content).unwrap();
    (group.unwrap(), content.parse().unwrap())
}

fn config() -> Config {
    Config {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..Config::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whatever_is_asked_it_does_as_the_reference(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut run = Run::new().await;
            for step in steps {
                run.step(step).await;
                run.compare().await;
            }
        });
    }
}
