//! At least once and exactly once over JetStream, ours: held against the loops of `stream.rs`.

use catga::prelude::*;
use futures_util::{StreamExt, stream};

use super::ours::{
    OnceFrame, Sample, StoredFrame, StoredOrder, are_acknowledged, are_stored, node, on_once_frame,
    on_stored_frame, on_stored_order,
};
use super::stream as by_hand;
use crate::bench::{Bench, Measured, two_cores};
use crate::case::{Bar, Case, Needs, Terms};
use crate::cases::work::RAW_PAYLOAD;
use crate::latency::Tally;
use crate::pace::Pace;

const WINDOW: usize = 256;

/// So many at once from one task, each until it is stored.
async fn publish_all<E: Sample>(
    writer: &Catga,
    count: u64,
    size: usize,
    tally: &Tally,
    done: fn(&Tally, u64),
) {
    let each = stream::iter(0..count).map(|i| async move {
        tally.sent(i);
        writer.publish(E::of(i, size)).await.expect("stored");
        done(tally, i);
    });
    each.buffer_unordered(WINDOW).for_each(|()| async {}).await;
}

/// Publishes until stored, with nobody there who handles.
fn publish(bench: Bench, size: usize) -> Measured {
    two_cores(async move {
        let tally = bench.tally(1);
        let writer = node(&bench.url, "writer", handlers![], &tally).await;
        let clock = bench.begin();
        publish_all::<StoredFrame>(&writer, bench.operations, size, &tally, Tally::one).await;
        let measured = clock.end_with(&tally);
        are_stored(&bench.url, bench.operations).await;
        measured
    })
}

/// The same in calls of so many each.
fn publish_many(bench: Bench) -> Measured {
    two_cores(async move {
        let tally = bench.tally(1);
        let writer = node(&bench.url, "writer", handlers![], &tally).await;
        let clock = bench.begin();
        for start in (0..bench.operations).step_by(WINDOW) {
            let numbers = start..(start + WINDOW as u64).min(bench.operations);
            numbers.clone().for_each(|i| tally.sent(i));
            let events = numbers.clone().map(|i| StoredFrame::of(i, 100));
            for (i, outcome) in numbers.zip(writer.publish_many(events).await) {
                outcome.expect("stored");
                tally.one(i);
            }
        }
        let measured = clock.end_with(&tally);
        are_stored(&bench.url, bench.operations).await;
        measured
    })
}

/// What is stored already is handled by a node that starts meanwhile.
fn consume(bench: Bench) -> Measured {
    two_cores(async move {
        let tally = bench.tally(1);
        let writer = node(&bench.url, "writer", handlers![], &tally).await;
        publish_all::<StoredFrame>(&writer, bench.operations, 100, &tally, |_, _| ()).await;
        let clock = bench.begin();
        let _reader = node(&bench.url, "reader", handlers![on_stored_frame], &tally).await;
        tally.reach_all().await;
        let measured = clock.end_with(&tally);
        are_acknowledged(&bench.url).await;
        measured
    })
}

/// One node publishes while another handles.
fn end_to_end<E: Sample>(bench: Bench, handlers: catga::Handlers, size: usize) -> Measured {
    two_cores(async move {
        let tally = bench.tally(1);
        let _reader = node(&bench.url, "reader", handlers, &tally).await;
        let writer = node(&bench.url, "writer", handlers![], &tally).await;
        let clock = bench.begin();
        publish_all::<E>(&writer, bench.operations, size, &tally, |_, _| ()).await;
        tally.reach_all().await;
        let measured = clock.end_with(&tally);
        are_acknowledged(&bench.url).await;
        measured
    })
}

/// At half of what the loop by hand reaches, which is found out first.
fn half(bench: Bench) -> Measured {
    let rate = by_hand::rate(&bench);
    two_cores(async move {
        let tally = bench.tally(1);
        let _reader = node(&bench.url, "reader", handlers![on_stored_frame], &tally).await;
        let writer = node(&bench.url, "writer", handlers![], &tally).await;
        let pace = Pace::per_second(rate / 2.0, bench.operations);
        let clock = bench.begin();
        let each = pace.numbers().map(|i| {
            let (writer, tally) = (&writer, &tally);
            async move {
                tally.sent(i);
                let frame = StoredFrame::of(i, 100);
                writer.publish(frame).await.expect("stored");
            }
        });
        each.buffer_unordered(WINDOW).for_each(|()| async {}).await;
        tally.reach_all().await;
        clock.end_with(&tally)
    })
}

pub fn cases() -> Vec<Case> {
    const MANY: u64 = 100_000;
    const PUBLISH: Terms = Terms::new("at least once", "file, 1 replica", "PubAck of each")
        .payload(RAW_PAYLOAD)
        .settings("256 unacknowledged, each with its id");
    const QOS1: Terms = Terms::new(
        "at least once",
        "file, 1 replica",
        "each, after its handler",
    )
    .payload(RAW_PAYLOAD)
    .settings("256 unacknowledged, each with its id");
    const QOS2: Terms = Terms::new(
        "exactly once",
        "file, 1 replica",
        "each with its claim in a KV bucket, confirmed",
    )
    .payload(RAW_PAYLOAD)
    .settings("256 unacknowledged, each with its id");
    const LARGE: &str = "512 B, a number first";
    let case = |name, does, operations, run| {
        Case::new(name, does, operations, run)
            .terms(QOS1)
            .needs(Needs::Nats)
    };
    vec![
        case("nats/publish/ours", "publish until stored", MANY, |bench| {
            publish(bench, 100)
        })
        .terms(PUBLISH)
        .with_latency()
        .against("nats/publish/256-id")
        .asked(Bar::RatioAtLeast(0.95)),
        case(
            "nats/publish/ours-512",
            "publish until stored",
            MANY,
            |bench| publish(bench, 512),
        )
        .terms(PUBLISH.payload(LARGE))
        .against("nats/publish/256-id-512")
        .asked(Bar::RatioAtLeast(0.95)),
        case(
            "nats/publish/ours-batch",
            "`publish_many` of 256 until stored",
            MANY,
            publish_many,
        )
        .terms(PUBLISH)
        .settings("one call of 256 after the other, each with its id")
        .against("nats/publish/256-id"),
        case(
            "nats/consume/ours",
            "what is stored, to handler and ack",
            MANY,
            consume,
        )
        .settings("the start of the node is in it")
        .against("nats/consume/pull")
        .asked(Bar::RatioAtLeast(0.95)),
        case(
            "nats/end-to-end/ours",
            "publish until stored, to handler and ack, at once",
            MANY,
            |bench| end_to_end::<StoredFrame>(bench, handlers![on_stored_frame], 100),
        )
        .with_latency()
        .against("nats/end-to-end/id")
        .asked(Bar::RatioAtLeast(0.9)),
        case(
            "nats/end-to-end/ours-512",
            "publish until stored, to handler and ack, at once",
            MANY,
            |bench| end_to_end::<StoredFrame>(bench, handlers![on_stored_frame], 512),
        )
        .terms(QOS1.payload(LARGE))
        .against("nats/end-to-end/id-512")
        .asked(Bar::RatioAtLeast(0.9)),
        case(
            "nats/end-to-end/ours-json",
            "publish until stored, to handler and ack, at once",
            MANY,
            |bench| end_to_end::<StoredOrder>(bench, handlers![on_stored_order], 0),
        )
        .terms(QOS1.payload("order, 80 B as JSON"))
        .with_latency()
        .against("nats/end-to-end/id"),
        case(
            "nats/end-to-end/ours-qos2",
            "publish until stored, to completion, at once",
            MANY / 5,
            |bench| end_to_end::<OnceFrame>(bench, handlers![on_once_frame], 100),
        )
        .terms(QOS2)
        .with_latency()
        .against("nats/end-to-end/ours")
        .asked(Bar::RatioAtLeast(0.33)),
        case(
            "nats/end-to-end/ours-half",
            "publish to handler, at half of what the loop by hand reaches",
            MANY / 2,
            half,
        )
        .settings("half of the rate of `nats/end-to-end/id`, found out first")
        .with_latency()
        .against("nats/end-to-end/half")
        .asked(Bar::MedianRatioAtMost(1.3))
        .asked(Bar::P99BeyondAtMost(1e6)),
        case(
            "nats/end-to-end/ours-long",
            "a million, ten with `--long`",
            1_000_000,
            |bench| end_to_end::<StoredFrame>(bench, handlers![on_stored_frame], 100),
        )
        .asked(Bar::GrowthAtMostMib(64.0))
        .long(),
    ]
}
