//! How nodes find each other, by each means: the traffic as the server counts it at 3, 30 and 300 nodes, how long until a join and a
//! death are known to all, what a heartbeat costs, what a node takes in a view, and what a restart of the server leaves.
//!
//! The nodes are simulated: each has a backend of its own, and so connections of its own, and says that it lives as an application
//! does; all are in the process of the case. One with a load that does not change.

mod counts;
mod crew;
mod growth;
mod means;
mod memory;
mod restart;

use std::time::Duration;

use self::means::Means;
use crate::bench::{Bench, Measured};
use crate::case::{Bar, Case, Terms};
use crate::figure::Unit;

/// What the figures are called, which the documentation's tables are made of.
pub mod named {
    pub const WRITTEN: &str = "written/s";
    pub const DELIVERED: &str = "delivered/s";
    pub const WRITTEN_EACH: &str = "written/s and node";
    pub const DELIVERED_EACH: &str = "delivered/s and node";
    pub const BYTES_IN: &str = "B/s in";
    pub const BYTES_OUT: &str = "B/s out";
    pub const ANSWERED: &str = "a heartbeat is answered in";
    pub const JOIN: &str = "a join is seen by all in";
    pub const NEWCOMER: &str = "the newcomer sees all in";
    pub const DEATH_FIRST: &str = "a death is noticed at first after";
    pub const DEATH: &str = "a death is noticed by all after";
    pub const MEMORY: &str = "a node in a view";
    pub const AT_ONCE: &str = "of 30 listed at once";
    pub const COMPLETE: &str = "all listed after";
    pub const WRONG: &str = "live nodes told as left";
    pub const ENDED: &str = "watches that ended";
}

/// A join has to be seen by all 300 in this time.
const JOIN: Duration = Duration::from_secs(2);
/// What a node may take in a view.
const NODE_BYTES: f64 = 2048.0;
/// So much more for each node at 300 than at 30 still counts as the same: linear growth.
const LINEAR: f64 = 1.25;

/// The nodes of the restarted server's registry.
const RESTARTED: usize = 30;

const SETTINGS: &str = "heartbeat 10 s, node timeout 30 s; nodes in one process, each with connections of its own; 20 s after all have settled; five joins and deaths, the slowest counts";
const SMALL: &str = "as with 300; side by side with others that wait most of the time";
const RESTART: &str = "30 nodes, heartbeat 10 s, node timeout 30 s; the server is killed (SIGKILL) and started again at once; side by side with the other restarts";

fn terms(means: Means, settings: &'static str) -> Terms {
    Terms::new("membership", means.kept(), "each heartbeat")
        .payload("a node with an endpoint, five requests and a label")
        .settings(settings)
}

/// At 3, 30 and 300 nodes.
fn growing(means: Means, names: [&'static str; 3], runs: [fn(Bench) -> Measured; 3]) -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, run) in names.into_iter().zip(runs) {
        // Milliseconds of the window.
        let mut case = Case::new(name, means.does(), 20_000, run)
            .terms(terms(means, SETTINGS))
            .limit(Duration::from_secs(400))
            .once();
        // Hundreds of nodes over a server have the machine for themselves.
        if name != names[2] || !means.needs_server() {
            case = case.settings(SMALL).beside("discovery/small");
        }
        if name == names[2] {
            case = case
                .asked(Bar::FigureAtMost(
                    named::JOIN,
                    Unit::Nanos,
                    JOIN.as_nanos() as f64,
                ))
                .asked(Bar::FigureAtMost(named::MEMORY, Unit::Bytes, NODE_BYTES));
            if means.needs_server() {
                let linear = |figure| Bar::FigureRatioAtMost {
                    figure,
                    of: names[1],
                    most: LINEAR,
                };
                case = case
                    .asked(linear(named::WRITTEN_EACH))
                    .asked(linear(named::DELIVERED_EACH));
            }
        } else {
            case = case.without_allocations();
        }
        cases.push(case);
    }
    cases
}

fn restarted(means: Means, name: &'static str, run: fn(Bench) -> Measured) -> Case {
    Case::new(name, "the server is killed and started again", 20_000, run)
        .terms(terms(means, RESTART))
        .limit(Duration::from_secs(400))
        .without_allocations()
        .once()
        .beside("discovery/restart")
}

/// The cases of a means, whose functions have to be known when this is compiled.
macro_rules! cases_of {
    ($means:expr, $name:literal) => {
        growing(
            $means,
            [
                concat!("discovery/", $name, "/3"),
                concat!("discovery/", $name, "/30"),
                concat!("discovery/", $name, "/300"),
            ],
            [
                |bench| growth::run(bench, $means, 3),
                |bench| growth::run(bench, $means, 30),
                |bench| growth::run(bench, $means, 300),
            ],
        )
    };
}

macro_rules! restart_of {
    ($means:expr, $name:literal) => {
        restarted($means, concat!("discovery/", $name, "/restart"), |bench| {
            restart::run(bench, $means, RESTARTED)
        })
    };
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(cases_of!(Means::Memory, "memory"));
    cases.extend(cases_of!(Means::NatsKv, "nats-kv"));
    cases.extend(cases_of!(Means::NatsPubSub, "nats-pubsub"));
    cases.extend(cases_of!(Means::RedisSortedSet, "redis-sorted-set"));
    cases.extend(cases_of!(Means::RedisKeys, "redis-keys"));
    cases.extend([
        restart_of!(Means::NatsKv, "nats-kv"),
        restart_of!(Means::NatsPubSub, "nats-pubsub"),
        restart_of!(Means::RedisSortedSet, "redis-sorted-set"),
        restart_of!(Means::RedisSortedSetOnFile, "redis-sorted-set-on-file"),
        restart_of!(Means::RedisKeys, "redis-keys"),
        restart_of!(Means::RedisKeysOnFile, "redis-keys-on-file"),
    ]);
    cases
}
