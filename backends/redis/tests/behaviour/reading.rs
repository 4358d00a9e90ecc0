//! How a member of a group reads, what it looks for, and what it forgets.

use std::num::NonZeroU16;
use std::time::Duration;

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
    // A read that waits for the wrong streams does so for half a second, and most are wrong.
    let took = began.elapsed();
    assert!(took < SECOND * 8, "{took:?}");
}

/// For how many milliseconds the only member of a group has not read.
async fn idle(url: &str, stream: &str) -> i64 {
    let members = raw(url, &["XINFO", "CONSUMERS", stream, "g"]).await;
    let Value::Array(members) = members else {
        panic!("{members:?}");
    };
    let [Value::Array(fields)] = &members[..] else {
        panic!("{members:?}");
    };
    let at = fields
        .iter()
        .position(|field| *field == Value::BulkString(b"idle".to_vec()));
    match fields[at.expect("it has one") + 1] {
        Value::Int(idle) => idle,
        ref other => panic!("{other:?}"),
    }
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
    // One look is not enough: it may be about to read once more.
    until("nobody receives, and so nobody reads", || async {
        let clients = server.ask("INFO clients").unwrap();
        clients.contains("blocked_clients:0") && idle(url, &stream).await >= 200
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

#[tokio::test]
async fn what_waited_for_half_its_lease_goes_back_and_comes_with_a_whole_one() {
    let space = Space::new();
    let bus = space.transport().await;
    let lease = SECOND * 4;
    let group = in_group(QOS, "g").with_ack_wait(lease);
    let mut subscription = bus.subscribe(&group).await.unwrap();
    let stream = stream(&space, 0);
    let pending = async || {
        let found = raw(&space.url, &["XPENDING", &stream, "g", "-", "+", "9"]).await;
        let Value::Array(found) = found else {
            panic!("{found:?}");
        };
        let silence = found.into_iter().map(|entry| match entry {
            // Id, consumer, silence, count.
            Value::Array(parts) => match parts[2] {
                Value::Int(silence) => Duration::from_millis(silence.unsigned_abs()),
                _ => panic!("{parts:?}"),
            },
            other => panic!("{other:?}"),
        });
        silence.collect::<Vec<_>>()
    };
    let mut batch = [message(QOS, "received"), message(QOS, "waits")];
    for outcome in bus.publish_many(&mut batch, SOON).await {
        outcome.unwrap();
    }
    let received = next(&mut *subscription).await;
    ack(received).await;
    until("one was fetched and not received", async || {
        pending().await.len() == 1
    })
    .await;
    // The whole process stands still, and with it who would give back what waits too long.
    std::thread::sleep(lease * 5 / 8);
    let waited = next(&mut *subscription).await;
    assert_eq!((text(&waited).as_str(), waited.count()), ("waits", 1));
    let silence = pending().await;
    assert!(
        silence.len() == 1 && silence[0] < lease / 2,
        "it was handed out when most of its lease was over: {silence:?}"
    );
    ack(waited).await;
    nothing(&mut *subscription).await;
}

#[tokio::test]
async fn what_a_dead_member_had_comes_as_fast_as_there_are_places() {
    const HAD: usize = 300;
    let space = Space::new();
    let bus = space.transport().await;
    let group = in_group(QOS, "g").with_max_in_flight(8);
    bus.subscribe(&group).await.unwrap().close().await.unwrap();
    let mut batch: Vec<_> = (0..HAD).map(|i| message(QOS, &i.to_string())).collect();
    for outcome in bus.publish_many(&mut batch, SOON).await {
        outcome.unwrap();
    }
    // As if a member died that may be silent for two seconds.
    let (stream, count) = (stream(&space, 0), HAD.to_string());
    let read = [
        "XREADGROUP",
        "GROUP",
        "g",
        "c00-2000",
        "COUNT",
        &count,
        "STREAMS",
        &stream,
        ">",
    ];
    raw(&space.url, &read).await;
    let mut lives = bus.subscribe(&group).await.unwrap();
    let first = next(&mut *lives).await;
    assert_eq!(first.count(), 2);
    ack(first).await;
    // With one look in half a second, and eight places, it took 19 s.
    let began = Instant::now();
    for _ in 1..HAD {
        ack(next(&mut *lives).await).await;
    }
    assert!(began.elapsed() < SECOND * 8, "{:?}", began.elapsed());
    nothing(&mut *lives).await;
}
