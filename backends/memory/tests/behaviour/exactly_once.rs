use std::collections::HashMap;
use std::time::Duration;

use catga_core::{
    Capability, Completion, DeadLetterFilter, Driver, ErrorKind, MessageId, QoS, Reason,
    ReasonKind, Settlement,
};
use catga_memory::DRIVER;
use tokio::time::{Instant, advance};

use crate::{
    NAMESPACE, SECOND, ack, complete, connect, in_group, message, next, nothing, on_node,
    publish_once, text, transport,
};

const QOS: QoS = QoS::ExactlyOnce;

/// Past the duplicate window, so that the inbox is what knows an id.
async fn pass_the_window() {
    advance(Duration::from_secs(121)).await;
}

fn dead() -> Settlement {
    Settlement::DeadLetter {
        reason: Reason::new(ReasonKind::Terminal, "no such product"),
        claim: None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_publish_within_the_window_stores_nothing() {
    let bus = transport("memory://").await;
    assert!(bus.capabilities().has(Capability::ExactlyOnce));
    // At QoS 1, where nothing but the window takes duplicates away.
    let at_least = in_group(QoS::AtLeastOnce, "g");
    let mut subscription = bus.subscribe(&at_least).await.unwrap();
    assert!(!publish_once(&*bus, "1", "a").await.duplicate);
    assert!(publish_once(&*bus, "1", "a").await.duplicate);
    // The first wins.
    assert!(publish_once(&*bus, "1", "b").await.duplicate);
    let mut many = [
        message(QOS, "c").with_id(MessageId::from_key("2")),
        message(QOS, "c").with_id(MessageId::from_key("2")),
    ];
    let outcomes = bus.publish_many(&mut many, SECOND).await;
    let duplicates: Vec<bool> = outcomes.into_iter().map(|o| o.unwrap().duplicate).collect();
    assert_eq!(duplicates, [false, true]);
    for expected in ["a", "c"] {
        let delivery = next(&mut *subscription).await;
        assert_eq!(text(&delivery), expected);
        assert!(!delivery.is_claimed());
        ack(delivery).await;
    }
    nothing(&mut *subscription).await;
    pass_the_window().await;
    assert!(!publish_once(&*bus, "1", "a").await.duplicate);
    ack(next(&mut *subscription).await).await;
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_was_given_up_is_neither_stored_nor_remembered() {
    let bus = transport("memory://?capacity=1").await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    publish_once(&*bus, "1", "a").await;
    let mut second = message(QOS, "b").with_id(MessageId::from_key("2"));
    let full = bus.publish(&mut second, SECOND).await.unwrap_err();
    assert_eq!(full.kind(), ErrorKind::LimitReached);
    ack(next(&mut *subscription).await).await;
    let published = bus.publish(&mut second, SECOND).await.unwrap();
    assert!(!published.duplicate);
    assert_eq!(text(&next(&mut *subscription).await), "b");
}

#[tokio::test(start_paused = true)]
async fn a_known_id_waits_for_room_like_any_other() {
    let bus = transport("memory://?capacity=1").await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    publish_once(&*bus, "1", "a").await;
    let mut again = message(QOS, "a").with_id(MessageId::from_key("1"));
    let full = bus.publish(&mut again, SECOND).await.unwrap_err();
    assert_eq!(full.kind(), ErrorKind::LimitReached);
    ack(next(&mut *subscription).await).await;
    assert!(bus.publish(&mut again, SECOND).await.unwrap().duplicate);
}

#[tokio::test(start_paused = true)]
async fn a_message_without_id_gets_one_to_be_known_by() {
    let bus = transport("memory://").await;
    let mut envelope = message(QOS, "a");
    assert!(!bus.publish(&mut envelope, SECOND).await.unwrap().duplicate);
    assert!(envelope.id().is_some());
    assert!(bus.publish(&mut envelope, SECOND).await.unwrap().duplicate);
}

#[tokio::test(start_paused = true)]
async fn qos_1_is_not_deduplicated() {
    let bus = transport("memory://").await;
    let mut subscription = bus
        .subscribe(&in_group(QoS::AtLeastOnce, "g"))
        .await
        .unwrap();
    let mut envelope = message(QoS::AtLeastOnce, "a").with_id(MessageId::from_key("1"));
    for _ in 0..2 {
        assert!(!bus.publish(&mut envelope, SECOND).await.unwrap().duplicate);
    }
    for _ in 0..2 {
        ack(next(&mut *subscription).await).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_what_was_handled_is_dropped_and_counted() {
    let bus = transport("memory://").await;
    let mut one = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let mut other = bus.subscribe(&in_group(QOS, "h")).await.unwrap();
    publish_once(&*bus, "1", "a").await;
    let delivery = next(&mut *one).await;
    assert!(delivery.is_claimed() && !delivery.may_have_run());
    complete(delivery).await.unwrap();
    pass_the_window().await;
    assert!(!publish_once(&*bus, "1", "a").await.duplicate);
    nothing(&mut *one).await;
    let stats = one.stats();
    assert_eq!((stats.duplicates, stats.waiting), (1, Some(0)));
    // Each group has an inbox of its own.
    ack(next(&mut *other).await).await;
    nothing(&mut *other).await;
    assert_eq!(other.stats().duplicates, 1);
}

#[tokio::test(start_paused = true)]
async fn each_node_has_an_inbox_of_its_own() {
    let bus = transport("memory://").await;
    let mut one = bus.subscribe(&on_node(QOS, "n1")).await.unwrap();
    let mut two = bus.subscribe(&on_node(QOS, "n2")).await.unwrap();
    publish_once(&*bus, "1", "a").await;
    ack(next(&mut *one).await).await;
    ack(next(&mut *two).await).await;
}

#[tokio::test(start_paused = true)]
async fn a_concurrent_copy_waits_until_the_first_is_done_with() {
    let bus = transport("memory://").await;
    let mut one = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let mut two = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    publish_once(&*bus, "1", "a").await;
    pass_the_window().await;
    publish_once(&*bus, "1", "a").await;
    let first = next(&mut *one).await;
    nothing(&mut *two).await;
    let began = Instant::now();
    let after = SECOND / 2;
    first.settle(Settlement::Nak { after }).await.unwrap();
    let again = next(&mut *two).await;
    assert_eq!((again.count(), again.may_have_run()), (2, true));
    assert_eq!(began.elapsed(), after);
    nothing(&mut *one).await;
    complete(again).await.unwrap();
    nothing(&mut *one).await;
    assert_eq!((one.stats().duplicates, two.stats().duplicates), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_stopped_run_is_not_counted_but_may_have_run() {
    for qos in [QOS, QoS::AtLeastOnce] {
        let bus = transport("memory://").await;
        let mut subscription = bus.subscribe(&in_group(qos, "g")).await.unwrap();
        publish_once(&*bus, "1", "a").await;
        for (began, ran) in [(false, false), (true, false), (false, true), (false, true)] {
            let delivery = next(&mut *subscription).await;
            assert_eq!((delivery.count(), delivery.may_have_run()), (1, ran));
            delivery
                .settle(Settlement::Release { began })
                .await
                .unwrap();
        }
    }
}

/// A delivery that is held past its lease, taken over and completed by another.
#[tokio::test(start_paused = true)]
async fn a_zombie_settles_nothing() {
    for settlement in [
        Settlement::Ack,
        Settlement::Complete(Completion::new()),
        Settlement::Nak { after: SECOND },
        Settlement::Release { began: true },
        Settlement::Term,
        dead(),
    ] {
        let backend = connect("memory://").await;
        let bus = backend.transport;
        let short = in_group(QOS, "g").with_ack_wait(SECOND / 2);
        let mut one = bus.subscribe(&short).await.unwrap();
        let mut two = bus.subscribe(&short).await.unwrap();
        publish_once(&*bus, "1", "a").await;
        let mut zombie = next(&mut *one).await;
        let heir = next(&mut *two).await;
        assert_eq!((heir.count(), heir.may_have_run()), (2, true));
        let extended = zombie.extend().await.unwrap_err();
        assert_eq!(extended.kind(), ErrorKind::LostOwnership);
        let shown = format!("{settlement:?}");
        let lost = zombie.settle(settlement).await.unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::LostOwnership, "{shown}");
        complete(heir).await.unwrap();
        nothing(&mut *one).await;
        let letters = backend.dead_letters.unwrap();
        let page = letters.list(&DeadLetterFilter::all(), None, 1).await;
        assert!(page.unwrap().letters.is_empty(), "{shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn extend_renews_the_claim() {
    let bus = transport("memory://").await;
    let short = in_group(QOS, "g").with_ack_wait(SECOND / 2);
    let mut subscription = bus.subscribe(&short).await.unwrap();
    publish_once(&*bus, "1", "a").await;
    let mut delivery = next(&mut *subscription).await;
    for _ in 0..5 {
        advance(SECOND * 3 / 8).await;
        delivery.extend().await.unwrap();
    }
    ack(delivery).await;
    nothing(&mut *subscription).await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_handled_again_by_its_redrive_alone() {
    let backend = connect("memory://").await;
    let (bus, letters) = (backend.transport, backend.dead_letters.unwrap());
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    publish_once(&*bus, "1", "a").await;
    next(&mut *subscription).await.settle(dead()).await.unwrap();
    pass_the_window().await;
    publish_once(&*bus, "1", "a").await;
    nothing(&mut *subscription).await;
    let all = DeadLetterFilter::all();
    let page = letters.list(&all, None, 10).await.unwrap();
    assert_eq!(page.letters.len(), 1);
    letters.redrive(&page.letters[0].id).await.unwrap();
    let delivery = next(&mut *subscription).await;
    assert_eq!((delivery.generation(), delivery.count()), (1, 1));
    assert!(delivery.may_have_run() && delivery.is_claimed());
    ack(delivery).await;
    pass_the_window().await;
    publish_once(&*bus, "1", "a").await;
    nothing(&mut *subscription).await;
    assert_eq!(subscription.stats().duplicates, 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_for_good_is_handled() {
    let bus = transport("memory://").await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    publish_once(&*bus, "1", "a").await;
    let delivery = next(&mut *subscription).await;
    delivery.settle(Settlement::Term).await.unwrap();
    pass_the_window().await;
    publish_once(&*bus, "1", "a").await;
    nothing(&mut *subscription).await;
}

#[tokio::test(start_paused = true)]
async fn without_the_own_inbox_nothing_is_claimed() {
    let bus = transport("memory://").await;
    let elsewhere = in_group(QOS, "g").with_own_inbox(false);
    let mut subscription = bus.subscribe(&elsewhere).await.unwrap();
    publish_once(&*bus, "1", "a").await;
    pass_the_window().await;
    publish_once(&*bus, "1", "a").await;
    for _ in 0..2 {
        let delivery = next(&mut *subscription).await;
        assert!(!delivery.is_claimed() && delivery.count() == 1);
        ack(delivery).await;
    }
    let conflict = bus.subscribe(&in_group(QOS, "g")).await.unwrap_err();
    assert_eq!(conflict.kind(), ErrorKind::Conflict);
}

#[tokio::test(start_paused = true)]
async fn limits_are_those_of_the_first_connection() {
    let url = "memory://exactly-once-limits".parse().unwrap();
    let options = catga_core::ConnectOptions::new(NAMESPACE).with_duplicate_window(SECOND);
    let first = DRIVER.connect(&url, &options).await.unwrap();
    publish_once(&*first.transport, "1", "a").await;
    advance(SECOND).await;
    let published = publish_once(&*first.transport, "1", "a").await;
    assert!(!published.duplicate);
    let other = options.clone().with_duplicate_window(SECOND * 2);
    let error = DRIVER.connect(&url, &other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    DRIVER.connect(&url, &options).await.unwrap();
}

/// Publishers that repeat themselves and members that fail, stop and stall: one completion for each id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_id_completes_once_whatever_happens() {
    const IDS: usize = 300;
    let options = catga_core::ConnectOptions::new(NAMESPACE).with_duplicate_window(Duration::ZERO);
    let url = "memory://".parse().unwrap();
    let bus = DRIVER.connect(&url, &options).await.unwrap().transport;
    let subscribe = in_group(QOS, "g").with_ack_wait(Duration::from_millis(20));
    let (completed, mut completions) = tokio::sync::mpsc::unbounded_channel();
    let members: Vec<_> = (0..3)
        .map(|_| {
            let (bus, subscribe, completed) = (bus.clone(), subscribe.clone(), completed.clone());
            tokio::spawn(async move {
                let mut subscription = bus.subscribe(&subscribe).await.unwrap();
                let mut into = Vec::new();
                while subscription.recv(8, &mut into).await.is_ok() {
                    for delivery in into.drain(..) {
                        let text = text(&delivery);
                        let settlement = match fastrand::u8(..8) {
                            0 => Settlement::Nak {
                                after: Duration::from_micros(100),
                            },
                            1 => Settlement::Release { began: true },
                            // Left to the end of its lease.
                            2 => continue,
                            _ => Settlement::Ack,
                        };
                        let ack = matches!(settlement, Settlement::Ack);
                        if delivery.settle(settlement).await.is_ok() && ack {
                            let _ = completed.send(text);
                        }
                    }
                }
                subscription.stats().duplicates
            })
        })
        .collect();
    for round in 0..3 {
        for id in 0..IDS {
            let id = id.to_string();
            assert!(!publish_once(&*bus, &id, &id).await.duplicate, "{round}");
        }
    }
    let mut counts: HashMap<String, usize> = HashMap::new();
    let watch = bus.subscribe(&subscribe).await.unwrap();
    let everything = async {
        while counts.len() < IDS || watch.stats().waiting != Some(0) {
            let text = tokio::time::timeout(Duration::from_millis(10), completions.recv());
            if let Ok(text) = text.await {
                *counts.entry(text.unwrap()).or_default() += 1;
            }
        }
    };
    tokio::time::timeout(SECOND * 30, everything).await.unwrap();
    bus.close().await.unwrap();
    let mut duplicates = 0;
    for member in members {
        duplicates += member.await.unwrap();
    }
    while let Ok(text) = completions.try_recv() {
        *counts.entry(text).or_default() += 1;
    }
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    assert_eq!(duplicates, 2 * IDS as u64);
}

#[tokio::test(start_paused = true)]
async fn a_completion_is_decided_at_once() {
    let bus = transport("memory://").await;
    let subscribe = in_group(QOS, "g").with_ack_wait(SECOND);
    let mut subscription = bus.subscribe(&subscribe).await.unwrap();
    publish_once(&*bus, "1", "a").await;
    let complete = || Settlement::Complete(Completion::new());
    let mut late = next(&mut *subscription).await;
    advance(SECOND).await;
    let lost = late.try_settle(&complete()).unwrap().unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::LostOwnership);
    let mut again = next(&mut *subscription).await;
    assert_eq!((text(&again), again.count()), ("a".to_owned(), 2));
    let nak = Settlement::Nak { after: SECOND };
    assert!(again.try_settle(&nak).is_none(), "the log has to be asked");
    assert!(again.try_settle(&complete()).unwrap().is_ok());
    pass_the_window().await;
    assert!(!publish_once(&*bus, "1", "a").await.duplicate);
    nothing(&mut *subscription).await;
    assert_eq!(subscription.stats().duplicates, 1);
}
