//! At most once over pub/sub: from publish to a subscriber on another connection.

use futures_util::{StreamExt, stream};
use redis::{Client, cmd, pipe};

use super::connect;
use crate::bench::{Bench, Measured, two_cores};
use crate::case::{Case, Needs, Terms};
use crate::cases::work::{RAW_PAYLOAD, number, payload};

/// So many are on their way at most: the server cuts off a subscriber that lags by megabytes.
const WINDOW: u64 = 8192;

/// How commands go out.
#[derive(Clone, Copy)]
enum Out {
    Multiplexed(usize),
    Pipelines(u64),
}

fn publish(bench: Bench, out: Out, size: usize) -> Measured {
    two_cores(async move {
        let client = Client::open(bench.url.as_str()).expect("a URL of ours");
        let mut inbox = client.get_async_pubsub().await.expect("the server runs");
        inbox.subscribe("orders").await.expect("subscribed");
        let tally = bench.tally(1);
        let counter = tally.clone();
        tokio::spawn(async move {
            let mut messages = inbox.into_on_message();
            while let Some(message) = messages.next().await {
                counter.one(number(message.get_payload_bytes()));
            }
        });
        let connection = connect(&bench.url).await;
        let clock = bench.begin();
        for start in (0..bench.operations).step_by(WINDOW as usize) {
            let window = start..(start + WINDOW).min(bench.operations);
            let end = window.end;
            match out {
                Out::Multiplexed(at_once) => {
                    let each = stream::iter(window).map(|i| {
                        let (mut connection, tally) = (connection.clone(), &tally);
                        async move {
                            tally.sent(i);
                            let mut command = cmd("PUBLISH");
                            command.arg("orders").arg(&payload(i, size)[..]);
                            let receivers = command.query_async(&mut connection).await;
                            assert_eq!(receivers, Ok(1), "one subscriber");
                        }
                    });
                    each.buffer_unordered(at_once).for_each(|()| async {}).await;
                }
                Out::Pipelines(length) => {
                    for first in window.step_by(length as usize) {
                        let mut pipeline = pipe();
                        for i in first..(first + length).min(end) {
                            tally.sent(i);
                            let command = pipeline.cmd("PUBLISH").arg("orders");
                            command.arg(&payload(i, size)[..]).ignore();
                        }
                        let mut connection = connection.clone();
                        let sent = pipeline.query_async::<()>(&mut connection).await;
                        sent.expect("connected");
                    }
                }
            }
            tally.reach(end.saturating_sub(WINDOW)).await;
        }
        tally.reach_all().await;
        clock.end_with(&tally)
    })
}

pub fn cases() -> Vec<Case> {
    const QOS0: Terms = Terms::new("at most once", "nowhere", "none").payload(RAW_PAYLOAD);
    let case = |name, does, run| {
        Case::new(name, does, 200_000, run)
            .terms(QOS0)
            .needs(Needs::Redis)
            .with_latency()
    };
    vec![
        case(
            "redis/pubsub/256",
            "publish to a subscriber, one command each",
            |bench| publish(bench, Out::Multiplexed(256), 100),
        )
        .settings("256 in flight on one connection"),
        case("redis/pubsub/pipelines", "the same in pipelines", |bench| {
            publish(bench, Out::Pipelines(100), 100)
        })
        .settings("pipelines of 100")
        .against("redis/pubsub/256"),
        case(
            "redis/pubsub/pipelines-512",
            "the same with 512 bytes",
            |bench| publish(bench, Out::Pipelines(100), 512),
        )
        .terms(QOS0.payload("512 B, a number first"))
        .settings("pipelines of 100")
        .against("redis/pubsub/pipelines"),
    ]
}
