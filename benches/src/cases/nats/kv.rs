//! A bucket of JetStream's key-value store, one call after the other.

use async_nats::jetstream::{self, kv, stream};
use futures_util::StreamExt;

use super::connect;
use crate::bench::{Bench, Measured, two_cores};
use crate::case::{Case, Needs, Terms};
use crate::cases::work::{RAW_PAYLOAD, number, payload};

/// By hand: `create_key_value` asks for the account first, and does not understand the answer of a 2.9 server.
async fn bucket(url: &str) -> kv::Store {
    let context = jetstream::new(connect(url).await);
    let config = stream::Config {
        name: "KV_nodes".to_owned(),
        subjects: vec!["$KV.nodes.>".to_owned()],
        max_messages_per_subject: 1,
        allow_rollup: true,
        allow_direct: true,
        deny_delete: true,
        discard: stream::DiscardPolicy::New,
        ..Default::default()
    };
    context.create_stream(config).await.expect("created");
    context.get_key_value("nodes").await.expect("it is there")
}

fn key(i: u64) -> String {
    format!("node-{}", i % 100)
}

fn put(bench: Bench) -> Measured {
    two_cores(async move {
        let bucket = bucket(&bench.url).await;
        let tally = bench.tally(1);
        let clock = bench.begin();
        for i in 0..bench.operations {
            tally.sent(i);
            bucket.put(key(i), payload(i, 100)).await.expect("stored");
            tally.one(i);
        }
        clock.end_with(&tally)
    })
}

fn get(bench: Bench) -> Measured {
    two_cores(async move {
        let bucket = bucket(&bench.url).await;
        for i in 0..100 {
            bucket.put(key(i), payload(i, 100)).await.expect("stored");
        }
        let tally = bench.tally(1);
        let clock = bench.begin();
        for i in 0..bench.operations {
            tally.sent(i);
            let value = bucket.get(key(i)).await.expect("an answer");
            assert_eq!(number(&value.expect("it is there")), i % 100);
            tally.one(i);
        }
        clock.end_with(&tally)
    })
}

/// From a put to its event on another connection.
fn watch(bench: Bench) -> Measured {
    two_cores(async move {
        let bucket = bucket(&bench.url).await;
        let watcher = jetstream::new(connect(&bench.url).await);
        let watched = watcher.get_key_value("nodes").await.expect("it is there");
        let mut events = watched.watch_all().await.expect("watched");
        let tally = bench.tally(1);
        let clock = bench.begin();
        for i in 0..bench.operations {
            tally.sent(i);
            bucket.put(key(i), payload(i, 100)).await.expect("stored");
            let event = events.next().await.expect("connected").expect("an event");
            tally.one(number(&event.value));
        }
        clock.end_with(&tally)
    })
}

pub fn cases() -> Vec<Case> {
    const FILE: Terms = Terms::new("stored", "file, 1 replica", "each put").payload(RAW_PAYLOAD);
    let case = |name, does, run| {
        Case::new(name, does, 10_000, run)
            .terms(FILE)
            .needs(Needs::Nats)
            .with_latency()
    };
    vec![
        case("nats/kv/put", "put, one after the other", put),
        case("nats/kv/get", "get, one after the other", get),
        case("nats/kv/watch", "put, and its event elsewhere", watch),
    ]
}
