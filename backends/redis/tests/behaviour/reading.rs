//! How a member of a group reads, what it looks for, and what it forgets.

use std::num::NonZeroU16;

use catga_core::{QoS, Transport};
use catga_testkit::proxy::Proxy;
use catga_testkit::server::{RedisServer, Server};
use redis::Value;
use tokio::time::Instant;

use crate::{
    NAME, SECOND, SOON, Space, ack, in_group, message, next, nothing, number, publish, raw, text,
    until,
};

const QOS: QoS = QoS::AtLeastOnce;

fn stream(space: &Space, partition: u16) -> String {
    let stream = format!("{{{}:{NAME}}}", space.namespace);
    match partition {
        0 => stream,
        partition => format!("{stream}:p:{partition}"),
    }
}

async fn publish_to(bus: &dyn Transport, partition: u16, text: &str) {
    let mut envelope = message(QOS, text).with_partition(Some(partition));
    bus.publish(&mut envelope, SOON).await.unwrap();
}

/// The consumers of a group.
async fn consumers(url: &str, stream: &str) -> Vec<String> {
    let Value::Array(found) = raw(url, &["XINFO", "CONSUMERS", stream, "g"]).await else {
        panic!("no list");
    };
    let name = |consumer: &Value| match consumer {
        Value::Array(fields) => match &fields[1] {
            Value::BulkString(name) => String::from_utf8(name.clone()).unwrap(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    found.iter().map(name).collect()
}

#[tokio::test]
async fn a_place_is_not_kept_waiting_by_streams_that_have_nothing() {
    const PARTITIONS: u16 = 8;
    let space = Space::new();
    let bus = space.transport().await;
    for partition in 0..PARTITIONS {
        publish_to(&*bus, partition, "first").await;
    }
    let one = in_group(QOS, "g").with_max_in_flight(1);
    let mut subscription = bus.subscribe(&one).await.unwrap();
    for _ in 0..PARTITIONS {
        ack(next(&mut *subscription).await).await;
    }
    nothing(&mut *subscription).await;
    let began = Instant::now();
    for turn in 0..3 * PARTITIONS {
        let number = turn.to_string();
        publish_to(&*bus, turn * 3 % PARTITIONS, &number).await;
        let delivery = next(&mut *subscription).await;
        assert_eq!(text(&delivery), number);
        ack(delivery).await;
    }
    // A read that waits for the wrong streams does so for half a second.
    let took = began.elapsed();
    assert!(took < SECOND * 4, "{took:?}");
}

#[tokio::test]
async fn what_did_not_arrive_is_told_from_what_was_taken_from_others() {
    let server = RedisServer::start().unwrap();
    let proxy = Proxy::start(server.address(), 7).await.unwrap();
    let living = Space::at(&server.url());
    let cut = Space {
        url: format!("redis://{}", proxy.address()),
        namespace: living.namespace.clone(),
    };
    let (here, there) = (living.transport().await, cut.transport().await);
    let mut subscription = there.subscribe(&in_group(QOS, "g")).await.unwrap();
    publish(&*here, QOS, "first").await;
    ack(next(&mut *subscription).await).await;
    let (url, stream) = (living.url.as_str(), stream(&living, 0));
    let own = consumers(url, &stream).await.remove(0);
    until("nobody receives, and so nobody reads", || async {
        server
            .ask("INFO clients")
            .unwrap()
            .contains("blocked_clients:0")
    })
    .await;
    for text in ["lost", "others", "counted"] {
        publish(&*here, QOS, text).await;
    }
    // As if a reply got lost on its way, once before and once behind what another member had and died with.
    for consumer in [own.as_str(), "c00-100", own.as_str()] {
        let read = [
            "XREADGROUP",
            "GROUP",
            "g",
            consumer,
            "COUNT",
            "1",
            "STREAMS",
            &stream,
            ">",
        ];
        raw(url, &read).await;
    }
    let Value::Array(pending) = raw(url, &["XPENDING", &stream, "g", "-", "+", "9", &own]).await
    else {
        panic!("nothing is pending");
    };
    let Some(Value::Array(last)) = pending.last() else {
        panic!("{pending:?}");
    };
    let Value::BulkString(id) = &last[0] else {
        panic!("{last:?}");
    };
    let id = std::str::from_utf8(id).unwrap();
    // It was delivered before, and put off.
    let counted = [
        "XCLAIM",
        &stream,
        "g",
        &own,
        "0",
        id,
        "RETRYCOUNT",
        "3",
        "JUSTID",
    ];
    raw(url, &counted).await;
    let taken = next(&mut *subscription).await;
    assert_eq!((text(&taken).as_str(), taken.count()), ("others", 2));
    let began = Instant::now();
    proxy.reset();
    let first = next(&mut *subscription).await;
    let second = next(&mut *subscription).await;
    assert_eq!((text(&first).as_str(), first.count()), ("lost", 1));
    assert_eq!((text(&second).as_str(), second.count()), ("counted", 3));
    assert!(
        began.elapsed() < SECOND * 10,
        "well before their leases of 30 s end"
    );
    nothing(&mut *subscription).await;
    for delivery in [taken, first, second] {
        ack(delivery).await;
    }
    until("nothing is pending", || async {
        number(url, &["XPENDING", &stream, "g", "-", "+", "9"]).await == 0
    })
    .await;
}

#[tokio::test]
async fn an_ordered_group_counts_what_is_behind_and_forgets_who_is_gone() {
    let space = Space::new();
    let bus = space.transport().await;
    let ordered = in_group(QOS, "g")
        .with_ordered(NonZeroU16::new(2))
        .with_ack_wait(SECOND);
    let mut subscription = bus.subscribe(&ordered).await.unwrap();
    let stream = stream(&space, 1);
    let gone = ["XGROUP", "CREATECONSUMER", &stream, "g", "c00-100"];
    raw(&space.url, &gone).await;
    for number in 0..10 {
        publish_to(&*bus, 1, &number.to_string()).await;
    }
    let first = next(&mut *subscription).await;
    let stats = subscription.stats_reader();
    let behind = || std::future::ready(stats.read().waiting == Some(9));
    until("nine are behind the one that is out", behind).await;
    ack(first).await;
    for _ in 1..10 {
        ack(next(&mut *subscription).await).await;
    }
    let none = || std::future::ready(stats.read().waiting == Some(0));
    until("none is", none).await;
    // A name is kept for half a minute: its node may have been cut off.
    let by = Instant::now() + SOON * 3;
    while consumers(&space.url, &stream)
        .await
        .contains(&"c00-100".to_owned())
    {
        assert!(Instant::now() < by, "who owns nothing stays for ever");
        nothing(&mut *subscription).await;
    }
}
