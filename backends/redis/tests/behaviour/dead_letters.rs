use std::sync::Arc;

use catga_core::{
    Backend, DeadLetterFilter, DeadLetterId, DeadLetters, Delivery, ErrorKind, Headers, MessageId,
    Name, NodeId, QoS, Reason, ReasonKind, Settlement, Transport,
};

use crate::{
    NAME, SECOND, SOON, Space, ack, in_group, message, next, nothing, on_node, publish, raw, text,
};

const QOS: QoS = QoS::AtLeastOnce;

fn parts(backend: Backend) -> (Arc<dyn Transport>, Arc<dyn DeadLetters>) {
    (backend.transport, backend.dead_letters.unwrap())
}

async fn bury(delivery: Delivery, detail: &str) {
    let reason = Reason::new(ReasonKind::Terminal, detail);
    let settlement = Settlement::DeadLetter {
        reason,
        claim: None,
    };
    delivery.settle(settlement).await.unwrap();
}

#[tokio::test]
async fn a_dead_letter_is_listed_redriven_and_purged() {
    let space = Space::new();
    let (bus, store) = parts(space.connect().await);
    let all = DeadLetterFilter::all();
    assert!(store.list(&all, None, 10).await.unwrap().letters.is_empty());
    assert_eq!(store.purge(&all).await.unwrap(), 0);
    let mut failing = bus.subscribe(&in_group(QOS, "g.a")).await.unwrap();
    let mut healthy = bus.subscribe(&in_group(QOS, "h")).await.unwrap();
    let id = MessageId::new();
    let mut headers = Headers::new();
    headers.insert("tenant", "acme").unwrap();
    let mut sent = message(QOS, "a")
        .with_id(id)
        .with_headers(headers.clone())
        .with_version(3);
    bus.publish(&mut sent, SOON).await.unwrap();
    bury(next(&mut *failing).await, "two\nlines").await;
    ack(next(&mut *healthy).await).await;

    let page = store.list(&all, None, 10).await.unwrap();
    assert_eq!((page.letters.len(), page.next), (1, None));
    let letter = &page.letters[0];
    assert_eq!((letter.group.as_str(), letter.node.as_ref()), ("g.a", None));
    assert_eq!((letter.deliveries, letter.generation), (1, 0));
    assert_eq!(
        (letter.reason.kind, letter.reason.detail.as_str()),
        (ReasonKind::Terminal, "two\nlines")
    );
    assert_eq!(
        (letter.envelope.id(), letter.envelope.version()),
        (Some(id), 3)
    );
    assert_eq!(
        (letter.envelope.headers(), letter.envelope.qos()),
        (&headers, QOS)
    );
    assert_eq!(letter.envelope.payload().as_bytes().unwrap(), "a");
    assert!(letter.published_at <= letter.dead_at);
    let inspected = store.inspect(&letter.id).await.unwrap().unwrap();
    assert_eq!(inspected.id, letter.id);
    nothing(&mut *failing).await;

    store.redrive(&letter.id).await.unwrap();
    assert!(store.inspect(&letter.id).await.unwrap().is_none());
    let again = store.redrive(&letter.id).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::NotFound);
    let delivery = next(&mut *failing).await;
    assert_eq!(
        (
            text(&delivery).as_str(),
            delivery.count(),
            delivery.generation()
        ),
        ("a", 1, 1)
    );
    assert_eq!(
        (delivery.envelope().id(), delivery.envelope().version()),
        (Some(id), 3)
    );
    assert_eq!(*delivery.envelope().headers(), headers);
    nothing(&mut *healthy).await;
    bury(delivery, "again").await;
    let page = store.list(&all, None, 10).await.unwrap();
    assert_eq!(page.letters[0].generation, 1);

    let other = DeadLetterFilter::all().with_group(Name::from_static("h"));
    assert_eq!(store.purge(&other).await.unwrap(), 0);
    assert_eq!(store.purge(&all).await.unwrap(), 1);
    assert!(store.list(&all, None, 10).await.unwrap().letters.is_empty());
    let unknown = store.redrive(&DeadLetterId::new("nonsense")).await;
    assert_eq!(unknown.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_dead_letter_of_one_node_is_redriven_to_it_alone() {
    let space = Space::new();
    let (bus, store) = parts(space.connect().await);
    let mut one = bus.subscribe(&on_node(QOS, "n1")).await.unwrap();
    let mut two = bus.subscribe(&on_node(QOS, "n2")).await.unwrap();
    publish(&*bus, QOS, "a").await;
    bury(next(&mut *one).await, "no").await;
    ack(next(&mut *two).await).await;
    let of_group = DeadLetterFilter::all().with_group(Name::from_static("each"));
    let page = store.list(&of_group, None, 10).await.unwrap();
    assert_eq!(page.letters[0].node, Some(NodeId::from_static("n1")));
    store.redrive(&page.letters[0].id).await.unwrap();
    ack(next(&mut *one).await).await;
    nothing(&mut *two).await;
}

#[tokio::test]
async fn pages_go_by_age_across_messages() {
    let space = Space::new();
    let (bus, store) = parts(space.connect().await);
    let names = ["b", "a", "c", "a", "b"];
    for (i, name) in names.iter().enumerate() {
        let name = Name::new(name).unwrap();
        let body = catga_core::Bytes::from(i.to_string());
        let mut envelope = catga_core::Envelope::received(name.clone(), QOS, body);
        bus.publish(&mut envelope, SOON).await.unwrap();
        let consumers = in_group(QOS, "g").consumers;
        let subscribe = catga_core::Subscribe::new(name, QOS, consumers);
        let mut subscription = bus.subscribe(&subscribe).await.unwrap();
        bury(next(&mut *subscription).await, "no").await;
    }
    let all = DeadLetterFilter::all();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store.list(&all, after.as_ref(), 2).await.unwrap();
        assert!(page.letters.len() <= 2 && page.letters.is_sorted_by(|a, b| a.id < b.id));
        seen.extend(
            page.letters
                .into_iter()
                .map(|l| l.envelope.name().to_string()),
        );
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, names);
    let only = DeadLetterFilter::all().with_message(Name::from_static("a"));
    assert_eq!(store.list(&only, None, 10).await.unwrap().letters.len(), 2);
    assert_eq!(store.purge(&only).await.unwrap(), 2);
    assert_eq!(store.list(&all, None, 10).await.unwrap().letters.len(), 3);
}

#[tokio::test]
async fn what_cannot_be_buried_comes_again_also_when_it_was_claimed() {
    let space = Space::new();
    let (bus, store) = parts(space.connect().await);
    let once = in_group(QoS::ExactlyOnce, "g").with_ack_wait(SECOND);
    let mut subscription = bus.subscribe(&once).await.unwrap();
    let letters = format!("{{{}:{NAME}}}:dl:g", space.namespace);
    raw(&space.url, &["SET", &letters, "no stream"]).await;
    publish(&*bus, QoS::ExactlyOnce, "a").await;
    let reason = Reason::new(ReasonKind::Terminal, "broken");
    let settlement = Settlement::DeadLetter {
        reason,
        claim: None,
    };
    let refused = next(&mut *subscription).await.settle(settlement).await;
    assert!(refused.is_err());
    raw(&space.url, &["DEL", &letters]).await;
    let again = next(&mut *subscription).await;
    assert_eq!(text(&again), "a");
    bury(again, "broken").await;
    let page = store.list(&DeadLetterFilter::all(), None, 10).await;
    assert_eq!(page.unwrap().letters.len(), 1);
}

#[tokio::test]
async fn the_largest_message_fits_with_the_longest_reason() {
    let space = Space::new();
    let small = space.try_connect("?max_payload=4096").await.unwrap();
    let (bus, store) = parts(small);
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let max = bus.capabilities().max_payload_bytes().unwrap();
    publish(&*bus, QOS, &"x".repeat(max)).await;
    bury(next(&mut *subscription).await, &"\n".repeat(4000)).await;
    let page = store
        .list(&DeadLetterFilter::all(), None, 10)
        .await
        .unwrap();
    store.redrive(&page.letters[0].id).await.unwrap();
    assert_eq!(text(&next(&mut *subscription).await).len(), max);
}

#[tokio::test]
async fn a_member_that_stays_away_is_forgotten_with_a_record() {
    let space = Space::new();
    let (bus, store) = parts(space.connect().await);
    let gone = bus.subscribe(&on_node(QOS, "gone")).await.unwrap();
    drop(gone);
    publish(&*bus, QOS, "missed").await;
    let stays = on_node(QOS, "stays").with_absence(SECOND);
    let mut stays = bus.subscribe(&stays).await.unwrap();
    ack(next(&mut *stays).await).await;
    let by = tokio::time::Instant::now() + SOON;
    let letters = loop {
        let page = store
            .list(&DeadLetterFilter::all(), None, 10)
            .await
            .unwrap();
        if !page.letters.is_empty() {
            break page.letters;
        }
        assert!(tokio::time::Instant::now() < by, "a record in time");
        // A member that waits is not away.
        nothing(&mut *stays).await;
    };
    assert_eq!(letters[0].reason.kind, ReasonKind::Absent);
    assert_eq!(letters[0].node, Some(NodeId::from_static("gone")));
    assert!(
        letters[0].reason.detail.contains("1 messages"),
        "{}",
        letters[0].reason
    );
    publish(&*bus, QOS, "next").await;
    assert_eq!(text(&next(&mut *stays).await), "next");
}
