//! Omniqueue: in memory and over Redis Streams.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use omniqueue::Delivery;
use omniqueue::backends::{InMemoryBackend, RedisBackend, RedisConfig};
use redis::cmd;

use crate::bench::{Bench, Measured, two_cores};
use crate::case::{Case, Needs, Terms};
use crate::cases::work::{Order, handle};
use crate::latency::Tally;

async fn settle(delivery: Delivery, tally: &Tally) {
    let order: Option<Order> = delivery.payload_serde_json().expect("an order");
    handle(&order.expect("it has a payload"), tally);
    assert!(delivery.ack().await.is_ok(), "acknowledged");
}

fn memory(bench: Bench) -> Measured {
    two_cores(async move {
        let pair = InMemoryBackend::builder().build_pair().await;
        let (producer, mut consumer) = pair.expect("it is made");
        let tally = bench.tally(1);
        let counter = tally.clone();
        tokio::spawn(async move {
            loop {
                let delivery = consumer.receive().await.expect("the producer lives");
                settle(delivery, &counter).await;
            }
        });
        let clock = bench.begin();
        for i in 0..bench.operations {
            tally.sent(i);
            let sent = producer.send_serde_json(&Order::new(i)).await;
            sent.expect("the consumer lives");
            tally.pace(i, 1024).await;
        }
        tally.reach_all().await;
        clock.end_with(&tally)
    })
}

/// Its defaults need names alone, and a group that is there.
async fn config(url: &str) -> RedisConfig {
    let client = redis::Client::open(url).expect("a URL of ours");
    let connection = client.get_multiplexed_async_connection().await;
    let mut command = cmd("XGROUP");
    command
        .arg("CREATE")
        .arg("orders")
        .arg("billing")
        .arg("0")
        .arg("MKSTREAM");
    let mut connection = connection.expect("the server runs");
    command
        .query_async::<()>(&mut connection)
        .await
        .expect("created");
    RedisConfig {
        dsn: url.to_owned(),
        max_connections: 8,
        reinsert_on_nack: false,
        queue_key: "orders".to_owned(),
        delayed_queue_key: "orders::delayed".to_owned(),
        delayed_lock_key: "orders::delayed_lock".to_owned(),
        consumer_group: "billing".to_owned(),
        consumer_name: "node".to_owned(),
        payload_key: "payload".to_owned(),
        ack_deadline_ms: 30_000,
        dlq_config: None,
        sentinel_config: None,
    }
}

/// One at a time, or up to so many at once.
fn redis(bench: Bench, at_once: usize) -> Measured {
    two_cores(async move {
        let config = config(&bench.url).await;
        let pair = RedisBackend::builder(config).build_pair().await;
        let (producer, mut consumer) = pair.expect("the server runs");
        let tally = bench.tally(1);
        let counter = tally.clone();
        tokio::spawn(async move {
            loop {
                if at_once == 1 {
                    let delivery = consumer.receive().await.expect("a delivery");
                    settle(delivery, &counter).await;
                } else {
                    let batch = consumer
                        .receive_all(at_once, Duration::from_millis(100))
                        .await;
                    for delivery in batch.expect("deliveries") {
                        settle(delivery, &counter).await;
                    }
                }
            }
        });
        let clock = bench.begin();
        let each = stream::iter(0..bench.operations).map(|i| {
            let (producer, tally) = (&producer, &tally);
            async move {
                tally.sent(i);
                let sent = producer.send_serde_json(&Order::new(i)).await;
                sent.expect("stored");
            }
        });
        each.buffer_unordered(64).for_each(|()| async {}).await;
        tally.reach_all().await;
        clock.end_with(&tally)
    })
}

pub fn cases() -> Vec<Case> {
    const REDIS: Terms = Terms::new("at least once", "the server's memory", "each, awaited");
    vec![
        Case::new(
            "peers/omniqueue/memory",
            "send to one receiver",
            500_000,
            memory,
        )
        .terms(
            Terms::new(
                "at most once; a nack sends it again",
                "in the process",
                "each",
            )
            .settings("as it comes; at most 2048 ahead of the receiver"),
        )
        .against("events/reference")
        .with_latency(),
        Case::new(
            "peers/omniqueue/redis",
            "send, receive and ack",
            5_000,
            |bench| redis(bench, 1),
        )
        .terms(REDIS.settings("as it comes: one at a time; 64 sends at once"))
        .needs(Needs::Redis)
        .against("redis/end-to-end/ours-json")
        .with_latency(),
        Case::new(
            "peers/omniqueue/redis-batch",
            "the same with `receive_all`",
            10_000,
            |bench| redis(bench, 100),
        )
        .terms(REDIS.settings("tuned: up to 100 at a time; 64 sends at once"))
        .needs(Needs::Redis)
        .against("redis/end-to-end/ours-json")
        .with_latency(),
    ]
}
