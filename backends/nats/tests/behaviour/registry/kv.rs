//! What the bucket is, and what others do to it.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::stream::{DiscardPolicy, StorageType};
use catga_core::{ErrorKind, NodeInfo};
use catga_testkit::server::{NatsOptions, NatsServer};
use tokio::time::Instant;

use super::{
    BEAT, Following, Means, TIMEOUT, beating, ids, kind, node, nothing, seat, seat_with, told,
};
use crate::{SECOND, SOON, Space, until};

async fn raw(space: &Space) -> jetstream::Context {
    jetstream::new(async_nats::connect(&space.url).await.unwrap())
}

fn bucket(space: &Space) -> String {
    format!("KV_{}_nodes", space.namespace)
}

async fn put(space: &Space, jetstream: &jetstream::Context, key: &str, value: impl Into<Vec<u8>>) {
    let subject = format!("$KV.{}_nodes.{key}", space.namespace);
    let sent = jetstream.publish(subject, value.into().into()).await;
    sent.unwrap().await.unwrap();
}

#[tokio::test]
async fn the_bucket_is_what_other_clients_know_as_one() {
    let space = Space::new();
    let here = seat(&space, Means::Kv).await;
    let a = node("a");
    here.register(&a).await.unwrap();
    let jetstream = raw(&space).await;
    let stream = jetstream.get_stream(bucket(&space)).await.unwrap();
    let config = &stream.cached_info().config;
    assert_eq!(
        (
            config.max_messages_per_subject,
            config.max_bytes,
            config.max_age
        ),
        (10, 10 * 1024 * 1024, SOON * 20)
    );
    assert_eq!(
        (config.storage, config.discard),
        (StorageType::File, DiscardPolicy::New)
    );
    let subject = format!("$KV.{}_nodes.a", space.namespace);
    let last = async || {
        let last = stream.get_last_raw_message_by_subject(&subject).await;
        last.unwrap()
    };
    let info: NodeInfo = serde_json::from_slice(&last().await.payload).unwrap();
    assert_eq!((info.id, info.incarnation), (a.id.clone(), a.incarnation));
    for _ in 0..20 {
        here.heartbeat(&a).await.unwrap();
    }
    here.unregister(&a).await.unwrap();
    let operation = last().await.headers.get("KV-Operation").cloned();
    assert_eq!(
        operation.map(|value| value.to_string()).as_deref(),
        Some("DEL")
    );
    // Somebody deletes a node by hand: it is out, and registers again.
    here.register(&a).await.unwrap();
    let mut watch = here.watch().await.unwrap();
    assert_eq!(told(&mut *watch).await, "+a");
    let mut deleted = async_nats::HeaderMap::new();
    deleted.insert("KV-Operation", "PURGE");
    deleted.insert("Nats-Rollup", "sub");
    let sent = jetstream.publish_with_headers(subject.clone(), deleted, "".into());
    sent.await.unwrap().await.unwrap();
    assert_eq!(told(&mut *watch).await, "-a");
    assert_eq!(kind(here.heartbeat(&a).await), ErrorKind::NotFound);
    here.register(&a).await.unwrap();
    assert_eq!(told(&mut *watch).await, "+a");
}

#[tokio::test]
async fn rubbish_is_counted_and_nobody_is_affected() {
    let space = Space::new();
    let here = seat_with(&space, Means::Kv, "", TIMEOUT).await;
    let _a = beating(&here, &node("a"), BEAT).await;
    let mut watch = Following::of(&*here).await;
    watch.until(&["a"]).await;
    let jetstream = raw(&space).await;
    let good = serde_json::to_string(&node("b")).unwrap();
    let mut huge = node("huge");
    huge.metadata.insert("m".to_owned(), "x".repeat(17 * 1024));
    let rubbish: [(&str, String); 9] = [
        ("foreign", r#"{"host":"a","port":1}"#.to_owned()),
        ("nojson", "\u{0}\u{1}".to_owned()),
        ("empty", String::new()),
        ("other", good.clone()),
        ("b.c", good.replace("\"id\":\"b\"", "\"id\":\"b.c\"")),
        ("star", good.replace("\"id\":\"b\"", "\"id\":\"*\"")),
        (
            "tail",
            good.replace("\"id\":\"b\"", "\"id\":\"tail\"") + "x",
        ),
        ("deep", "[".repeat(9_000)),
        ("huge", serde_json::to_string(&huge).unwrap()),
    ];
    for (key, value) in &rubbish {
        put(&space, &jetstream, key, value.as_str()).await;
    }
    until("all are counted", async || {
        here.ignored() == rubbish.len() as u64
    })
    .await;
    // One who begins later, too; each once, however often it is read.
    let late = seat_with(&space, Means::Kv, "", TIMEOUT).await;
    assert_eq!(ids(&*late).await, ["a"]);
    assert_eq!(late.ignored(), rubbish.len() as u64);
    // An endpoint is a text, whatever it says.
    let odd = node("odd").with_endpoint(Some("javascript:\u{7}//%00 ".to_owned()));
    late.register(&odd).await.unwrap();
    watch.until(&["a", "odd"]).await;
    // Rubbish under a name is nobody: who has the name takes it.
    put(&space, &jetstream, "odd", "{}").await;
    assert_eq!(kind(late.heartbeat(&odd).await), ErrorKind::NotFound);
    late.register(&odd).await.unwrap();
    late.heartbeat(&odd).await.unwrap();
    watch.for_long(TIMEOUT / 2).await;
    assert_eq!(watch.log, ["+a", "+odd"]);
}

#[tokio::test]
async fn a_bucket_that_is_deleted_is_made_again_and_nobody_is_lost() {
    let space = Space::new();
    let here = seat_with(&space, Means::Kv, "&pull_heartbeat=300ms", TIMEOUT).await;
    let there = seat_with(&space, Means::Kv, "&pull_heartbeat=300ms", TIMEOUT).await;
    let _a = beating(&here, &node("a"), BEAT).await;
    let _b = beating(&there, &node("b"), BEAT).await;
    let mut watch = Following::of(&*here).await;
    watch.until(&["a", "b"]).await;
    let jetstream = raw(&space).await;
    for round in 0..3 {
        jetstream.delete_stream(bucket(&space)).await.unwrap();
        // Who asks meanwhile is answered.
        assert_eq!(ids(&*there).await, ["a", "b"], "in round {round}");
        watch.for_long(TIMEOUT * 2).await;
        assert_eq!(watch.there.len(), 2, "{:?}", watch.log);
    }
    assert_eq!(watch.log, ["+a", "+b"]);
    let stream = jetstream.get_stream(bucket(&space)).await.unwrap();
    assert!(stream.cached_info().state.messages >= 2);
    let late = node("late");
    there.register(&late).await.unwrap();
    watch.until(&["a", "b", "late"]).await;
}

#[tokio::test]
async fn a_consumer_that_is_deleted_is_made_again() {
    let space = Space::new();
    let here = seat_with(&space, Means::Kv, "&pull_heartbeat=200ms", SOON).await;
    let mut watch = here.watch().await.unwrap();
    let jetstream = raw(&space).await;
    let stream = jetstream.get_stream(bucket(&space)).await.unwrap();
    let mut names = stream.consumer_names();
    let name = futures_util::StreamExt::next(&mut names)
        .await
        .unwrap()
        .unwrap();
    stream.delete_consumer(&name).await.unwrap();
    let began = Instant::now();
    here.register(&node("a")).await.unwrap();
    assert_eq!(told(&mut *watch).await, "+a");
    // Two missed signs of life, and the time to read anew.
    assert!(began.elapsed() < SOON / 2, "{:?}", began.elapsed());
    nothing(&mut *watch, SECOND / 2).await;
}

#[tokio::test]
async fn a_full_bucket_says_so_and_what_it_has_goes_on() {
    let space = Space::new();
    let here = seat(&space, Means::Kv).await;
    let a = node("a");
    here.register(&a).await.unwrap();
    let jetstream = raw(&space).await;
    let filler = "x".repeat(1024 * 1000);
    for key in 0..10 {
        put(
            &space,
            &jetstream,
            &format!("filler-{key}"),
            filler.as_str(),
        )
        .await;
    }
    let mut full = 0;
    for id in 0..40 {
        let mut large = node(format!("n{id}"));
        large.metadata.insert("m".to_owned(), "x".repeat(15 * 1024));
        if let Err(error) = here.register(&large).await {
            assert_eq!(error.kind(), ErrorKind::LimitReached, "{error:?}");
            full += 1;
        }
    }
    assert!(full > 0, "nothing was too much");
    assert_eq!(here.ignored(), 10);
    assert!(ids(&*here).await.contains(&"a".to_owned()));
}

#[tokio::test]
async fn without_jetstream_the_other_means_is_named_and_works() {
    let server = NatsServer::with(&NatsOptions::default().without_jetstream()).unwrap();
    let space = Space::at(&server.url());
    let began = Instant::now();
    let by_kv = seat_with(&space, Means::Kv, "&call_timeout=1s", SOON).await;
    let refused = by_kv.register(&node("a")).await.unwrap_err();
    assert!(refused.message().contains("JetStream"), "{refused}");
    assert!(refused.message().contains("discovery=pubsub"), "{refused}");
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    let by_pubsub = seat(&space, Means::PubSub).await;
    by_pubsub.register(&node("a")).await.unwrap();
    assert_eq!(ids(&*by_pubsub).await, ["a"]);
}

#[tokio::test]
async fn an_unmanaged_bucket_is_used_and_not_made() {
    let space = Space::new();
    let unmanaged = seat_with(&space, Means::Kv, "&manage=false&call_timeout=500ms", SOON).await;
    let refused = unmanaged.register(&node("a")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound, "{refused:?}");
    assert!(refused.message().contains("manage=false"), "{refused}");
    let maker = seat(&space, Means::Kv).await;
    assert!(ids(&*maker).await.is_empty());
    until("it is found", async || {
        unmanaged.register(&node("a")).await.is_ok()
    })
    .await;
    assert_eq!(ids(&*maker).await, ["a"]);
}
