//! What the machine sets: cores for a handler that computes, memory for one that is slow.

use std::hint::spin_loop;
use std::time::{Duration, Instant};

use catga::prelude::*;
use serde::{Deserialize, Serialize};

use super::work::start;
use crate::bench::{Bench, Handled, Measured, two_cores};
use crate::case::{Bar, Case, Terms};
use crate::latency::Tally;

/// Burns CPU.
fn burn(time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        spin_loop();
    }
}

const HEAVY: Duration = Duration::from_micros(100);

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct Heavy(u64);

#[handler]
async fn heavy(event: &Heavy, State(tally): State<Tally>) -> Result<()> {
    burn(HEAVY);
    tally.one(event.0);
    Ok(())
}

fn burning_on_one_core(bench: Bench) -> Measured {
    let clock = bench.begin();
    let mut sum = 0;
    for i in 0..bench.operations {
        burn(HEAVY);
        sum += i;
    }
    let count = bench.operations;
    clock.end(Handled { count, sum })
}

fn burning(bench: Bench) -> Measured {
    two_cores(async move {
        let tally = bench.tally(1);
        let catga = start(handlers![heavy], &tally, "memory://").await;
        let clock = bench.begin();
        let outcomes = catga.publish_many((0..bench.operations).map(Heavy)).await;
        assert!(outcomes.iter().all(Result::is_ok), "stored");
        tally.reach_all().await;
        clock.end_with(&tally)
    })
}

#[derive(Event, Serialize, Deserialize)]
struct Reading {
    number: u64,
    text: String,
}

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct KeptReading(Reading);

impl Reading {
    fn new(number: u64) -> Self {
        Self {
            number,
            text: "a hundred bytes of text, of which a queue that grows would hold very many "
                .repeat(2),
        }
    }
}

/// Sees some of what is offered.
#[handler(concurrency = 1)]
async fn look(event: &Reading, State(tally): State<Tally>) {
    assert!(!event.text.is_empty());
    tokio::time::sleep(Duration::from_millis(1)).await;
    tally.one(event.number);
}

/// Slower than its publishers, and handles all.
#[handler(concurrency = 1)]
async fn keep(event: &KeptReading, State(tally): State<Tally>) -> Result<()> {
    burn(Duration::from_micros(4));
    tally.one(event.0.number);
    Ok(())
}

/// Offers more than a handler can take: what does not fit is dropped and counted.
fn overflowing(bench: Bench) -> Measured {
    two_cores(async move {
        let tally = bench.tally(1);
        let catga = start(handlers![look], &tally, "memory://").await;
        let clock = bench.begin();
        for i in 0..bench.operations {
            tally.sent(i);
            catga.publish(Reading::new(i)).await.expect("published");
        }
        let measured = clock.stop();
        // What waits in the ring is handled yet.
        let stats = loop {
            let stats = catga.handlers()[0].stats;
            if stats.handled + stats.dropped >= bench.operations {
                break stats;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        assert_eq!(stats.handled + stats.dropped, bench.operations, "{stats:?}");
        assert!(stats.dropped > 0, "the handler kept up: {stats:?}");
        measured
    })
}

/// Offers more than a handler can take at once: publishers wait for room.
fn pushing_back(bench: Bench) -> Measured {
    const PUBLISHERS: u64 = 64;
    two_cores(async move {
        let tally = bench.tally(1);
        let url = "memory://?capacity=1000";
        let catga = start(handlers![keep], &tally, url).await;
        let clock = bench.begin();
        let mut publishers = tokio::task::JoinSet::new();
        for lane in 0..PUBLISHERS {
            let (catga, operations) = (catga.clone(), bench.operations);
            publishers.spawn(async move {
                for i in (lane..operations).step_by(PUBLISHERS as usize) {
                    let event = KeptReading(Reading::new(i));
                    catga.publish(event).await.expect("stored in time");
                }
            });
        }
        publishers.join_all().await;
        tally.reach_all().await;
        clock.end_with(&tally)
    })
}

pub fn cases() -> Vec<Case> {
    const MILLION: u64 = 1_000_000;
    const NOTHING: Terms = Terms::new("none", "nowhere", "none").payload("a number");
    const QOS0: Terms = Terms::new("at most once", "in the process", "none");
    const QOS1: Terms = Terms::new("at least once", "in the process", "each, after its handler");
    const TEXT: &str = "150 B of text";
    vec![
        Case::new(
            "limits/burn-one-core",
            "100 µs of CPU, by hand on one core",
            4_000,
            burning_on_one_core,
        )
        .terms(NOTHING),
        Case::new(
            "limits/burn",
            "handler of 100 µs of CPU, two cores",
            4_000,
            burning,
        )
        .terms(QOS1.payload("a number"))
        .against("limits/burn-one-core")
        .asked(Bar::RatioOnTwoCoresAtLeast(1.7)),
        Case::new(
            "limits/overflow",
            "a million offered to a handler of 1 ms",
            MILLION,
            overflowing,
        )
        .terms(
            QOS0.payload(TEXT)
                .settings("ring of 1024; the oldest is dropped, counted"),
        )
        .asked(Bar::GrowthAtMostMib(16.0)),
        Case::new(
            "limits/push-back",
            "a million offered to a handler of 4 µs",
            MILLION,
            pushing_back,
        )
        .terms(
            QOS1.payload(TEXT)
                .settings("64 publishers, log of 1000; they wait for room"),
        )
        .asked(Bar::GrowthAtMostMib(16.0)),
    ]
}
