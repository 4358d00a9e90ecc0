use catga_core::{
    Bytes, Consumers, Envelope, ErrorKind, Headers, MessageId, Name, QoS, Retry, Settlement, Start,
    Subscribe,
};

use crate::{
    NAME, SECOND, SOON, Space, ack, in_group, message, next, nothing, number, on_node, publish,
    text, until,
};

const QOS: QoS = QoS::AtLeastOnce;

#[tokio::test]
async fn what_was_stored_is_handed_to_each_group_and_node() {
    let space = Space::new();
    let bus = space.transport().await;
    publish(&*bus, QOS, "before").await;
    let mut one = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let mut other = bus.subscribe(&in_group(QOS, "h")).await.unwrap();
    let mut node = bus.subscribe(&on_node(QOS, "n1")).await.unwrap();
    publish(&*bus, QOS, "after").await;
    for subscription in [&mut one, &mut other, &mut node] {
        for expected in ["before", "after"] {
            let delivery = next(&mut **subscription).await;
            assert_eq!(text(&delivery), expected);
            assert_eq!((delivery.count(), delivery.generation()), (1, 0));
            assert!(delivery.is_acknowledged() && !delivery.may_have_run());
            ack(delivery).await;
        }
        nothing(&mut **subscription).await;
    }
}

#[tokio::test]
async fn a_new_group_may_begin_with_the_next_message() {
    let space = Space::new();
    let bus = space.transport().await;
    publish(&*bus, QOS, "before").await;
    let mut late = bus
        .subscribe(&in_group(QOS, "g").with_start(Start::New))
        .await
        .unwrap();
    publish(&*bus, QOS, "after").await;
    assert_eq!(text(&next(&mut *late).await), "after");
}

#[tokio::test]
async fn a_message_carries_what_was_given() {
    let space = Space::new();
    let bus = space.transport().await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let id = MessageId::new();
    let mut headers = Headers::new();
    headers.insert("tenant", "\u{e4}cme").unwrap();
    let binary = Bytes::from_static(&[0, 255, b'\n', 0]);
    let mut sent = Envelope::received(NAME, QOS, binary.clone())
        .with_id(id)
        .with_headers(headers.clone())
        .with_version(2);
    bus.publish(&mut sent, SOON).await.unwrap();
    let mut bare = message(QOS, "");
    bus.publish(&mut bare, SOON).await.unwrap();
    let got = next(&mut *subscription).await;
    let envelope = got.envelope();
    assert_eq!((envelope.id(), envelope.version()), (Some(id), 2));
    assert_eq!(envelope.payload().as_bytes(), Some(&binary));
    assert_eq!((envelope.headers(), envelope.qos()), (&headers, QOS));
    let got = next(&mut *subscription).await;
    assert_eq!((got.envelope().id(), text(&got).as_str()), (bare.id(), ""));
    assert!(bare.id().is_some());
}

#[tokio::test]
async fn many_are_published_in_order_with_an_outcome_each() {
    let space = Space::new();
    let bus = space
        .try_connect("?max_payload=4096")
        .await
        .unwrap()
        .transport;
    let mut subscription = bus
        .subscribe(&in_group(QOS, "g").with_max_in_flight(512))
        .await
        .unwrap();
    let max = bus.capabilities().max_payload_bytes().unwrap();
    let mut batch: Vec<_> = (0..600).map(|i| message(QOS, &i.to_string())).collect();
    batch[3] = message(QOS, &"x".repeat(max + 1));
    let outcomes = bus.publish_many(&mut batch, SOON).await;
    for (i, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Ok(published) => assert!(i != 3 && !published.duplicate, "{i}"),
            Err(error) => assert_eq!((i, error.kind()), (3, ErrorKind::PayloadTooLarge)),
        }
    }
    for i in (0..600).filter(|i| *i != 3) {
        let delivery = next(&mut *subscription).await;
        assert_eq!(text(&delivery), i.to_string());
        ack(delivery).await;
    }
}

#[tokio::test]
async fn members_of_a_group_share_and_hold_no_more_than_their_limit() {
    let space = Space::new();
    let (here, there) = (space.transport().await, space.transport().await);
    let group = in_group(QOS, "g").with_max_in_flight(8);
    let mut members = [
        here.subscribe(&group).await.unwrap(),
        there.subscribe(&group).await.unwrap(),
    ];
    for i in 0..100 {
        publish(&*here, QOS, &i.to_string()).await;
    }
    let (mut seen, mut shares) = (Vec::new(), [0, 0]);
    while seen.len() < 100 {
        for (member, share) in members.iter_mut().zip(&mut shares) {
            let mut into = Vec::new();
            let received = tokio::time::timeout(SECOND / 4, member.recv(64, &mut into));
            if received.await.is_ok() {
                assert!(into.len() <= 8, "{}", into.len());
                *share += into.len();
                for delivery in into {
                    assert_eq!(delivery.count(), 1);
                    seen.push(text(&delivery).parse::<u32>().unwrap());
                    ack(delivery).await;
                }
            }
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
    assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
}

#[tokio::test]
async fn a_raised_limit_takes_effect() {
    let space = Space::new();
    let bus = space.transport().await;
    let mut subscription = bus
        .subscribe(&in_group(QOS, "g").with_max_in_flight(1))
        .await
        .unwrap();
    for i in 0..3 {
        publish(&*bus, QOS, &i.to_string()).await;
    }
    let first = next(&mut *subscription).await;
    nothing(&mut *subscription).await;
    subscription.set_max_in_flight(2);
    let second = next(&mut *subscription).await;
    nothing(&mut *subscription).await;
    ack(first).await;
    let third = next(&mut *subscription).await;
    assert_eq!((text(&second), text(&third)), ("1".into(), "2".into()));
}

#[tokio::test]
async fn types_do_not_hold_each_other_up() {
    let space = Space::new();
    let bus = space.transport().await;
    let group = || Consumers::Group(Name::from_static("g"));
    let names = ["orders", "orders.created", "orders.created.eu"];
    let mut subscriptions = Vec::new();
    for name in names {
        let subscribe = Subscribe::new(Name::from_static(name), QOS, group());
        subscriptions.push(
            bus.subscribe(&subscribe.with_max_in_flight(1))
                .await
                .unwrap(),
        );
        let body = Bytes::from_static(name.as_bytes());
        let mut envelope = Envelope::received(Name::from_static(name), QOS, body);
        bus.publish(&mut envelope, SOON).await.unwrap();
    }
    let mut held = Vec::new();
    for (subscription, name) in subscriptions.iter_mut().zip(names) {
        held.push(next(&mut **subscription).await);
        assert_eq!(text(held.last().unwrap()), name);
        nothing(&mut **subscription).await;
    }
}

#[tokio::test]
async fn order_is_kept_within_a_partition_over_members_and_retries() {
    let space = Space::new();
    let (here, there) = (space.transport().await, space.transport().await);
    let partitions = std::num::NonZeroU16::new(4);
    let ordered = in_group(QOS, "g").with_ordered(partitions);
    let mut members = [
        here.subscribe(&ordered).await.unwrap(),
        there.subscribe(&ordered).await.unwrap(),
    ];
    for i in 0..40_u16 {
        let mut envelope = message(QOS, &i.to_string()).with_partition(Some(i % 4));
        here.publish(&mut envelope, SOON).await.unwrap();
    }
    let mut done: Vec<Vec<u16>> = vec![Vec::new(); 4];
    while done.iter().map(Vec::len).sum::<usize>() < 40 {
        for member in &mut members {
            let mut into = Vec::new();
            if tokio::time::timeout(SECOND / 10, member.recv(8, &mut into))
                .await
                .is_err()
            {
                continue;
            }
            for delivery in into {
                let number: u16 = text(&delivery).parse().unwrap();
                assert_eq!(delivery.envelope().partition(), Some(number % 4));
                if number.is_multiple_of(5) && delivery.count() == 1 {
                    let after = SECOND / 100;
                    delivery.settle(Settlement::Nak { after }).await.unwrap();
                } else {
                    done[usize::from(number % 4)].push(number);
                    ack(delivery).await;
                }
            }
        }
    }
    assert!(done.iter().all(|numbers| numbers.is_sorted()), "{done:?}");
}

#[tokio::test]
async fn more_partitions_than_places_take_turns() {
    let space = Space::new();
    let bus = space.transport().await;
    let ordered = in_group(QOS, "g")
        .with_ordered(std::num::NonZeroU16::new(8))
        .with_max_in_flight(2);
    let mut subscription = bus.subscribe(&ordered).await.unwrap();
    for i in 0..16_u16 {
        let mut envelope = message(QOS, &i.to_string()).with_partition(Some(i % 8));
        bus.publish(&mut envelope, SOON).await.unwrap();
    }
    let mut seen = Vec::new();
    for _ in 0..16 {
        let delivery = next(&mut *subscription).await;
        seen.push(text(&delivery).parse::<u16>().unwrap());
        ack(delivery).await;
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..16).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_member_without_places_leaves_partitions_to_others() {
    let space = Space::new();
    let (here, there) = (space.transport().await, space.transport().await);
    let ordered = in_group(QOS, "g").with_ordered(std::num::NonZeroU16::new(2));
    here.subscribe(&ordered)
        .await
        .unwrap()
        .close()
        .await
        .unwrap();
    for i in 0..2_u16 {
        let mut envelope = message(QOS, &i.to_string()).with_partition(Some(i));
        here.publish(&mut envelope, SOON).await.unwrap();
    }
    let one = ordered.clone().with_max_in_flight(1);
    let mut full = here.subscribe(&one).await.unwrap();
    let held = next(&mut *full).await;
    let mut other = there.subscribe(&ordered).await.unwrap();
    // Long before the lease of a partition ends, which is 30 s.
    let free = next(&mut *other).await;
    assert_ne!(text(&free), text(&held));
    ack(free).await;
    ack(held).await;
}

#[tokio::test]
async fn an_unordered_group_gets_all_partitions() {
    let space = Space::new();
    let bus = space.transport().await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    for partition in [None, Some(3)] {
        let mut envelope = message(QOS, "a").with_partition(partition);
        bus.publish(&mut envelope, SOON).await.unwrap();
    }
    for _ in 0..2 {
        ack(next(&mut *subscription).await).await;
    }
}

#[tokio::test]
async fn a_group_that_is_away_keeps_a_partition_that_it_has_not_seen() {
    let space = Space::new();
    let bus = space.transport().await;
    let mut away = bus.subscribe(&in_group(QOS, "away")).await.unwrap();
    away.close().await.unwrap();
    let mut envelope = message(QOS, "a").with_partition(Some(3));
    bus.publish(&mut envelope, SOON).await.unwrap();
    let mut here = bus.subscribe(&in_group(QOS, "here")).await.unwrap();
    ack(next(&mut *here).await).await;
    // Whoever trims the partition sees to it that all groups are there.
    let stream = format!("{{{}:{NAME}}}:p:3", space.namespace);
    until("both groups are on the partition", async || {
        number(&space.url, &["XINFO", "GROUPS", &stream]).await == 2
    })
    .await;
    let mut back = bus.subscribe(&in_group(QOS, "away")).await.unwrap();
    assert_eq!(text(&next(&mut *back).await), "a");
}

#[tokio::test]
async fn without_managing_nothing_is_created() {
    let space = Space::new();
    let bound = space.try_connect("?manage=false").await.unwrap().transport;
    let error = bound
        .publish(&mut message(QOS, "a"), SOON)
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.may_be_stored()),
        (ErrorKind::NotFound, false)
    );
    assert_eq!(error.retry(), Retry::Never);
    let managing = space.transport().await;
    publish(&*managing, QOS, "b").await;
    publish(&*bound, QOS, "c").await;
    let group = in_group(QOS, "g");
    assert_eq!(
        bound.subscribe(&group).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    drop(managing.subscribe(&group).await.unwrap());
    let mut subscription = bound.subscribe(&group).await.unwrap();
    assert_eq!(text(&next(&mut *subscription).await), "b");
}

#[tokio::test]
async fn the_ack_wait_of_an_idle_group_is_what_is_asked_for() {
    let space = Space::new();
    let bus = space.transport().await;
    drop(bus.subscribe(&in_group(QOS, "g")).await.unwrap());
    let short = in_group(QOS, "g").with_ack_wait(SECOND / 2);
    let mut subscription = bus.subscribe(&short).await.unwrap();
    publish(&*bus, QOS, "a").await;
    drop(next(&mut *subscription).await);
    let again = next(&mut *subscription).await;
    assert_eq!((again.count(), again.may_have_run()), (2, true));
}

#[tokio::test]
async fn members_of_a_group_agree_on_order() {
    let space = Space::new();
    let bus = space.transport().await;
    let group = |group: &'static str, partitions| {
        let partitions = std::num::NonZeroU16::new(partitions);
        in_group(QOS, group).with_ordered(partitions)
    };
    drop(bus.subscribe(&group("plain", 0)).await.unwrap());
    drop(bus.subscribe(&group("ordered", 4)).await.unwrap());
    drop(bus.subscribe(&group("ordered", 4)).await.unwrap());
    for (name, partitions) in [("plain", 4), ("ordered", 0), ("ordered", 2), ("ordered", 8)] {
        let error = bus.subscribe(&group(name, partitions)).await.unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::Conflict,
            "{name} {partitions}: {error:?}"
        );
    }
    let at_most_once = Subscribe::new(NAME, QoS::AtMostOnce, Consumers::Group(NAME))
        .with_ordered(std::num::NonZeroU16::new(2));
    let error = bus.subscribe(&at_most_once).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}
