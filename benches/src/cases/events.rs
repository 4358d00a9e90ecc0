//! At most once: from publish to handler, as a value.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use catga::prelude::*;
use crossbeam_queue::ArrayQueue;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::work::{Order, handle, number, payload, start};
use crate::bench::{Bench, Measured, one_core, two_cores};
use crate::case::{Bar, Case, Terms};
use crate::latency::Tally;

/// So many are published between looks at how far the handlers are: no ring overflows, and no handler waits for work.
const WINDOW: u64 = 1024;

#[handler(group = "one")]
async fn first(order: &Order, State(tally): State<Tally>) {
    handle(order, &tally);
}

#[handler(group = "two")]
async fn second(order: &Order, State(tally): State<Tally>) {
    handle(order, &tally);
}

#[handler(group = "three")]
async fn third(order: &Order, State(tally): State<Tally>) {
    handle(order, &tally);
}

#[handler(group = "one-value")]
async fn first_value(order: Order, State(tally): State<Tally>) {
    handle(&order, &tally);
}

#[handler(group = "two-value")]
async fn second_value(order: Order, State(tally): State<Tally>) {
    handle(&order, &tally);
}

#[handler(group = "three-value")]
async fn third_value(order: Order, State(tally): State<Tally>) {
    handle(&order, &tally);
}

/// An order of another kind, with a handler of its own.
#[derive(Event, Serialize, Deserialize)]
struct Return(Order);

#[handler]
async fn take_back(event: &Return, State(tally): State<Tally>) {
    handle(&event.0, &tally);
}

/// Raw bounded queues carrying an `Arc`, each with a task that waits on a `Notify`.
fn queues(bench: Bench, consumers: u64) -> Measured {
    two_cores(async move {
        let tally = bench.tally(consumers);
        let rings: Vec<_> = (0..consumers)
            .map(|_| Arc::new((ArrayQueue::new(4096), Notify::new())))
            .collect();
        let mut tasks = JoinSet::new();
        for ring in rings.iter().cloned() {
            let tally = tally.clone();
            tasks.spawn(async move {
                let (queue, filled) = &*ring;
                loop {
                    while let Some(order) = queue.pop() {
                        let order: Arc<Order> = order;
                        handle(&order, &tally);
                    }
                    filled.notified().await;
                }
            });
        }
        let clock = bench.begin();
        for i in 0..bench.operations {
            tally.sent(i);
            let order = Arc::new(Order::new(i));
            for ring in &rings {
                let pushed = ring.0.push(Arc::clone(&order));
                assert!(pushed.is_ok(), "the window is smaller than the ring");
                ring.1.notify_one();
            }
            tally.pace(i, WINDOW).await;
        }
        tally.reach_all().await;
        clock.end_with(&tally)
    })
}

/// The same over tokio's bounded channel.
async fn channel(bench: Bench) -> Measured {
    let tally = bench.tally(1);
    let (orders, mut inbox) = mpsc::channel::<Arc<Order>>(4096);
    let counter = tally.clone();
    tokio::spawn(async move {
        while let Some(order) = inbox.recv().await {
            handle(&order, &counter);
        }
    });
    let clock = bench.begin();
    for i in 0..bench.operations {
        tally.sent(i);
        let sent = orders.send(Arc::new(Order::new(i))).await;
        assert!(sent.is_ok(), "the consumer lives");
        tally.pace(i, WINDOW).await;
    }
    tally.reach_all().await;
    clock.end_with(&tally)
}

const RING: &str = "memory://?ring=4096";

/// The same content as what JSON makes of an order, which no codec looks at.
#[derive(Event)]
#[message(codec = "raw")]
struct Frame(Bytes);

#[handler]
async fn frame(frame: &Frame, State(tally): State<Tally>) {
    tally.one(black_box(number(&frame.0)));
}

fn order(i: u64) -> Order {
    Order::new(i)
}

fn raw(i: u64) -> Frame {
    Frame(payload(i, 80))
}

fn publish(bench: Bench, handlers: catga::Handlers, url: &'static str) -> Measured {
    publish_each(bench, handlers, url, order)
}

fn publish_each<E: catga::Event>(
    bench: Bench,
    handlers: catga::Handlers,
    url: &'static str,
    event: fn(u64) -> E,
) -> Measured {
    two_cores(publishing(bench, handlers, url, event))
}

async fn publishing<E: catga::Event>(
    bench: Bench,
    handlers: catga::Handlers,
    url: &'static str,
    event: fn(u64) -> E,
) -> Measured {
    let copies = handlers.len() as u64;
    let tally = bench.tally(copies);
    let catga = start(handlers, &tally, url).await;
    let clock = bench.begin();
    for i in 0..bench.operations {
        tally.sent(i);
        catga.publish(event(i)).await.expect("published");
        tally.pace(i, WINDOW).await;
    }
    tally.reach_all().await;
    clock.end_with(&tally)
}

/// A hundred at a time.
fn publish_many(bench: Bench) -> Measured {
    const BATCH: u64 = 128;
    two_cores(async move {
        let tally = bench.tally(1);
        let catga = start(handlers![first], &tally, RING).await;
        let clock = bench.begin();
        for start in (0..bench.operations).step_by(BATCH as usize) {
            let end = (start + BATCH).min(bench.operations);
            (start..end).for_each(|i| tally.sent(i));
            let outcomes = catga.publish_many((start..end).map(Order::new)).await;
            assert!(outcomes.iter().all(Result::is_ok), "published");
            tally.reach(end.saturating_sub(2 * WINDOW)).await;
        }
        tally.reach_all().await;
        clock.end_with(&tally)
    })
}

/// Two publishers, each of its own kind of event with its own handler.
fn two_pairs(bench: Bench) -> Measured {
    two_cores(async move {
        let tally = bench.tally(1);
        let catga = start(handlers![first, take_back], &tally, RING).await;
        let clock = bench.begin();
        let mut publishers = JoinSet::new();
        for lane in 0..2 {
            let (catga, tally, operations) = (catga.clone(), tally.clone(), bench.operations);
            publishers.spawn(async move {
                for i in (lane..operations).step_by(2) {
                    tally.sent(i);
                    let order = Order::new(i);
                    let published = match lane {
                        0 => catga.publish(order).await,
                        _ => catga.publish(Return(order)).await,
                    };
                    published.expect("published");
                    if i % WINDOW >= WINDOW - 2 {
                        tally.reach((i + 1).saturating_sub(WINDOW)).await;
                    }
                }
            });
        }
        publishers.join_all().await;
        tally.reach_all().await;
        clock.end_with(&tally)
    })
}

/// The same over two queues by hand.
fn two_queues(bench: Bench) -> Measured {
    two_cores(async move {
        let tally = bench.tally(1);
        let clock = bench.begin();
        let mut publishers = JoinSet::new();
        for lane in 0..2 {
            let (orders, mut inbox) = mpsc::channel::<Arc<Order>>(4096);
            let counter = tally.clone();
            tokio::spawn(async move {
                while let Some(order) = inbox.recv().await {
                    handle(&order, &counter);
                }
            });
            let (tally, operations) = (tally.clone(), bench.operations);
            publishers.spawn(async move {
                for i in (lane..operations).step_by(2) {
                    tally.sent(i);
                    let sent = orders.send(Arc::new(Order::new(i))).await;
                    assert!(sent.is_ok(), "the consumer lives");
                    if i % WINDOW >= WINDOW - 2 {
                        tally.reach((i + 1).saturating_sub(WINDOW)).await;
                    }
                }
            });
        }
        publishers.join_all().await;
        tally.reach_all().await;
        clock.end_with(&tally)
    })
}

pub fn cases() -> Vec<Case> {
    const MANY: u64 = 1_000_000;
    const AS_VALUE: Terms = Terms::new("at most once", "in the process", "none")
        .payload("order of three fields, as a value")
        .settings("at most 2048 ahead of the handler");
    const ONE_CORE: &str = "one thread; at most 2048 ahead of the handler";
    const AS_JSON: Terms = AS_VALUE.payload("order of three fields, to JSON and back");
    let case = |name, does, run| Case::new(name, does, MANY, run).terms(AS_VALUE);
    let to_three = |name, does, run| Case::new(name, does, MANY / 2, run).terms(AS_VALUE);
    vec![
        case(
            "events/queue",
            "one `ArrayQueue` of `Arc`, one task",
            |bench| queues(bench, 1),
        )
        .with_latency(),
        case(
            "events/mpsc",
            "one bounded tokio channel of `Arc`, one task",
            |bench| two_cores(channel(bench)),
        )
        .against("events/queue"),
        case(
            "events/reference",
            "publish to one handler, by reference",
            |bench| publish(bench, handlers![first], RING),
        )
        .against("events/queue")
        .asked(Bar::RatioAtLeast(0.8))
        .with_latency(),
        case(
            "events/value",
            "publish to one handler, by value",
            |bench| publish(bench, handlers![first_value], RING),
        )
        .against("events/queue"),
        case(
            "events/batch",
            "`publish_many` of 128 to one handler",
            publish_many,
        )
        .against("events/queue"),
        Case::new(
            "events/json",
            "publish to one handler, decoded",
            MANY / 2,
            |bench| publish(bench, handlers![first], "memory://?ring=4096&strict=true"),
        )
        .terms(AS_JSON)
        .against("events/queue"),
        Case::new(
            "events/raw",
            "publish to one handler, raw bytes over the same way",
            MANY / 2,
            |bench| {
                let url = "memory://?ring=4096&strict=true";
                publish_each(bench, handlers![frame], url, raw)
            },
        )
        .terms(AS_VALUE.payload("80 B that no codec looks at"))
        .against("events/json"),
        to_three(
            "events/three-queues",
            "three `ArrayQueue`s of `Arc`, three tasks",
            |bench| queues(bench, 3),
        ),
        to_three(
            "events/three-references",
            "publish to three handlers, by reference",
            |bench| publish(bench, handlers![first, second, third], RING),
        )
        .against("events/three-queues")
        .asked(Bar::RatioAtLeast(0.9)),
        Case::new(
            "events/three-values",
            "publish to three handlers, by value",
            MANY / 4,
            |bench| {
                publish(
                    bench,
                    handlers![first_value, second_value, third_value],
                    RING,
                )
            },
        )
        .terms(AS_JSON)
        .against("events/three-queues"),
        case(
            "events/channel-pair",
            "a task over a channel to another, both on one core",
            |bench| one_core().block_on(channel(bench)),
        )
        .settings(ONE_CORE),
        case(
            "events/pair",
            "publish to one handler, both on one core",
            |bench| {
                let publishing = publishing(bench, handlers![first], RING, order);
                one_core().block_on(publishing)
            },
        )
        .settings(ONE_CORE)
        .against("events/channel-pair"),
        case(
            "events/two-channels",
            "two tasks, each over a channel to a task of its own",
            two_queues,
        )
        .against("events/channel-pair"),
        case(
            "events/two-pairs",
            "two publishers, each to a handler of its own",
            two_pairs,
        )
        .against("events/pair")
        .asked(Bar::RatioOnTwoCoresAtLeast(1.6)),
    ]
}
