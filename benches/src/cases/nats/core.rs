//! At most once over NATS core: from publish to a subscriber on another connection, by hand and to a handler of ours.

use async_nats::HeaderMap;
use catga::prelude::*;
use futures_util::StreamExt;

use super::{connect, settled};
use crate::bench::{Bench, Measured, two_cores};
use crate::case::{Bar, Case, Needs, Terms};
use crate::cases::ours::events::publish as ours;
use crate::cases::ours::{Frame, Note, Sample, on_frame, on_note, on_order};
use crate::cases::work::{Order, RAW_PAYLOAD, number, payload};
use crate::pace;

/// Below the capacity of a subscription, which drops what is beyond.
const WINDOW: u64 = 16_384;

/// What differs from a plain publish.
#[derive(Clone, Copy, PartialEq)]
enum With {
    Nothing,
    Headers,
    Flush,
    /// Encoded and decoded by serde_json.
    Json,
}

fn publish(bench: Bench, with: With, size: usize, rate: Option<f64>) -> Measured {
    two_cores(async move {
        let (publisher, consumer) = (connect(&bench.url).await, connect(&bench.url).await);
        let mut inbox = consumer.subscribe("orders").await.expect("subscribed");
        settled(&consumer).await;
        let tally = bench.tally(1);
        let counter = tally.clone();
        tokio::spawn(async move {
            while let Some(message) = inbox.next().await {
                counter.one(match with {
                    With::Json => {
                        let note = serde_json::from_slice::<Note>(&message.payload);
                        note.expect("a note").number
                    }
                    _ => number(&message.payload),
                });
            }
        });
        let mut numbers = pace::numbers(bench.operations, rate);
        let clock = bench.begin();
        while let Some(i) = numbers.next().await {
            tally.sent(i);
            let sent = match with {
                With::Headers => {
                    let payload = payload(i, size);
                    let publish = publisher.publish_with_headers("orders", headers(i), payload);
                    publish.await
                }
                With::Json => {
                    let note = serde_json::to_vec(&Note::of(i, size)).expect("a note");
                    publisher.publish("orders", note.into()).await
                }
                _ => publisher.publish("orders", payload(i, size)).await,
            };
            sent.expect("connected");
            if with == With::Flush {
                publisher.flush().await.expect("connected");
            }
            tally.pace(i, WINDOW).await;
        }
        tally.reach_all().await;
        clock.end_with(&tally)
    })
}

/// Four of the kind that a framework adds.
fn headers(i: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Message-Id", format!("018f3d6e-7c1a-7000-8000-{i:012x}"));
    headers.insert("Message-Type", "orders.created");
    headers.insert(
        "Correlation-Id",
        format!("018f3d6e-7c1a-7000-9000-{i:012x}"),
    );
    headers.insert("Content-Type", "application/json");
    headers
}

/// Half of what the loop by hand reaches, in messages a second.
fn half(bench: &Bench) -> f64 {
    let measured = publish(bench.rehearsal(100_000), With::Nothing, 100, None);
    measured.operations as f64 / measured.wall.as_secs_f64() / 2.0
}

pub fn cases() -> Vec<Case> {
    const QOS0: Terms = Terms::new("at most once", "nowhere", "none").payload(RAW_PAYLOAD);
    const LARGE: &str = "512 B, a number first";
    const JSON: &str = "number and text, 100 B as JSON";
    const LARGE_JSON: &str = "number and text, 512 B as JSON";
    const HALF: &str = "half of the rate of `nats/core/publish`, found out first";
    const MANY: u64 = 500_000;
    let case = |name, does, operations, run| {
        Case::new(name, does, operations, run)
            .terms(QOS0)
            .needs(Needs::Nats)
    };
    let ours_to = |name, run| {
        case(name, "publish to a handler", MANY, run).settings("no header; ring of 65,536")
    };
    vec![
        case(
            "nats/core/publish",
            "publish to a subscriber",
            MANY,
            |bench| publish(bench, With::Nothing, 100, None),
        )
        .with_latency(),
        case(
            "nats/core/publish-512",
            "the same with 512 bytes",
            MANY,
            |bench| publish(bench, With::Nothing, 512, None),
        )
        .terms(QOS0.payload(LARGE))
        .against("nats/core/publish"),
        case(
            "nats/core/json",
            "the same through serde_json",
            MANY,
            |bench| publish(bench, With::Json, 100, None),
        )
        .terms(QOS0.payload(JSON))
        .with_latency()
        .against("nats/core/publish"),
        case(
            "nats/core/json-512",
            "the same through serde_json",
            MANY,
            |bench| publish(bench, With::Json, 512, None),
        )
        .terms(QOS0.payload(LARGE_JSON))
        .against("nats/core/publish-512"),
        case(
            "nats/core/headers",
            "the same with four headers",
            200_000,
            |bench| publish(bench, With::Headers, 100, None),
        )
        .against("nats/core/publish"),
        case(
            "nats/core/flush",
            "the same, flushed after each",
            50_000,
            |bench| publish(bench, With::Flush, 100, None),
        )
        .against("nats/core/publish"),
        ours_to("nats/core/ours", |bench| {
            ours::<Frame>(bench, handlers![on_frame], 100, WINDOW, None)
        })
        .with_latency()
        .against("nats/core/publish")
        .asked(Bar::RatioAtLeast(0.9)),
        ours_to("nats/core/ours-512", |bench| {
            ours::<Frame>(bench, handlers![on_frame], 512, WINDOW, None)
        })
        .terms(QOS0.payload(LARGE))
        .against("nats/core/publish-512")
        .asked(Bar::RatioAtLeast(0.9)),
        ours_to("nats/core/ours-json", |bench| {
            ours::<Note>(bench, handlers![on_note], 100, WINDOW, None)
        })
        .terms(QOS0.payload(JSON))
        .with_latency()
        .against("nats/core/json")
        .asked(Bar::RatioAtLeast(0.93)),
        ours_to("nats/core/ours-json-512", |bench| {
            ours::<Note>(bench, handlers![on_note], 512, WINDOW, None)
        })
        .terms(QOS0.payload(LARGE_JSON))
        .against("nats/core/json-512")
        .asked(Bar::RatioAtLeast(0.93)),
        ours_to("nats/core/ours-order", |bench| {
            ours::<Order>(bench, handlers![on_order], 0, WINDOW, None)
        })
        .terms(QOS0.payload("order, 80 B as JSON"))
        .with_latency()
        .against("nats/core/publish"),
        case(
            "nats/core/half",
            "publish to a subscriber, at half of what that reaches",
            100_000,
            |bench| {
                let half = half(&bench);
                publish(bench, With::Nothing, 100, Some(half))
            },
        )
        .settings(HALF)
        .with_latency()
        .against("nats/core/publish"),
        case(
            "nats/core/ours-half",
            "publish to a handler, at the same rate",
            100_000,
            |bench| {
                let half = half(&bench);
                ours::<Frame>(bench, handlers![on_frame], 100, WINDOW, Some(half))
            },
        )
        .settings(HALF)
        .with_latency()
        .against("nats/core/half")
        .asked(Bar::MedianRatioAtMost(1.3))
        .asked(Bar::P99BeyondAtMost(1e6)),
        case(
            "nats/core/ours-long",
            "a million to a handler, ten with `--long`",
            1_000_000,
            |bench| ours::<Frame>(bench, handlers![on_frame], 100, WINDOW, None),
        )
        .asked(Bar::GrowthAtMostMib(64.0))
        .long(),
    ]
}
