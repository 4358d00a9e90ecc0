use catga_core::{
    Consumers, DeadLetterFilter, DeadLetterId, Delivery, Envelope, ErrorKind, Name, QoS, Reason,
    ReasonKind, Settlement, Subscribe,
};

use crate::{SECOND, ack, connect, in_group, next, nothing, publish, text};

const QOS: QoS = QoS::AtLeastOnce;

async fn bury(delivery: Delivery) {
    let reason = Reason::new(ReasonKind::Terminal, "no such product");
    delivery
        .settle(Settlement::DeadLetter {
            reason,
            claim: None,
        })
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_listed_redriven_and_purged() {
    let backend = connect("memory://").await;
    let (bus, store) = (backend.transport, backend.dead_letters.unwrap());
    let mut failing = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let mut healthy = bus.subscribe(&in_group(QOS, "h")).await.unwrap();
    publish(&*bus, QOS, "a").await;
    bury(next(&mut *failing).await).await;
    ack(next(&mut *healthy).await).await;

    let all = DeadLetterFilter::all();
    let page = store.list(&all, None, 10).await.unwrap();
    assert_eq!((page.letters.len(), page.next), (1, None));
    let letter = &page.letters[0];
    assert_eq!((letter.group.as_str(), letter.deliveries), ("g", 1));
    assert_eq!(letter.reason.kind, ReasonKind::Terminal);
    assert_eq!(
        letter.envelope.payload().as_bytes().map(|b| &b[..]),
        Some(&b"a"[..])
    );
    let inspected = store.inspect(&letter.id).await.unwrap().unwrap();
    assert_eq!((inspected.id, inspected.generation), (letter.id.clone(), 0));

    store.redrive(&letter.id).await.unwrap();
    assert!(store.inspect(&letter.id).await.unwrap().is_none());
    let again = store.redrive(&letter.id).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::NotFound);
    let delivery = next(&mut *failing).await;
    assert_eq!((text(&delivery).as_str(), delivery.count()), ("a", 1));
    assert_eq!(delivery.generation(), 1);
    nothing(&mut *healthy).await;
    bury(delivery).await;
    let page = store.list(&all, None, 10).await.unwrap();
    assert_eq!(page.letters[0].generation, 1);

    let other = DeadLetterFilter::all().with_group(Name::from_static("h"));
    assert_eq!(store.purge(&other).await.unwrap(), 0);
    assert_eq!(store.purge(&all).await.unwrap(), 1);
    assert!(store.list(&all, None, 10).await.unwrap().letters.is_empty());
    let unknown = store.redrive(&DeadLetterId::new("nonsense")).await;
    assert_eq!(unknown.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_of_one_node_is_redriven_to_it_alone() {
    let backend = connect("memory://").await;
    let (bus, store) = (backend.transport, backend.dead_letters.unwrap());
    let node = |id| Consumers::EachNode {
        group: Name::from_static("g"),
        node: Name::from_static(id),
    };
    let subscribe = |id| Subscribe::new(in_group(QOS, "g").message, QOS, node(id));
    let mut one = bus.subscribe(&subscribe("n1")).await.unwrap();
    let mut two = bus.subscribe(&subscribe("n2")).await.unwrap();
    publish(&*bus, QOS, "a").await;
    bury(next(&mut *one).await).await;
    ack(next(&mut *two).await).await;

    let page = store
        .list(&DeadLetterFilter::all(), None, 10)
        .await
        .unwrap();
    assert_eq!(page.letters[0].node, Some(Name::from_static("n1")));
    store.redrive(&page.letters[0].id).await.unwrap();
    ack(next(&mut *one).await).await;
    nothing(&mut *two).await;
}

#[tokio::test]
async fn pages_go_by_age_across_messages() {
    let backend = connect("memory://").await;
    let (bus, store) = (backend.transport, backend.dead_letters.unwrap());
    let names = ["b", "a", "c", "a", "b"];
    for (i, name) in names.iter().enumerate() {
        let name = Name::new(name).unwrap();
        let body = catga_core::Bytes::from(i.to_string());
        let mut envelope = Envelope::received(name.clone(), QOS, body);
        bus.publish(&mut envelope, SECOND).await.unwrap();
        let consumers = in_group(QOS, "g").consumers;
        let subscribe = Subscribe::new(name, QOS, consumers);
        let mut subscription = bus.subscribe(&subscribe).await.unwrap();
        bury(next(&mut *subscription).await).await;
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
}

#[tokio::test(start_paused = true)]
async fn a_full_store_keeps_the_message_pending() {
    let backend = connect("memory://?dead_letters=1").await;
    let (bus, store) = (backend.transport, backend.dead_letters.unwrap());
    let short = in_group(QOS, "g").with_ack_wait(SECOND / 2);
    let mut subscription = bus.subscribe(&short).await.unwrap();
    publish(&*bus, QOS, "a").await;
    publish(&*bus, QOS, "b").await;
    bury(next(&mut *subscription).await).await;
    let reason = Reason::new(ReasonKind::Exhausted, "again and again");
    let second = next(&mut *subscription).await;
    let full = second
        .settle(Settlement::DeadLetter {
            reason,
            claim: None,
        })
        .await;
    assert_eq!(full.unwrap_err().kind(), ErrorKind::LimitReached);
    let again = next(&mut *subscription).await;
    assert_eq!((text(&again).as_str(), again.count()), ("b", 2));
    store.purge(&DeadLetterFilter::all()).await.unwrap();
    bury(again).await;
}
