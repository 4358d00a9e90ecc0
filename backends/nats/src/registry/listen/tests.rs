//! Many processes and their reports, in simulated time.

#![allow(
    clippy::print_stdout,
    reason = "a seed that fails and what is delivered are worth knowing"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use catga_core::{Load, Name, NodeId};
use tokio::sync::mpsc;
use tokio::time::advance;

use super::super::roster::Wanted;
use super::*;

const HEARTBEAT: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(250);

/// A process with one node.
struct Process {
    node: NodeInfo,
    roster: Roster,
    reports: Reports,
    hears: bool,
    deaf: bool,
    /// Whether it has just begun to hear beats, and asks.
    asks: bool,
    beat: Instant,
    next: Instant,
    /// When it was killed.
    dead: Option<Instant>,
    events: mpsc::Receiver<catga_core::NodeEvent>,
}

impl Process {
    fn new(number: usize) -> Self {
        let id = Name::new(format!("n{number:02}")).unwrap();
        let mut roster = Roster::new(TIMEOUT);
        let (reply, mut watch) = tokio::sync::oneshot::channel();
        roster.answer(Wanted::Watch(reply));
        Self {
            node: NodeInfo::new(id, Name::from_static("shop")),
            roster,
            reports: Reports::new(TIMEOUT),
            hears: true,
            deaf: false,
            asks: false,
            beat: Instant::now(),
            next: Instant::now(),
            dead: None,
            events: watch.try_recv().unwrap().1,
        }
    }

    fn place(&self) -> Option<usize> {
        let mut lowest = self.roster.lowest(REPORTERS);
        lowest.position(|node| node.incarnation == self.node.incarnation)
    }

    fn hear(&mut self, node: &NodeInfo) {
        if std::mem::take(&mut self.deaf) {
            let within = says_so_within(TIMEOUT, self.roster.len());
            self.roster.resume(within);
        } else {
            self.roster.contact();
        }
        self.roster.heard(node.clone(), Duration::ZERO);
    }

    fn turn(&mut self) -> Option<Digest> {
        let place = self.place();
        if !self.hears && !self.reports.suffice(place) {
            self.listen();
        }
        let due = place.is_some_and(|place| self.reports.due(place) <= Instant::now());
        let heard = self.roster.silence();
        if !due || self.deaf || !self.reports.is_recent(heard) {
            return None;
        }
        self.reports.gave();
        Some(self.digest())
    }

    fn digest(&self) -> Digest {
        Digest {
            by: By(self.node.id.clone(), self.node.incarnation),
            every_ms: millis(Reports::every(TIMEOUT)),
            heard_ms: millis(self.roster.silence()),
            more: false,
            at: None,
            nodes: self.roster.briefs(),
        }
    }

    fn listen(&mut self) {
        self.reports.begin();
        self.deaf |= !self.hears;
        self.asks |= !self.hears && self.roster.len() <= FEW;
        self.hears = true;
    }

    fn told(&mut self, digest: &Digest) {
        if digest.by.1 == self.node.incarnation {
            return;
        }
        let place = self.place();
        let first = |node: &NodeInfo| node.id == digest.by.0;
        if self.roster.lowest(place.unwrap_or_default()).any(first) {
            self.reports.hear_first();
        }
        let (roster, reports) = (&mut self.roster, &mut self.reports);
        let enough = take(digest, roster, reports, self.hears, |_| false);
        if !self.hears && !enough {
            self.listen();
        } else if self.hears && !self.deaf && self.reports.suffice(place) {
            self.hears = false;
        }
    }
}

/// What was delivered.
#[derive(Default)]
struct Counted {
    beats: usize,
    reports: usize,
}

/// All of them.
struct World {
    all: Vec<Process>,
    chance: fastrand::Rng,
    counted: Counted,
    dead: BTreeSet<NodeId>,
}

impl World {
    async fn of(nodes: usize, seed: u64) -> Self {
        let all: Vec<_> = (0..nodes).map(Process::new).collect();
        let mut world = Self {
            all,
            chance: fastrand::Rng::with_seed(seed),
            counted: Counted::default(),
            dead: BTreeSet::new(),
        };
        // Each joins, which is told to all.
        for joins in 0..nodes {
            let node = world.all[joins].node.clone();
            for process in &mut world.all {
                process.hear(&node);
            }
            world.all[joins].next = Instant::now() + HEARTBEAT.mul_f64(world.chance.f64());
        }
        world.pass(HEARTBEAT * 2).await;
        world
    }

    async fn pass(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            advance(STEP).await;
            self.step();
        }
    }

    fn step(&mut self) {
        let now = Instant::now();
        let mut beats = Vec::new();
        for process in self.all.iter_mut().filter(|process| process.dead.is_none()) {
            if process.next <= now {
                process.next = now + HEARTBEAT.mul_f64(0.9 + self.chance.f64() / 10.0);
                process.beat = now;
                process.node.load = Load::percent(self.chance.u8(..100));
                beats.push(process.node.clone());
            }
        }
        let living = self.all.iter_mut();
        let mut living: Vec<_> = living.filter(|one| one.dead.is_none()).collect();
        for process in &mut living {
            if process.hears {
                for beat in &beats {
                    process.hear(beat);
                }
                self.counted.beats += beats.len();
            }
            // What is said to those who hear beats, where nobody beats.
            if process.hears && process.roster.silence() >= Reports::every(TIMEOUT) {
                process.roster.contact();
            }
        }
        let reports: Vec<Digest> = living.iter_mut().filter_map(|one| one.turn()).collect();
        for report in &reports {
            self.counted.reports += living.len();
            for process in &mut living {
                process.told(report);
            }
        }
        let ages = living
            .iter()
            .map(|one| (one.node.clone(), one.beat.elapsed()));
        let ages: Vec<_> = ages.collect();
        for process in living {
            if std::mem::take(&mut process.asks) {
                for (node, age) in &ages {
                    process.roster.heard(node.clone(), *age);
                }
            }
            process.roster.sweep();
        }
        self.judge();
    }

    /// Nobody who lives is given up, and everybody who does not is, in time.
    fn judge(&mut self) {
        let now = Instant::now();
        for process in &mut self.all {
            while let Ok(event) = process.events.try_recv() {
                if let catga_core::NodeEvent::Left(node) = event {
                    let of = &process.node.id;
                    assert!(self.dead.contains(&node.id), "{of} gave up {}", node.id);
                }
            }
        }
        // Where both who report die, nobody is heard for a while.
        let within = says_so_within(TIMEOUT, self.all.len());
        let late = TIMEOUT + Roster::pulse(TIMEOUT) + within + STEP * 2;
        let dead = self
            .all
            .iter()
            .filter_map(|one| Some((&one.node.id, one.dead?)));
        for (id, at) in dead.filter(|(_, at)| now.duration_since(*at) > late) {
            for process in self.all.iter().filter(|process| process.dead.is_none()) {
                let known = process.roster.get(id.as_str());
                assert!(
                    known.is_none(),
                    "{} knows {id}, dead since {at:?}",
                    process.node.id
                );
            }
        }
    }

    fn kill(&mut self, number: usize) {
        self.all[number].dead.get_or_insert_with(Instant::now);
        self.dead.insert(self.all[number].node.id.clone());
    }

    fn lowest(&self) -> Vec<usize> {
        let living = self.all.iter().enumerate();
        let living = living.filter(|(_, process)| process.dead.is_none());
        living.map(|(number, _)| number).take(REPORTERS).collect()
    }

    fn listeners(&self) -> usize {
        let living = self.all.iter().filter(|process| process.dead.is_none());
        living.filter(|process| process.hears).count()
    }
}

fn seed() -> u64 {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    seed
}

#[tokio::test(start_paused = true)]
async fn what_is_delivered_grows_with_the_nodes_and_no_faster() {
    let seed = seed();
    let mut each = Vec::new();
    for nodes in [3_u32, 30, 60] {
        let mut world = World::of(nodes as usize, seed).await;
        assert_eq!(world.listeners(), REPORTERS);
        world.counted = Counted::default();
        world.pass(HEARTBEAT * 10).await;
        let Counted { beats, reports } = world.counted;
        let per = f64::from(nodes) * 10.0;
        let count = |count: usize| f64::from(u32::try_from(count).unwrap()) / per;
        println!(
            "{nodes} nodes: {:.2} beats and {:.2} reports",
            count(beats),
            count(reports)
        );
        each.push(count(beats) + count(reports));
    }
    // A heartbeat reaches two, and four reports come in its time.
    assert!(
        each.iter().all(|each| (5.0..7.5).contains(each)),
        "{each:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_dies_is_given_up_in_time_and_nobody_else() {
    let mut chance = fastrand::Rng::with_seed(seed());
    for round in 0..12 {
        let nodes = if round < 10 { chance.usize(4..14) } else { 40 };
        let mut world = World::of(nodes, chance.u64(..)).await;
        for _ in 0..3 {
            // Those who report, one of them, or somebody else.
            let number = chance.usize(..world.all.len());
            let victims = match chance.u8(..4) {
                0 => vec![number],
                1 => world.lowest().into_iter().skip(1).collect(),
                2 => world.lowest().into_iter().take(1).collect(),
                _ => world.lowest(),
            };
            if world.all.len() < world.dead.len() + 2 + victims.len() {
                break;
            }
            for victim in victims {
                world.kill(victim);
            }
            let time = Duration::from_millis(chance.u64(100..50_000));
            world.pass(time).await;
        }
        world.pass(TIMEOUT * 3).await;
        let living = world.all.len() - world.dead.len();
        assert_eq!(world.listeners(), REPORTERS.min(living));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reporter_that_hears_nothing_is_not_relied_on() {
    let mut world = World::of(5, seed()).await;
    let mut lie = world.all[0].digest();
    for process in &mut world.all {
        process.listen();
    }
    for node in &mut lie.nodes {
        node.2 = 29_000;
    }
    for _ in 0..10 {
        world.all[3].told(&lie);
        world.all[4].told(&lie);
        assert!(world.all[3].reports.until().is_none() && world.all[3].hears);
    }
    world.pass(TIMEOUT * 2).await;
}
