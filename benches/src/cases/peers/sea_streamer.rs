//! SeaStreamer over Redis Streams.

use sea_streamer_redis::{
    AutoCommit, AutoStreamReset, RedisConnectOptions, RedisConsumerOptions, RedisStreamer,
};
use sea_streamer_types::{
    Buffer, Consumer, ConsumerMode, ConsumerOptions, Message, Producer, StreamKey, Streamer,
};

use crate::bench::{Bench, Measured, two_cores};
use crate::case::{Case, Needs, Terms};
use crate::cases::work::{Order, handle};

/// Its producer drains a queue into pipelines; the consumer acknowledges as its documentation recommends for
/// at-least-once.
fn rolling(bench: Bench) -> Measured {
    two_cores(async move {
        let uri = bench.url.parse().expect("a URL of ours");
        let connected = RedisStreamer::connect(uri, RedisConnectOptions::default()).await;
        let streamer = connected.expect("the server runs");
        let key = StreamKey::new("orders").expect("a valid name");
        let mut options = RedisConsumerOptions::new(ConsumerMode::LoadBalanced);
        options.set_auto_stream_reset(AutoStreamReset::Earliest);
        options.set_auto_commit(AutoCommit::Rolling);
        options.set_mkstream(true);
        options.set_batch_size(100);
        let consumer = streamer
            .create_consumer(std::slice::from_ref(&key), options)
            .await;
        let consumer = consumer.expect("created");
        let producer = streamer.create_producer(key, Default::default()).await;
        let producer = producer.expect("created");
        let tally = bench.tally(1);
        let counter = tally.clone();
        tokio::spawn(async move {
            loop {
                let message = consumer.next().await.expect("connected");
                let order = serde_json::from_slice(message.message().as_bytes());
                let order: Order = order.expect("an order");
                handle(&order, &counter);
                consumer.ack(&message).expect("queued");
            }
        });
        let clock = bench.begin();
        for i in 0..bench.operations {
            tally.sent(i);
            let order = serde_json::to_string(&Order::new(i)).expect("it is JSON");
            let receipt = producer.send(order).expect("queued");
            // The last of a window tells that those before it are stored.
            if i % 256 == 255 || i == bench.operations - 1 {
                receipt.await.expect("stored");
            }
        }
        tally.reach_all().await;
        clock.end_with(&tally)
    })
}

pub fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "peers/sea-streamer/redis",
            "send until stored, receive and ack",
            100_000,
            rolling,
        )
        .terms(
            Terms::new(
                "at least once",
                "the server's memory",
                "each, committed as it reads on",
            )
            .settings("tuned: rolling commit, batches of 100; a receipt awaited for 256"),
        )
        .needs(Needs::Redis)
        .against("redis/end-to-end/ours-json")
        .with_latency(),
    ]
}
