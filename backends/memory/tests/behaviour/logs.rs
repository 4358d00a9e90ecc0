use std::collections::HashSet;
use std::time::Duration;

use catga_core::{Completion, ErrorKind, QoS, Settlement, Start};
use tokio::time::{Instant, timeout};

use crate::{
    SECOND, ack, complete, in_group, message, next, nothing, on_node, publish, text, transport,
};

const QOS: QoS = QoS::AtLeastOnce;

#[tokio::test(start_paused = true)]
async fn groups_share_and_each_gets_all() {
    let bus = transport("memory://").await;
    let mut one = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let mut two = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let mut node1 = bus.subscribe(&on_node(QOS, "n1")).await.unwrap();
    let mut node2 = bus.subscribe(&on_node(QOS, "n2")).await.unwrap();
    for i in 0..10 {
        publish(&*bus, QOS, &i.to_string()).await;
    }
    let mut seen = HashSet::new();
    for _ in 0..5 {
        for member in [&mut one, &mut two] {
            let delivery = next(&mut **member).await;
            assert_eq!(delivery.count(), 1);
            assert!(seen.insert(text(&delivery)));
            ack(delivery).await;
        }
    }
    assert_eq!(seen.len(), 10);
    for node in [&mut node1, &mut node2] {
        let mut all = Vec::new();
        node.recv(100, &mut all).await.unwrap();
        let texts: Vec<_> = all.iter().map(text).collect();
        assert_eq!(texts, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    }
    nothing(&mut *one).await;
    nothing(&mut *two).await;
}

#[tokio::test(start_paused = true)]
async fn a_group_outlives_its_members_and_a_new_one_may_skip() {
    let bus = transport("memory://").await;
    drop(bus.subscribe(&in_group(QOS, "g")).await.unwrap());
    publish(&*bus, QOS, "a").await;
    let new = in_group(QOS, "h").with_start(Start::New);
    let mut skips = bus.subscribe(&new).await.unwrap();
    let mut back = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    ack(next(&mut *back).await).await;
    nothing(&mut *skips).await;
}

#[tokio::test(start_paused = true)]
async fn nak_redelivers_after_the_delay() {
    let bus = transport("memory://").await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    publish(&*bus, QOS, "a").await;
    let began = Instant::now();
    let after = Duration::from_millis(700);
    let delivery = next(&mut *subscription).await;
    delivery.settle(Settlement::Nak { after }).await.unwrap();
    let again = next(&mut *subscription).await;
    assert_eq!(again.count(), 2);
    assert!(began.elapsed() >= after && began.elapsed() < SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_and_the_late_ack_settles_nothing() {
    let bus = transport("memory://").await;
    let short = in_group(QOS, "g").with_ack_wait(SECOND / 2);
    let mut subscription = bus.subscribe(&short).await.unwrap();
    publish(&*bus, QOS, "a").await;
    let late = next(&mut *subscription).await;
    let mut later = next(&mut *subscription).await;
    assert_eq!(later.count(), 2);
    // Queued, and ignored when it gets there.
    ack(late).await;
    later.extend().await.unwrap();
    tokio::time::advance(SECOND).await;
    let third = next(&mut *subscription).await;
    assert_eq!(third.count(), 3);
    let lost = complete(later).await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::LostOwnership);
    complete(third).await.unwrap();
    nothing(&mut *subscription).await;
}

#[tokio::test(start_paused = true)]
async fn extend_keeps_a_delivery() {
    let bus = transport("memory://").await;
    let subscribe = in_group(QOS, "g").with_ack_wait(SECOND / 2);
    let mut subscription = bus.subscribe(&subscribe).await.unwrap();
    publish(&*bus, QOS, "a").await;
    let mut delivery = next(&mut *subscription).await;
    for _ in 0..5 {
        tokio::time::advance(SECOND * 3 / 8).await;
        delivery.extend().await.unwrap();
    }
    complete(delivery).await.unwrap();
    nothing(&mut *subscription).await;
    publish(&*bus, QOS, "b").await;
    let mut lost = next(&mut *subscription).await;
    let _again = next(&mut *subscription).await;
    let error = lost.extend().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LostOwnership);
}

#[tokio::test(start_paused = true)]
async fn a_release_is_not_counted() {
    let bus = transport("memory://").await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    publish(&*bus, QOS, "a").await;
    for _ in 0..3 {
        let delivery = next(&mut *subscription).await;
        assert_eq!(delivery.count(), 1);
        delivery
            .settle(Settlement::Release { began: false })
            .await
            .unwrap();
    }
    let delivery = next(&mut *subscription).await;
    delivery.settle(Settlement::Term).await.unwrap();
    nothing(&mut *subscription).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_log_pushes_back_and_recovers() {
    let bus = transport("memory://?capacity=2").await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    publish(&*bus, QOS, "a").await;
    publish(&*bus, QOS, "b").await;
    // The channel in front of the log takes a few more, whose publishers wait all the same.
    let began = Instant::now();
    let mut many: Vec<_> = (0..8).map(|i| message(QOS, &format!("no {i}"))).collect();
    for outcome in bus.publish_many(&mut many, SECOND).await {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitReached);
        assert!(!error.may_be_stored());
    }
    assert!(began.elapsed() >= SECOND && began.elapsed() < SECOND * 5 / 4);
    let waiting = tokio::spawn({
        let bus = bus.clone();
        async move { bus.publish(&mut message(QOS, "c"), SECOND).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    ack(next(&mut *subscription).await).await;
    waiting.await.unwrap().unwrap();
    // What was rejected is never delivered.
    for expected in ["b", "c"] {
        let delivery = next(&mut *subscription).await;
        assert_eq!(text(&delivery), expected);
        ack(delivery).await;
    }
    nothing(&mut *subscription).await;
}

/// Publishers with deadlines about as long as it takes to get room: each outcome is what happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_is_never_delivered_and_ok_always() {
    const COUNT: usize = 3000;
    let bus = transport("memory://?capacity=4").await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let consumer = tokio::spawn(async move {
        let mut seen = HashSet::new();
        loop {
            let delivery = next(&mut *subscription).await;
            let text = text(&delivery);
            ack(delivery).await;
            if text == "end" {
                return seen;
            }
            assert!(seen.insert(text));
        }
    });
    let publishers: Vec<_> = (0..8)
        .map(|p| {
            let bus = bus.clone();
            tokio::spawn(async move {
                let mut stored = HashSet::new();
                for i in 0..COUNT / 8 {
                    let text = format!("{p}.{i}");
                    let deadline = Duration::from_micros(100 * (i as u64 % 10));
                    let published = bus.publish(&mut message(QOS, &text), deadline).await;
                    match published {
                        Ok(_) => assert!(stored.insert(text)),
                        Err(error) => assert!(!error.may_be_stored(), "{error}"),
                    }
                }
                stored
            })
        })
        .collect();
    let mut stored = HashSet::new();
    for publisher in publishers {
        stored.extend(publisher.await.unwrap());
    }
    bus.publish(&mut message(QOS, "end"), SECOND * 5)
        .await
        .unwrap();
    assert_eq!(consumer.await.unwrap(), stored);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_recv_loses_nothing() {
    let bus = transport("memory://").await;
    let mut one = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let mut into = Vec::new();
    assert!(timeout(SECOND, one.recv(8, &mut into)).await.is_err());
    // In one go, so that one batch has them all.
    let mut many: Vec<_> = (0..8).map(|i| message(QOS, &i.to_string())).collect();
    for outcome in bus.publish_many(&mut many, SECOND).await {
        outcome.unwrap();
    }
    // The batch is on its way to `one`: the next call has it, and gives back what it cannot take.
    assert_eq!(text(&next(&mut *one).await), "0");
    let second = next(&mut *one).await;
    assert_eq!((text(&second).as_str(), second.count()), ("1", 1));
    assert!(timeout(SECOND, one.recv(8, &mut into)).await.is_ok());
    assert_eq!(into.len(), 6);
}

#[tokio::test(start_paused = true)]
async fn what_a_dropped_subscription_never_handed_out_goes_back_at_once() {
    let bus = transport("memory://").await;
    let mut one = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let mut two = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    assert!(timeout(SECOND, one.recv(8, &mut Vec::new())).await.is_err());
    publish(&*bus, QOS, "a").await;
    drop(one);
    let began = Instant::now();
    let delivery = next(&mut *two).await;
    assert_eq!((delivery.count(), began.elapsed()), (1, Duration::ZERO));
    two.close().await.unwrap();
    let error = two.recv(1, &mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    // What was handed out can still be settled.
    complete(delivery).await.unwrap();
}

/// A member that does not come back for its batch burns no attempts of it.
#[tokio::test(start_paused = true)]
async fn a_batch_that_waits_for_its_member_expires_uncounted() {
    let bus = transport("memory://").await;
    let short = in_group(QOS, "g").with_ack_wait(SECOND / 2);
    let mut stuck = bus.subscribe(&short).await.unwrap();
    let mut quick = bus.subscribe(&short).await.unwrap();
    assert!(
        timeout(SECOND, stuck.recv(8, &mut Vec::new()))
            .await
            .is_err()
    );
    publish(&*bus, QOS, "a").await;
    let delivery = next(&mut *quick).await;
    assert_eq!(delivery.count(), 1);
    complete(delivery).await.unwrap();
    nothing(&mut *stuck).await;
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_a_member_leaves_the_rest_to_others() {
    let bus = transport("memory://").await;
    let two_at_once = in_group(QOS, "g").with_max_in_flight(2);
    let mut one = bus.subscribe(&two_at_once).await.unwrap();
    let mut two = bus.subscribe(&two_at_once).await.unwrap();
    for i in 0..5 {
        publish(&*bus, QOS, &i.to_string()).await;
    }
    let (mut held, mut rest) = (Vec::new(), Vec::new());
    one.recv(10, &mut held).await.unwrap();
    assert_eq!((held.len(), one.stats().waiting), (2, Some(3)));
    nothing(&mut *one).await;
    two.recv(10, &mut rest).await.unwrap();
    assert_eq!(rest.len(), 2);
    ack(held.remove(0)).await;
    assert_eq!(text(&next(&mut *one).await), "4");
}

#[tokio::test]
async fn a_completion_with_a_claim_is_for_an_inbox() {
    use catga_core::{Claim, InboxKey, MessageId, Owner};
    let bus = transport("memory://").await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    publish(&*bus, QOS, "a").await;
    let key = InboxKey::new(crate::NAMESPACE, crate::NAME, MessageId::new());
    let claim = Claim::new(key, Owner::new(), 1);
    let completion = Completion::new().with_claim(claim);
    let delivery = next(&mut *subscription).await;
    let settled = delivery.settle(Settlement::Complete(completion)).await;
    assert_eq!(settled.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test(start_paused = true)]
async fn a_raised_limit_wakes_who_waits() {
    let bus = transport("memory://").await;
    let one_at_once = in_group(QOS, "g").with_max_in_flight(1);
    let mut subscription = bus.subscribe(&one_at_once).await.unwrap();
    for text in ["a", "b", "c"] {
        publish(&*bus, QOS, text).await;
    }
    let _a = next(&mut *subscription).await;
    // The fetch of this one stays with the log.
    nothing(&mut *subscription).await;
    subscription.set_max_in_flight(2);
    let began = Instant::now();
    let b = next(&mut *subscription).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    subscription.set_max_in_flight(1);
    ack(b).await;
    nothing(&mut *subscription).await;
}

#[tokio::test(start_paused = true)]
async fn what_goes_past_the_queue_and_what_waits_in_it_keep_their_order() {
    let bus = transport("memory://?capacity=3").await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let publisher = tokio::spawn({
        let bus = std::sync::Arc::clone(&bus);
        async move {
            let mut envelopes: Vec<_> = (0..100).map(|i| message(QOS, &i.to_string())).collect();
            bus.publish_many(&mut envelopes, SECOND).await
        }
    });
    for i in 0..100 {
        let delivery = next(&mut *subscription).await;
        assert_eq!(text(&delivery), i.to_string());
        ack(delivery).await;
    }
    assert!(publisher.await.unwrap().iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn who_would_have_to_wait_is_told_at_once() {
    let bus = transport("memory://?capacity=2").await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let try_publish = |text: &str| bus.try_publish(&mut message(QOS, text));
    // One place is that of the first who waits.
    assert!(try_publish("a").unwrap().is_ok() && try_publish("b").is_none());
    publish(&*bus, QOS, "b").await;
    let mut third = message(QOS, "c");
    assert!(bus.try_publish(&mut third).is_none());
    assert_eq!(
        third.payload().as_bytes().unwrap(),
        &"c",
        "nothing was done"
    );
    for expected in ["a", "b"] {
        let mut delivery = next(&mut *subscription).await;
        assert_eq!(text(&delivery), expected);
        assert!(delivery.try_settle(&Settlement::Ack).unwrap().is_ok());
    }
    publish(&*bus, QOS, "c").await;
    assert_eq!(text(&next(&mut *subscription).await), "c");
}
