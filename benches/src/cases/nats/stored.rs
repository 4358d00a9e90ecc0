//! At least once and exactly once over JetStream, ours: held against the loops of `stream.rs`.

use async_nats::jetstream;
use catga::prelude::*;
use futures_util::TryStreamExt;

use super::connect;
use super::stream as by_hand;
use crate::case::{Bar, Case, Needs, Terms};
use crate::cases::ours::stored::{consume, end_to_end, paced, publish, publish_many};
use crate::cases::ours::{
    Broker, OnceFrame, StoredFrame, StoredOrder, on_once_frame, on_stored_frame, on_stored_order,
};
use crate::cases::work::RAW_PAYLOAD;

struct Nats;

impl Broker for Nats {
    async fn stored(url: &str) -> u64 {
        state(url).await.0
    }

    async fn open(url: &str) -> u64 {
        state(url).await.1
    }
}

/// How many messages all streams hold that are no bucket, and how many of them some consumer has not acknowledged.
async fn state(url: &str) -> (u64, u64) {
    let context = jetstream::new(connect(url).await);
    let mut streams = context.streams();
    let (mut stored, mut open) = (0, 0);
    while let Some(info) = streams.try_next().await.expect("an answer") {
        if info.config.name.starts_with("KV_") {
            continue;
        }
        stored += info.state.messages;
        let stream = context.get_stream(&info.config.name).await;
        let stream = stream.expect("it is there");
        let mut consumers = stream.consumers();
        while let Some(info) = consumers.try_next().await.expect("an answer") {
            open += info.num_pending + info.num_ack_pending as u64;
        }
    }
    (stored, open)
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
            publish::<Nats>(bench, 100)
        })
        .terms(PUBLISH)
        .with_latency()
        .against("nats/publish/256-id")
        .asked(Bar::RatioAtLeast(0.95)),
        case(
            "nats/publish/ours-512",
            "publish until stored",
            MANY,
            |bench| publish::<Nats>(bench, 512),
        )
        .terms(PUBLISH.payload(LARGE))
        .against("nats/publish/256-id-512")
        .asked(Bar::RatioAtLeast(0.95)),
        case(
            "nats/publish/ours-batch",
            "`publish_many` of 256 until stored",
            MANY,
            publish_many::<Nats>,
        )
        .terms(PUBLISH)
        .settings("one call of 256 after the other, each with its id")
        .against("nats/publish/256-id"),
        case(
            "nats/consume/ours",
            "what is stored, to handler and ack",
            MANY,
            consume::<Nats>,
        )
        .settings("each with its id; the node is connected before, and paused")
        .against("nats/consume/pull-id")
        .asked(Bar::RatioAtLeast(0.95)),
        case(
            "nats/end-to-end/ours",
            "publish until stored, to handler and ack, at once",
            MANY,
            |bench| end_to_end::<StoredFrame, Nats>(bench, handlers![on_stored_frame], 100),
        )
        .with_latency()
        .against("nats/end-to-end/id")
        .asked(Bar::RatioAtLeast(0.9)),
        case(
            "nats/end-to-end/ours-512",
            "publish until stored, to handler and ack, at once",
            MANY,
            |bench| end_to_end::<StoredFrame, Nats>(bench, handlers![on_stored_frame], 512),
        )
        .terms(QOS1.payload(LARGE))
        .against("nats/end-to-end/id-512")
        .asked(Bar::RatioAtLeast(0.9)),
        case(
            "nats/end-to-end/ours-json",
            "publish until stored, to handler and ack, at once",
            MANY,
            |bench| end_to_end::<StoredOrder, Nats>(bench, handlers![on_stored_order], 0),
        )
        .terms(QOS1.payload("order, 80 B as JSON"))
        .with_latency()
        .against("nats/end-to-end/id"),
        case(
            "nats/end-to-end/ours-qos2",
            "publish until stored, to completion, at once",
            MANY / 5,
            |bench| end_to_end::<OnceFrame, Nats>(bench, handlers![on_once_frame], 100),
        )
        .terms(QOS2)
        .with_latency()
        .against("nats/end-to-end/ours")
        .asked(Bar::RatioAtLeast(0.33)),
        case(
            "nats/end-to-end/ours-half",
            "publish to handler, at half of what the loop by hand reaches",
            MANY / 2,
            |bench| {
                let half = by_hand::rate(&bench) / 2.0;
                paced(bench, half)
            },
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
            |bench| end_to_end::<StoredFrame, Nats>(bench, handlers![on_stored_frame], 100),
        )
        .asked(Bar::GrowthAtMostMib(64.0))
        .long(),
    ]
}
