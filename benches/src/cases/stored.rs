//! At least once and exactly once in memory: from publish to handler and ack.

use std::sync::Arc;

use catga::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::work::{Order, handle, start};
use crate::bench::{Bench, Measured, two_cores};
use crate::case::{Bar, Case, Terms};
use crate::latency::Tally;

/// So many publishers, each waiting for its message to be stored before it publishes the next.
const WINDOW: u64 = 64;

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct StoredOrder(Order);

#[derive(Event, Serialize, Deserialize)]
#[qos(exactly_once)]
struct OnceOrder(Order);

/// A [`StoredOrder`] with one of 16 keys.
#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
#[route_by(key, partitions = 16)]
struct KeyedOrder {
    key: u64,
    order: Order,
}

impl KeyedOrder {
    fn new(i: u64) -> Self {
        Self {
            key: i % 16,
            order: Order::new(i),
        }
    }
}

#[handler(group = "stored")]
async fn stored(order: &StoredOrder, State(tally): State<Tally>) -> Result<()> {
    handle(&order.0, &tally);
    Ok(())
}

#[handler(group = "once")]
async fn once(order: &OnceOrder, State(tally): State<Tally>) -> Result<()> {
    handle(&order.0, &tally);
    Ok(())
}

#[handler(group = "unordered", concurrency = 16)]
async fn unordered(order: &KeyedOrder, State(tally): State<Tally>) -> Result<()> {
    handle(&order.order, &tally);
    Ok(())
}

#[handler(group = "ordered", ordered, concurrency = 16)]
async fn ordered(order: &KeyedOrder, State(tally): State<Tally>) -> Result<()> {
    handle(&order.order, &tally);
    Ok(())
}

/// Three queue hops by hand: to a log's owner and back as confirmation, from it to the consumer, and the
/// consumer's ack to it, without leases.
fn three_hops(bench: Bench) -> Measured {
    enum Command {
        Publish(Arc<Order>, oneshot::Sender<()>),
        Ack,
    }
    two_cores(async move {
        let (commands, mut log) = mpsc::channel(1024);
        let (deliveries, mut inbox) = mpsc::channel::<Arc<Order>>(1024);
        tokio::spawn(async move {
            while let Some(command) = log.recv().await {
                if let Command::Publish(order, stored) = command {
                    if deliveries.send(order).await.is_err() {
                        return;
                    }
                    let _ = stored.send(());
                }
            }
        });
        let acks = commands.clone();
        let tally = bench.tally(1);
        let counter = tally.clone();
        tokio::spawn(async move {
            while let Some(order) = inbox.recv().await {
                handle(&order, &counter);
                if acks.send(Command::Ack).await.is_err() {
                    return;
                }
            }
        });
        let clock = bench.begin();
        let mut publishers = JoinSet::new();
        for lane in 0..WINDOW {
            let (commands, tally, operations) = (commands.clone(), tally.clone(), bench.operations);
            publishers.spawn(async move {
                for i in (lane..operations).step_by(WINDOW as usize) {
                    let (stored, confirmed) = oneshot::channel();
                    tally.sent(i);
                    let publish = Command::Publish(Arc::new(Order::new(i)), stored);
                    assert!(commands.send(publish).await.is_ok(), "the log lives");
                    confirmed.await.expect("the log confirms");
                }
            });
        }
        publishers.join_all().await;
        tally.reach_all().await;
        clock.end_with(&tally)
    })
}

/// Ours, with so many publishers at once.
fn publish<E: catga::Event>(
    bench: Bench,
    handlers: catga::Handlers,
    event: fn(u64) -> E,
    publishers: u64,
) -> Measured {
    two_cores(async move {
        let tally = bench.tally(1);
        let catga = start(handlers, &tally, "memory://").await;
        let clock = bench.begin();
        let mut tasks = JoinSet::new();
        for lane in 0..publishers {
            let (catga, tally, operations) = (catga.clone(), tally.clone(), bench.operations);
            tasks.spawn(async move {
                for i in (lane..operations).step_by(publishers as usize) {
                    tally.sent(i);
                    catga.publish(event(i)).await.expect("stored");
                }
            });
        }
        tasks.join_all().await;
        tally.reach_all().await;
        clock.end_with(&tally)
    })
}

/// Ours, one publisher with 128 at a time.
fn publish_many<E: catga::Event>(
    bench: Bench,
    handlers: catga::Handlers,
    event: fn(u64) -> E,
) -> Measured {
    const BATCH: u64 = 128;
    two_cores(async move {
        let tally = bench.tally(1);
        let catga = start(handlers, &tally, "memory://").await;
        let clock = bench.begin();
        for start in (0..bench.operations).step_by(BATCH as usize) {
            let end = (start + BATCH).min(bench.operations);
            (start..end).for_each(|i| tally.sent(i));
            let outcomes = catga.publish_many((start..end).map(event)).await;
            assert!(outcomes.iter().all(Result::is_ok), "stored");
        }
        tally.reach_all().await;
        clock.end_with(&tally)
    })
}

fn qos1(i: u64) -> StoredOrder {
    StoredOrder(Order::new(i))
}

fn qos2(i: u64) -> OnceOrder {
    OnceOrder(Order::new(i))
}

pub fn cases() -> Vec<Case> {
    const MANY: u64 = 200_000;
    const QOS1: Terms = Terms::new("at least once", "in the process", "each, after its handler")
        .settings("64 publishers");
    const QOS2: Terms = Terms::new("exactly once", "in the process", "each, with its claim")
        .settings("64 publishers");
    const BATCHES: &str = "one publisher, batches of 128";
    const ALONE: &str = "one publisher, one after the other";
    let qos_1 = |name, does, run| Case::new(name, does, MANY, run).terms(QOS1).with_latency();
    let qos_2 = |name, does, run| Case::new(name, does, MANY, run).terms(QOS2).with_latency();
    vec![
        qos_1(
            "stored/hops",
            "three queue hops by hand: store, deliver, ack",
            three_hops,
        )
        .terms(QOS1.payload("order, as a value")),
        qos_1("stored/qos1", "publish to ack", |bench| {
            publish(bench, handlers![stored], qos1, WINDOW)
        })
        .against("stored/hops")
        .asked(Bar::RatioAtLeast(0.8)),
        qos_1("stored/qos1-batch", "`publish_many` to ack", |bench| {
            publish_many(bench, handlers![stored], qos1)
        })
        .settings(BATCHES)
        .against("stored/hops"),
        qos_1("stored/qos1-alone", "publish to ack", |bench| {
            publish(bench, handlers![stored], qos1, 1)
        })
        .settings(ALONE),
        qos_1("stored/qos1-two", "publish to ack", |bench| {
            publish(bench, handlers![stored], qos1, 2)
        })
        .settings("two publishers, each one after the other")
        .against("stored/qos1-alone"),
        qos_2("stored/qos2", "publish to completion", |bench| {
            publish(bench, handlers![once], qos2, WINDOW)
        })
        .against("stored/qos1")
        .asked(Bar::RatioAtLeast(0.5)),
        qos_2(
            "stored/qos2-batch",
            "`publish_many` to completion",
            |bench| publish_many(bench, handlers![once], qos2),
        )
        .settings(BATCHES)
        .against("stored/qos1-batch")
        .asked(Bar::RatioAtLeast(0.5)),
        qos_2("stored/qos2-alone", "publish to completion", |bench| {
            publish(bench, handlers![once], qos2, 1)
        })
        .settings(ALONE)
        .against("stored/qos1-alone"),
        qos_1("stored/unordered", "16 keys, concurrency 16", |bench| {
            publish(bench, handlers![unordered], KeyedOrder::new, WINDOW)
        }),
        qos_1(
            "stored/ordered",
            "16 keys over 16 partitions, in order in each",
            |bench| publish(bench, handlers![ordered], KeyedOrder::new, WINDOW),
        )
        .against("stored/unordered")
        .asked(Bar::RatioAtLeast(0.5)),
    ]
}
