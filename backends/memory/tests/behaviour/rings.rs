use std::collections::HashSet;

use catga_core::{Capability, Descriptor, Envelope, ErrorKind, IsEvent, Message, QoS};
use serde::{Deserialize, Serialize};

use crate::{SECOND, connect, in_group, message, next, nothing, on_node, publish, text, transport};

const QOS: QoS = QoS::AtMostOnce;

#[tokio::test(start_paused = true)]
async fn groups_share_and_nodes_each_get_all() {
    let bus = transport("memory://").await;
    let mut one = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let mut two = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let mut other = bus.subscribe(&in_group(QOS, "h")).await.unwrap();
    let mut node = bus.subscribe(&on_node(QOS, "n1")).await.unwrap();
    for i in 0..10 {
        publish(&*bus, QOS, &i.to_string()).await;
    }
    let mut seen = HashSet::new();
    for _ in 0..5 {
        assert!(seen.insert(text(&next(&mut *one).await)));
        assert!(seen.insert(text(&next(&mut *two).await)));
    }
    assert_eq!(seen.len(), 10);
    let mut all = Vec::new();
    other.recv(100, &mut all).await.unwrap();
    node.recv(100, &mut all).await.unwrap();
    assert_eq!(all.len(), 20);
    assert!(all.iter().all(|delivery| !delivery.is_acknowledged()));
    nothing(&mut *one).await;
}

#[tokio::test]
async fn a_publish_to_nobody_is_ok() {
    let bus = transport("memory://").await;
    publish(&*bus, QOS, "x").await;
}

#[tokio::test]
async fn a_full_ring_drops_the_oldest_and_counts() {
    let bus = transport("memory://?ring=4").await;
    let mut slow = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    for i in 0..10 {
        publish(&*bus, QOS, &i.to_string()).await;
    }
    assert_eq!((slow.stats().dropped, slow.stats().waiting), (6, Some(4)));
    assert_eq!(text(&next(&mut *slow).await), "6");
}

#[tokio::test(start_paused = true)]
async fn what_a_leaving_member_has_goes_to_another() {
    let bus = transport("memory://").await;
    let mut stays = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let leaves = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    for i in 0..10 {
        publish(&*bus, QOS, &i.to_string()).await;
    }
    drop(leaves);
    let mut seen = HashSet::new();
    for _ in 0..10 {
        seen.insert(text(&next(&mut *stays).await));
    }
    assert_eq!(seen.len(), 10);
    let mut closes = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    closes.close().await.unwrap();
    let error = closes.recv(1, &mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    publish(&*bus, QOS, "a").await;
    publish(&*bus, QOS, "b").await;
    assert_eq!(stays.stats().waiting, Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_loses_nothing_while_members_come_and_go() {
    const COUNT: usize = 20_000;
    let bus = transport("memory://?ring=100000").await;
    let mut steady = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let publisher = tokio::spawn({
        let bus = bus.clone();
        async move {
            for i in 0..COUNT {
                publish(&*bus, QOS, &i.to_string()).await;
            }
        }
    });
    while !publisher.is_finished() {
        let passing = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
        tokio::task::yield_now().await;
        drop(passing);
    }
    let mut seen = HashSet::new();
    while seen.len() < COUNT {
        assert!(seen.insert(text(&next(&mut *steady).await)));
    }
}

#[tokio::test]
async fn a_loop_of_publishes_lets_consumers_run() {
    let bus = transport("memory://").await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let consumer = tokio::spawn(async move {
        while text(&next(&mut *subscription).await) != "end" {}
        subscription.stats().dropped
    });
    for i in 0..10_000 {
        publish(&*bus, QOS, &i.to_string()).await;
    }
    publish(&*bus, QOS, "end").await;
    assert_eq!(consumer.await.unwrap(), 0);
}

#[derive(Serialize, Deserialize)]
struct Value(u32);

impl Message for Value {
    type Role = IsEvent;
    type Response = ();
    const DESCRIPTOR: Descriptor = Descriptor::event("orders.created").with_qos(QOS);
}

#[tokio::test]
async fn a_value_travels_unencoded() {
    let bus = transport("memory://").await;
    let mut subscription = bus.subscribe(&on_node(QOS, "n1")).await.unwrap();
    let mut envelope = Envelope::new(Value(7));
    bus.publish(&mut envelope, SECOND).await.unwrap();
    let delivery = next(&mut *subscription).await;
    assert!(delivery.envelope().payload().as_bytes().is_none());
    let value = delivery.envelope().payload().as_value::<Value>().unwrap();
    assert_eq!(value.0, 7);
}

#[tokio::test]
async fn what_the_backend_lacks_is_refused() {
    let backend = connect("memory://?max_payload=3").await;
    let bus = backend.transport;
    assert!(!bus.capabilities().has(Capability::FusedCompletion));
    assert_eq!(bus.capabilities().max_payload_bytes(), Some(3));
    let ordered = in_group(QOS, "g").with_ordered(std::num::NonZeroU16::new(4));
    let error = bus.subscribe(&ordered).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("memory"), "{error}");
    for qos in [QOS, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        publish(&*bus, qos, "abc").await;
        let large = bus.publish(&mut message(qos, "abcd"), SECOND).await;
        let error = large.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PayloadTooLarge);
        assert!(error.message().contains("4 bytes"), "{error}");
    }
}
