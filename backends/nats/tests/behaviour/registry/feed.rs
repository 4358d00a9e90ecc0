//! A bucket that cannot be followed any more, and who is told.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{self, stream};
use catga_core::{ErrorKind, NodeEvent};
use futures_util::StreamExt;
use tokio::time::{Instant, sleep, timeout};

use super::{BEAT, Following, Means, TIMEOUT, beating, ids, node, seat_with, told};
use crate::{SECOND, SOON, Space, until};

async fn raw(space: &Space) -> jetstream::Context {
    jetstream::new(async_nats::connect(&space.url).await.unwrap())
}

#[tokio::test]
async fn who_asks_often_does_not_hide_that_nothing_is_heard() {
    let space = Space::new();
    let here = seat_with(&space, Means::Kv, "&call_timeout=1s", TIMEOUT).await;
    let mut watch = Following::of(&*here).await;
    let jetstream = raw(&space).await;
    let bucket = format!("KV_{}_nodes", space.namespace);
    let stream = jetstream.get_stream(bucket).await.unwrap();
    let consumer = stream.consumer_names().next().await.unwrap().unwrap();
    let there = seat_with(&space, Means::Kv, "", TIMEOUT).await;
    let _a = beating(&there, &node("a"), BEAT).await;
    watch.until(&["a"]).await;
    let asking = tokio::spawn({
        let registry = Arc::clone(&here.registry);
        async move {
            loop {
                let _ = timeout(BEAT, registry.nodes()).await;
                sleep(Duration::from_millis(20)).await;
            }
        }
    });
    stream.delete_consumer(&consumer).await.unwrap();
    watch.for_long(TIMEOUT * 3).await;
    assert_eq!(watch.log, ["+a"]);
    assert_eq!(ids(&*here).await, ["a"]);
    let b = node("b");
    there.register(&b).await.unwrap();
    watch.until(&["a", "b"]).await;
    asking.abort();
}

#[tokio::test]
async fn a_bucket_that_cannot_be_followed_ends_its_watches_and_says_why() {
    let space = Space::new();
    let here = seat_with(&space, Means::Kv, "&pull_heartbeat=200ms", TIMEOUT).await;
    here.register(&node("a")).await.unwrap();
    let mut watch = here.watch().await.unwrap();
    assert_eq!(told(&mut *watch).await, "+a");
    // Somebody makes something else of it.
    let jetstream = raw(&space).await;
    let bucket = format!("KV_{}_nodes", space.namespace);
    jetstream.delete_stream(&bucket).await.unwrap();
    let other = stream::Config {
        name: bucket.clone(),
        subjects: vec![format!("other.{}", space.namespace)],
        ..stream::Config::default()
    };
    jetstream.create_stream(other).await.unwrap();
    let ended = async {
        while let Some(event) = watch.next().await {
            assert!(!matches!(event, NodeEvent::Joined(_)), "{event:?}");
        }
    };
    timeout(SOON, ended).await.expect("the watch ends");
    // Where the registry itself is asked first, and where only what is heard is waited for.
    let began = Instant::now();
    let watched = here.watch().await.unwrap_err();
    let registered = here.register(&node("b")).await.unwrap_err();
    for error in [&watched, &registered] {
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.message().contains(&bucket), "{error}");
    }
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    jetstream.delete_stream(&bucket).await.unwrap();
    let c = node("c");
    until("it is watched again", async || {
        let back = here.register(&c).await.is_ok() && here.watch().await.is_ok();
        back && ids(&*here).await == ["c"]
    })
    .await;
}
