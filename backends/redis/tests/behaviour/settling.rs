use catga_core::{Completion, ErrorKind, QoS, Settlement};

use crate::{
    SECOND, SOON, Space, TICK, ack, in_group, next, nothing, nothing_within, publish, text,
};

const QOS: QoS = QoS::AtLeastOnce;

#[tokio::test]
async fn an_ack_is_final() {
    let space = Space::new();
    let bus = space.transport().await;
    let short = in_group(QOS, "g").with_ack_wait(SECOND);
    let mut subscription = bus.subscribe(&short).await.unwrap();
    for (i, settlement) in [
        Settlement::Ack,
        Settlement::Complete(Completion::new()),
        Settlement::Term,
    ]
    .into_iter()
    .enumerate()
    {
        publish(&*bus, QOS, &i.to_string()).await;
        let delivery = next(&mut *subscription).await;
        assert_eq!(text(&delivery), i.to_string());
        delivery.settle(settlement).await.unwrap();
    }
    nothing_within(SECOND * 5 / 2, &mut *subscription).await;
}

#[tokio::test]
async fn a_nak_comes_again_after_its_delay_and_not_before() {
    let space = Space::new();
    let bus = space.transport().await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    publish(&*bus, QOS, "a").await;
    let began = std::time::Instant::now();
    let after = SECOND / 2;
    next(&mut *subscription)
        .await
        .settle(Settlement::Nak { after })
        .await
        .unwrap();
    publish(&*bus, QOS, "b").await;
    let behind = next(&mut *subscription).await;
    assert_eq!(text(&behind), "b");
    let again = next(&mut *subscription).await;
    assert!(began.elapsed() + TICK >= after);
    assert_eq!((text(&again).as_str(), again.count()), ("a", 2));
    let began = std::time::Instant::now();
    again.settle(Settlement::Defer { after }).await.unwrap();
    let again = next(&mut *subscription).await;
    assert!(began.elapsed() + TICK >= after);
    assert_eq!(again.count(), 2);
    ack(again).await;
}

#[tokio::test]
async fn what_is_given_back_goes_to_another_at_once() {
    let space = Space::new();
    let (here, there) = (space.transport().await, space.transport().await);
    let mut one = here.subscribe(&in_group(QOS, "g")).await.unwrap();
    publish(&*here, QOS, "a").await;
    let delivery = next(&mut *one).await;
    one.close().await.unwrap();
    let mut two = there.subscribe(&in_group(QOS, "g")).await.unwrap();
    delivery
        .settle(Settlement::Release { began: false })
        .await
        .unwrap();
    let again = next(&mut *two).await;
    // What was not begun is not counted.
    assert_eq!((text(&again).as_str(), again.count()), ("a", 1));
    assert!(!again.may_have_run());
    ack(again).await;
}

#[tokio::test]
async fn what_was_fetched_and_not_received_goes_back_when_closed() {
    let space = Space::new();
    let (here, there) = (space.transport().await, space.transport().await);
    for i in 0..100 {
        publish(&*here, QOS, &i.to_string()).await;
    }
    let mut one = here.subscribe(&in_group(QOS, "g")).await.unwrap();
    for _ in 0..3 {
        ack(next(&mut *one).await).await;
    }
    one.close().await.unwrap();
    let error = one.recv(1, &mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    let mut two = there.subscribe(&in_group(QOS, "g")).await.unwrap();
    let mut seen = Vec::new();
    let by = tokio::time::Instant::now() + SOON;
    while seen.len() < 97 {
        let mut into = Vec::new();
        let received = tokio::time::timeout_at(by, two.recv(64, &mut into));
        received.await.expect("all come in time").unwrap();
        for delivery in into {
            seen.push(text(&delivery));
            ack(delivery).await;
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 97);
}

#[tokio::test]
async fn a_member_that_leaves_hands_on_what_it_did_not_finish() {
    let space = Space::new();
    let (here, there) = (space.transport().await, space.transport().await);
    let group = in_group(QOS, "g").with_ack_wait(SECOND);
    let mut one = here.subscribe(&group).await.unwrap();
    let mut held = Vec::new();
    for i in 0..10 {
        publish(&*there, QOS, &i.to_string()).await;
        let mut delivery = next(&mut *one).await;
        if i == 0 {
            held.push(delivery);
        } else {
            delivery.try_settle(&Settlement::Ack).unwrap().unwrap();
        }
    }
    one.close().await.unwrap();
    let first = held.pop().unwrap();
    let released = first.settle(Settlement::Release { began: true });
    released.await.unwrap();
    here.close().await.unwrap();
    let mut two = there.subscribe(&group).await.unwrap();
    let again = next(&mut *two).await;
    assert_eq!((text(&again).as_str(), again.may_have_run()), ("0", true));
    ack(again).await;
    nothing(&mut *two).await;
}

#[tokio::test]
async fn a_lease_that_is_extended_holds() {
    let space = Space::new();
    let bus = space.transport().await;
    let short = in_group(QOS, "g").with_ack_wait(SECOND * 2);
    let mut subscription = bus.subscribe(&short).await.unwrap();
    publish(&*bus, QOS, "a").await;
    let mut delivery = next(&mut *subscription).await;
    for _ in 0..6 {
        nothing(&mut *subscription).await;
        delivery.extend().await.unwrap();
    }
    ack(delivery).await;
    nothing(&mut *subscription).await;
}

#[tokio::test]
async fn a_lease_that_ran_out_settles_nothing_but_an_ack() {
    let space = Space::new();
    let bus = space.transport().await;
    let short = in_group(QOS, "g").with_ack_wait(SECOND);
    let mut subscription = bus.subscribe(&short).await.unwrap();
    publish(&*bus, QOS, "a").await;
    let mut first = next(&mut *subscription).await;
    let second = next(&mut *subscription).await;
    assert_eq!((first.count(), second.count()), (1, 2));
    assert_eq!(
        first.extend().await.unwrap_err().kind(),
        ErrorKind::LostOwnership
    );
    let after = SECOND;
    let late = first.settle(Settlement::Nak { after }).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::LostOwnership);
    let third = next(&mut *subscription).await;
    drop(second);
    // It was handled, if late.
    ack(third).await;
    nothing_within(SECOND * 3 / 2, &mut *subscription).await;
}

#[tokio::test]
async fn what_the_backend_cannot_do_with_a_claim_is_refused() {
    let space = Space::new();
    let bus = space.transport().await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    publish(&*bus, QOS, "a").await;
    let delivery = next(&mut *subscription).await;
    let effects = Some(catga_core::Effects::new(7));
    let completion = Completion::new().with_effects(effects);
    let refused = delivery
        .settle(Settlement::Complete(completion))
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_lease_is_that_of_the_member_who_holds_it() {
    let space = Space::new();
    let bus = space.transport().await;
    let group = || in_group(QOS, "g").with_max_in_flight(1);
    let short = group().with_ack_wait(SECOND / 5);
    let mut first = bus.subscribe(&short).await.unwrap();
    let mut second = bus.subscribe(&group().with_ack_wait(SOON)).await.unwrap();
    for i in 0..3 {
        publish(&*bus, QOS, &i.to_string()).await;
        let (mut one, mut other) = (Vec::new(), Vec::new());
        tokio::select! {
            received = first.recv(1, &mut one) => received.unwrap(),
            received = second.recv(1, &mut other) => received.unwrap(),
        }
        if let Some(delivery) = other.pop() {
            ack(delivery).await;
            continue;
        }
        let taken = next(&mut *second).await;
        assert_eq!((text(&taken), taken.count()), (i.to_string(), 2));
        let late = one
            .pop()
            .unwrap()
            .settle(Settlement::Release { began: true });
        let late = late.await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::LostOwnership);
        ack(taken).await;
    }
    nothing(&mut *second).await;
}
