use catga_core::{ErrorKind, Headers, MessageId, QoS, Subscription};

use crate::{SECOND, SOON, Space, in_group, message, next, nothing, on_node, publish, text, until};

const QOS: QoS = QoS::AtMostOnce;

#[tokio::test]
async fn each_group_and_each_node_gets_every_event_once() {
    let space = Space::new();
    let (here, there) = (space.transport().await, space.transport().await);
    let mut one = here.subscribe(&in_group(QOS, "g")).await.unwrap();
    let mut two = there.subscribe(&in_group(QOS, "g")).await.unwrap();
    let mut other = there.subscribe(&in_group(QOS, "h")).await.unwrap();
    let mut each = here.subscribe(&on_node(QOS, "n1")).await.unwrap();
    for i in 0..20 {
        publish(&*here, QOS, &i.to_string()).await;
    }
    for i in 0..20 {
        assert_eq!(text(&next(&mut *other).await), i.to_string());
        assert_eq!(text(&next(&mut *each).await), i.to_string());
    }
    let mut shared = Vec::new();
    while shared.len() < 20 {
        for subscription in [&mut one, &mut two] {
            let mut into = Vec::new();
            let received = tokio::time::timeout(SECOND / 20, subscription.recv(64, &mut into));
            if received.await.is_ok() {
                shared.extend(into.iter().map(|d| text(d).parse::<u32>().unwrap()));
            }
        }
    }
    shared.sort_unstable();
    assert_eq!(shared, (0..20).collect::<Vec<_>>());
    nothing(&mut *other).await;
}

#[tokio::test]
async fn an_event_carries_what_was_given_and_nothing_else() {
    let space = Space::new();
    let bus = space.transport().await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let id = MessageId::new();
    let mut headers = Headers::new();
    headers.insert("tenant", "acme").unwrap();
    let mut full = message(QOS, "full")
        .with_id(id)
        .with_headers(headers.clone())
        .with_version(2);
    bus.publish(&mut full, SOON).await.unwrap();
    publish(&*bus, QOS, "").await;
    let got = next(&mut *subscription).await;
    assert_eq!(
        (got.envelope().id(), got.envelope().version()),
        (Some(id), 2)
    );
    assert_eq!(*got.envelope().headers(), headers);
    assert!(!got.is_acknowledged());
    let bare = next(&mut *subscription).await;
    assert_eq!((bare.envelope().id(), text(&bare).as_str()), (None, ""));
    assert!(bare.envelope().headers().is_empty());
}

#[tokio::test]
async fn only_what_comes_later_is_heard_and_other_names_are_not() {
    let space = Space::new();
    let bus = space.transport().await;
    publish(&*bus, QOS, "before").await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let other = catga_core::Name::from_static("orders");
    let mut foreign = catga_core::Envelope::received(other, QOS, catga_core::Bytes::new());
    bus.publish(&mut foreign, SOON).await.unwrap();
    Space::new()
        .transport()
        .await
        .publish(&mut message(QOS, "elsewhere"), SOON)
        .await
        .unwrap();
    publish(&*bus, QOS, "after").await;
    assert_eq!(text(&next(&mut *subscription).await), "after");
    nothing(&mut *subscription).await;
}

#[tokio::test]
async fn a_slow_subscriber_loses_the_oldest_and_counts_them() {
    let space = Space::new();
    let bus = space.try_connect("?ring=10").await.unwrap().transport;
    let mut slow = bus.subscribe(&in_group(QOS, "slow")).await.unwrap();
    let reader = slow.stats_reader();
    for i in 0..1000 {
        publish(&*bus, QOS, &i.to_string()).await;
    }
    until("990 are dropped", || async { reader.read().dropped == 990 }).await;
    let mut kept = Vec::new();
    slow.recv(100, &mut kept).await.unwrap();
    let kept: Vec<_> = kept.iter().map(text).collect();
    assert_eq!(kept, (990..1000).map(|i| i.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_subscription_that_is_closed_gets_nothing() {
    let space = Space::new();
    let bus = space.transport().await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    subscription.close().await.unwrap();
    publish(&*bus, QOS, "a").await;
    let error = subscription.recv(1, &mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn sizes_are_checked_before_the_server_does() {
    let space = Space::new();
    let small = space.try_connect("?max_payload=4096").await.unwrap();
    let bus = small.transport;
    let max = bus.capabilities().max_payload_bytes().unwrap();
    let mut subscription: Box<dyn Subscription> = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    for (size, fits) in [
        (max - 1, true),
        (max, true),
        (max + 1, false),
        (10 * max, false),
    ] {
        let published = bus
            .publish(&mut message(QOS, &"x".repeat(size)), SOON)
            .await;
        match published {
            Ok(_) => assert!(fits, "{size}"),
            Err(error) => {
                assert!(!fits, "{size}: {error:?}");
                assert_eq!(error.kind(), ErrorKind::PayloadTooLarge);
                assert!(!error.may_be_stored());
            }
        }
    }
    let mut headers = Headers::new();
    headers.insert("h", "v".repeat(200)).unwrap();
    let mut with_headers = message(QOS, &"x".repeat(max - 100)).with_headers(headers);
    let error = bus.publish(&mut with_headers, SOON).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PayloadTooLarge);
    for size in [max - 1, max] {
        assert_eq!(text(&next(&mut *subscription).await).len(), size);
    }
}
