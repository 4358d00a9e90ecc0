use catga_core::{
    Bytes, Descriptor, Envelope, ErrorKind, Headers, IsEvent, Json, Message, MessageId, QoS,
    Subscription,
};
use catga_testkit::server::{NatsOptions, NatsServer};
use futures_util::StreamExt;

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

/// The wire as others see it: neither the type's name nor its being raw is said by a header.
#[tokio::test]
async fn an_event_with_nothing_to_say_has_no_header() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Frame(Bytes);

    impl Message for Frame {
        type Role = IsEvent;
        type Response = ();
        const DESCRIPTOR: Descriptor = Descriptor::event("orders.created");

        fn as_raw(&self) -> Option<&Bytes> {
            Some(&self.0)
        }
    }

    let space = Space::new();
    let bus = space.transport().await;
    let tap = async_nats::connect(&space.url).await.unwrap();
    let subject = format!("{}.>", space.namespace);
    let mut wire = tap.subscribe(subject).await.unwrap();
    tap.flush().await.unwrap();
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let raw = Bytes::from_static(&[0, 0xff, b'\r', b'\n']);
    let mut frame = Envelope::new(Frame(raw.clone()));
    frame.encode(&Json).unwrap();
    bus.publish(&mut frame, SOON).await.unwrap();
    let seen = tokio::time::timeout(SOON, StreamExt::next(&mut wire));
    let seen = seen.await.unwrap().expect("the tap is open");
    assert_eq!((seen.payload, seen.headers), (raw.clone(), None));
    let got = next(&mut *subscription).await;
    assert_eq!(got.envelope().payload().as_bytes(), Some(&raw));
    assert_eq!(got.envelope().content_type(), None);
}

#[tokio::test]
async fn only_what_comes_later_is_heard_and_other_names_are_not() {
    let space = Space::new();
    let bus = space.transport().await;
    publish(&*bus, QOS, "before").await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let other = catga_core::Name::from_static("orders");
    let mut foreign = Envelope::received(other, QOS, Bytes::new());
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
    let server = NatsServer::with(&NatsOptions::default().config("max_payload: 4096")).unwrap();
    let space = Space::at(&server.url());
    let bus = space.transport().await;
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

#[tokio::test]
async fn what_the_user_may_not_use_is_said() {
    let options = NatsOptions::default().config(
        "authorization { users: [ { user: app, password: app, permissions: { publish: [\"_INBOX.>\"], subscribe: [\"_INBOX.>\"] } } ] }",
    );
    let server = NatsServer::with(&options).unwrap();
    let address = catga_testkit::server::Server::address(&server);
    let bus = Space::at(&format!("nats://app:app@{address}"))
        .transport()
        .await;
    let error = bus.subscribe(&in_group(QOS, "g")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
}
