//! What nodes say where nobody keeps it, and what others say there.

use std::time::Duration;

use catga_core::{ErrorKind, NodeInfo};
use futures_util::StreamExt;
use serde_json::json;
use tokio::time::sleep;

use super::{BEAT, Following, Means, TIMEOUT, beating, ids, kind, node, seat, seat_with};
use crate::{SECOND, SOON, Space, until};

const PUBSUB: Means = Means::PubSub;

async fn raw(space: &Space) -> async_nats::Client {
    async_nats::connect(&space.url).await.unwrap()
}

fn word(is: &str, node: &NodeInfo) -> serde_json::Value {
    json!({ "is": is, "node": node })
}

/// That a node lives, which joined so long ago.
fn lives(node: &NodeInfo, up: Duration) -> String {
    let up_ms = u64::try_from(up.as_millis()).unwrap();
    json!({ "is": "lives", "node": node, "up_ms": up_ms }).to_string()
}

async fn say(space: &Space, client: &async_nats::Client, at: &str, what: impl Into<Vec<u8>>) {
    let subject = format!("{}.nodes.{at}", space.namespace);
    client.publish(subject, what.into().into()).await.unwrap();
    client.flush().await.unwrap();
}

#[tokio::test]
async fn anybody_can_ask_and_listen() {
    let space = Space::new();
    let here = seat(&space, PUBSUB).await;
    let a = node("a").with_endpoint(Some("http://a".to_owned()));
    here.register(&a).await.unwrap();
    let client = raw(&space).await;
    let ask = format!("{}.nodes.~", space.namespace);
    let answer = client
        .request(ask, r#"{"is":"asks"}"#.into())
        .await
        .unwrap();
    let said: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(
        (&said["is"], &said["node"]["endpoint"]),
        (&json!("lives"), &json!("http://a"))
    );
    // A client of somebody else is a node like others.
    let foreign = node("foreign");
    say(
        &space,
        &client,
        "foreign",
        word("joined", &foreign).to_string(),
    )
    .await;
    until("it is there", async || {
        ids(&*here).await == ["a", "foreign"]
    })
    .await;
    say(
        &space,
        &client,
        "foreign",
        word("left", &node("foreign")).to_string(),
    )
    .await;
    say(&space, &client, "a", r#"{"is":"sings"}"#).await;
    say(
        &space,
        &client,
        "foreign",
        word("left", &foreign).to_string(),
    )
    .await;
    until("it is gone", async || ids(&*here).await == ["a"]).await;
    assert_eq!(here.ignored(), 0);
}

#[tokio::test]
async fn rubbish_is_counted_and_nobody_is_affected() {
    let space = Space::new();
    let here = seat_with(&space, PUBSUB, "", TIMEOUT).await;
    let _a = beating(&here, &node("a"), BEAT).await;
    let mut watch = Following::of(&*here).await;
    watch.until(&["a"]).await;
    let client = raw(&space).await;
    let mut huge = node("huge");
    huge.metadata.insert("m".to_owned(), "x".repeat(17 * 1024));
    let star = word("lives", &node("b")).to_string();
    let rubbish: [(&str, String); 9] = [
        ("a", r#"{"host":"a","port":1}"#.to_owned()),
        ("b", "\u{0}".to_owned()),
        ("c", String::new()),
        ("d", word("lives", &node("b")).to_string()),
        ("e", r#"{"is":"lives"}"#.to_owned()),
        ("star", star.replace("\"id\":\"b\"", "\"id\":\"*\"")),
        ("deep", "[".repeat(9_000)),
        ("huge", word("joined", &huge).to_string()),
        ("~", word("lives", &node("b")).to_string()),
    ];
    for (at, what) in &rubbish {
        say(&space, &client, at, what.as_str()).await;
    }
    until("all are counted", async || {
        here.ignored() == rubbish.len() as u64
    })
    .await;
    watch.for_long(SECOND / 2).await;
    assert_eq!(watch.log, ["+a"]);
    assert_eq!(ids(&*here).await, ["a"]);
}

#[tokio::test]
async fn of_two_that_did_not_hear_of_each_other_the_later_stays() {
    let space = Space::new();
    let observer = seat(&space, PUBSUB).await;
    let client = raw(&space).await;
    // The clocks of their hosts say the opposite: the incarnation of the later is the lower one.
    let newer = node("a");
    let a = node("a");
    let older = node("a");
    let here = seat(&space, PUBSUB).await;
    here.register(&a).await.unwrap();
    let mut watch = Following::of(&*observer).await;
    watch.until(&["a"]).await;
    // One that was cut off beats on: it is told, and nobody else listens to it.
    let mut told = client
        .subscribe(format!("{}.nodes.a", space.namespace))
        .await
        .unwrap();
    say(&space, &client, "a", lives(&older, SOON)).await;
    for expected in [&older, &a] {
        let word = tokio::time::timeout(SOON, told.next()).await.unwrap();
        let said: serde_json::Value = serde_json::from_slice(&word.unwrap().payload).unwrap();
        assert_eq!(said["node"]["incarnation"], json!(expected.incarnation));
    }
    here.heartbeat(&a).await.unwrap();
    assert_eq!(watch.log, ["+a"]);
    // One that joined later has the id.
    sleep(SECOND / 2).await;
    say(&space, &client, "a", lives(&newer, Duration::ZERO)).await;
    until("it is lost", async || {
        here.heartbeat(&a)
            .await
            .is_err_and(|error| error.kind() == ErrorKind::LostOwnership)
    })
    .await;
    watch.until(&[]).await;
    watch.until(&["a"]).await;
    assert_eq!(watch.there["a"], newer.incarnation);
    assert_eq!(watch.log, ["+a", "-a", "+a"]);
}

#[tokio::test]
async fn a_word_that_comes_after_a_node_left_brings_it_not_back() {
    let space = Space::new();
    let here = seat(&space, PUBSUB).await;
    let client = raw(&space).await;
    let mut watch = Following::of(&*here).await;
    let a = node("a");
    for is in ["joined", "left", "lives"] {
        say(&space, &client, "a", word(is, &a).to_string()).await;
    }
    let b = node("b");
    say(&space, &client, "b", word("lives", &b).to_string()).await;
    watch.until(&["b"]).await;
    assert_eq!(watch.log, ["+a", "-a", "+b"]);
    // It may come back all the same.
    say(&space, &client, "a", word("joined", &a).to_string()).await;
    say(&space, &client, "a", word("lives", &a).to_string()).await;
    watch.until(&["a", "b"]).await;
    assert_eq!(watch.log, ["+a", "-a", "+b", "+a"]);
}

#[tokio::test]
async fn a_word_that_joins_counts_whatever_its_age() {
    let space = Space::new();
    let here = seat(&space, PUBSUB).await;
    let client = raw(&space).await;
    // Its clock is behind: its incarnation is the lower one.
    let successor = node("a");
    let a = node("a");
    here.register(&a).await.unwrap();
    say(&space, &client, "a", word("joined", &successor).to_string()).await;
    until("it is lost", async || {
        here.heartbeat(&a)
            .await
            .is_err_and(|error| error.kind() == ErrorKind::LostOwnership)
    })
    .await;
    assert_eq!(kind(here.unregister(&a).await), ErrorKind::LostOwnership);
}

#[tokio::test]
async fn who_does_not_answer_has_lost_its_id_soon() {
    let space = Space::new();
    let client = raw(&space).await;
    let here = seat_with(&space, PUBSUB, "", Duration::from_secs(30)).await;
    assert!(ids(&*here).await.is_empty());
    // It crashed a moment ago: nobody answers for it.
    say(&space, &client, "a", word("joined", &node("a")).to_string()).await;
    until("it is known", async || ids(&*here).await == ["a"]).await;
    let began = tokio::time::Instant::now();
    let a = node("a");
    here.register(&a).await.unwrap();
    assert!(began.elapsed() < SECOND * 8, "{:?}", began.elapsed());
    assert_eq!(here.nodes().await.unwrap()[0].incarnation, a.incarnation);
}
