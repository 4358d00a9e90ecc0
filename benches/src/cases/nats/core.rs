//! At most once over NATS core: from publish to a subscriber on another connection.

use async_nats::HeaderMap;
use futures_util::StreamExt;

use super::{connect, settled};
use crate::bench::{Bench, Measured, two_cores};
use crate::case::{Case, Needs, Terms};
use crate::cases::work::{RAW_PAYLOAD, number, payload};

/// Below the capacity of a subscription, which drops what is beyond.
const WINDOW: u64 = 16_384;

/// What differs from a plain publish.
#[derive(Clone, Copy, PartialEq)]
enum With {
    Nothing,
    Headers,
    Flush,
}

fn publish(bench: Bench, with: With) -> Measured {
    two_cores(async move {
        let (publisher, consumer) = (connect(&bench.url).await, connect(&bench.url).await);
        let mut inbox = consumer.subscribe("orders").await.expect("subscribed");
        settled(&consumer).await;
        let tally = bench.tally(1);
        let counter = tally.clone();
        tokio::spawn(async move {
            while let Some(message) = inbox.next().await {
                counter.one(number(&message.payload));
            }
        });
        let clock = bench.begin();
        for i in 0..bench.operations {
            tally.sent(i);
            let sent = match with {
                With::Headers => {
                    let publish = publisher.publish_with_headers("orders", headers(i), payload(i));
                    publish.await
                }
                _ => publisher.publish("orders", payload(i)).await,
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

pub fn cases() -> Vec<Case> {
    const QOS0: Terms = Terms::new("at most once", "nowhere", "none").payload(RAW_PAYLOAD);
    let case = |name, does, operations, run| {
        Case::new(name, does, operations, run)
            .terms(QOS0)
            .needs(Needs::Nats)
    };
    vec![
        case(
            "nats/core/publish",
            "publish to a subscriber",
            500_000,
            |bench| publish(bench, With::Nothing),
        )
        .with_latency(),
        case(
            "nats/core/headers",
            "the same with four headers",
            200_000,
            |bench| publish(bench, With::Headers),
        )
        .against("nats/core/publish"),
        case(
            "nats/core/flush",
            "the same, flushed after each",
            50_000,
            |bench| publish(bench, With::Flush),
        )
        .against("nats/core/publish"),
    ]
}
