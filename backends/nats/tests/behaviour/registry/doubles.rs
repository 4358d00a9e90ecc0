//! Two nodes, one id.

use catga_core::{ErrorKind, NodeEvent};
use catga_testkit::proxy::{Direction, Fault, Gate, Proxy};
use catga_testkit::server::{NatsServer, Server};
use tokio::time::{Instant, sleep};

use super::{
    BEAT, Following, Means, TIMEOUT, beating, ids, kind, next, node, nothing, seat, seat_with,
};
use crate::{SECOND, SOON, Space, until};

#[tokio::test]
async fn a_live_double_is_refused_by_kv() {
    a_live_double_is_refused(Means::Kv).await;
}

#[tokio::test]
async fn a_live_double_is_refused_by_pubsub() {
    a_live_double_is_refused(Means::PubSub).await;
}

async fn a_live_double_is_refused(means: Means) {
    let space = Space::new();
    let (here, there) = (seat(&space, means).await, seat(&space, means).await);
    let (first, second) = (node("a"), node("a"));
    here.register(&first).await.unwrap();
    let mut watch = Following::of(&*there).await;
    watch.until(&["a"]).await;
    for registry in [&there, &here] {
        let refused = registry.register(&second).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::DuplicateNode);
        assert!(refused.message().contains("`a`"), "{refused}");
        assert_eq!(
            kind(registry.heartbeat(&second).await),
            ErrorKind::LostOwnership
        );
        assert_eq!(
            kind(registry.unregister(&second).await),
            ErrorKind::LostOwnership
        );
    }
    here.register(&first).await.unwrap();
    here.heartbeat(&first).await.unwrap();
    nothing(&mut *watch.watch, SECOND / 4).await;
    here.unregister(&first).await.unwrap();
    there.register(&second).await.unwrap();
    watch.until(&[]).await;
    watch.until(&["a"]).await;
    assert_eq!(watch.there["a"], second.incarnation);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_register_at_once_one_is_refused_by_kv() {
    of_two_that_register_at_once_one_is_refused(Means::Kv, 50).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_register_at_once_one_is_refused_by_pubsub() {
    of_two_that_register_at_once_one_is_refused(Means::PubSub, 8).await;
}

async fn of_two_that_register_at_once_one_is_refused(means: Means, rounds: u32) {
    let space = Space::new();
    let (here, there) = (seat(&space, means).await, seat(&space, means).await);
    for round in 0..rounds {
        let (one, two) = (node(format!("n{round}")), node(format!("n{round}")));
        let (first, second) = tokio::join!(here.register(&one), there.register(&two));
        let winner = match (first, second) {
            (Ok(()), Err(refused)) => (one, refused),
            (Err(refused), Ok(())) => (two, refused),
            both => panic!("in round {round}: {both:?}"),
        };
        assert_eq!(winner.1.kind(), ErrorKind::DuplicateNode, "{:?}", winner.1);
        for registry in [&here, &there] {
            let nodes = registry.nodes().await.unwrap();
            let found = nodes.iter().find(|node| node.id == winner.0.id);
            assert_eq!(found.unwrap().incarnation, winner.0.incarnation);
        }
    }
}

#[tokio::test]
async fn who_comes_back_while_its_successor_lives_is_powerless_by_kv() {
    who_comes_back_while_its_successor_lives_is_powerless(Means::Kv).await;
}

#[tokio::test]
async fn who_comes_back_while_its_successor_lives_is_powerless_by_pubsub() {
    who_comes_back_while_its_successor_lives_is_powerless(Means::PubSub).await;
}

async fn who_comes_back_while_its_successor_lives_is_powerless(means: Means) {
    let space = Space::new();
    let here = seat_with(&space, means, "", TIMEOUT).await;
    let there = seat_with(&space, means, "", TIMEOUT).await;
    let (first, second) = (node("a"), node("a"));
    here.register(&first).await.unwrap();
    let mut watch = Following::of(&*there).await;
    watch.until(&["a"]).await;
    watch.until(&[]).await;
    let _second = beating(&there, &second, BEAT).await;
    watch.until(&["a"]).await;
    // Three time-outs later.
    sleep(TIMEOUT * 2).await;
    assert_eq!(kind(here.heartbeat(&first).await), ErrorKind::LostOwnership);
    assert_eq!(
        kind(here.unregister(&first).await),
        ErrorKind::LostOwnership
    );
    assert_eq!(kind(here.register(&first).await), ErrorKind::DuplicateNode);
    watch.for_long(SECOND).await;
    assert_eq!(watch.log, ["+a", "-a", "+a"]);
    assert_eq!(watch.there["a"], second.incarnation);
    assert_eq!(ids(&*here).await, ["a"]);
}

#[tokio::test]
async fn a_successor_replaces_its_dead_predecessor_as_one_leaving_and_one_joining() {
    let space = Space::new();
    let here = seat_with(&space, Means::Kv, "", TIMEOUT).await;
    let (first, second) = (node("a"), node("a"));
    here.register(&first).await.unwrap();
    let refused = here.register(&second).await.unwrap_err();
    assert!(refused.message().contains("free in "), "{refused}");
    let mut watch = here.watch().await.unwrap();
    until("it is free", async || here.register(&second).await.is_ok()).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        match next(&mut *watch).await {
            NodeEvent::Joined(node) => seen.push((true, node.incarnation)),
            NodeEvent::Left(node) => seen.push((false, node.incarnation)),
            other => panic!("{other:?}"),
        }
    }
    let expected = [
        (true, first.incarnation),
        (false, first.incarnation),
        (true, second.incarnation),
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_registration_that_nobody_waits_for_leaves_nothing() {
    for means in [Means::Kv, Means::PubSub] {
        let space = Space::new();
        let here = seat(&space, means).await;
        here.register(&node("other")).await.unwrap();
        for millis in 0..20 {
            let a = node("a");
            let limit = std::time::Duration::from_micros(millis * 100);
            let began = tokio::time::timeout(limit, here.register(&a)).await;
            here.unregister(&a).await.unwrap();
            drop(began);
            assert_eq!(ids(&*here).await, ["other"], "after {limit:?}");
        }
        here.register(&node("a")).await.unwrap();
    }
}

#[tokio::test]
async fn the_id_of_a_process_that_is_gone_is_free_soon_and_of_one_that_is_paused_later() {
    let server = NatsServer::start().unwrap();
    let proxy = Proxy::start(server.address(), 7).await.unwrap();
    let space = Space::at(&server.url());
    let behind = Space {
        url: format!("nats://{}", proxy.address()),
        namespace: space.namespace.clone(),
    };
    let timeout = TIMEOUT * 5;
    let here = seat_with(&space, Means::Kv, "", timeout).await;
    let mut watch = Following::of(&*here).await;
    // Killed: nobody says goodbye, and its connection is gone.
    let gone = seat_with(&behind, Means::Kv, "", SOON).await;
    let (first, second, third) = (node("a"), node("a"), node("a"));
    gone.register(&first).await.unwrap();
    watch.until(&["a"]).await;
    proxy.gate(Gate::Refuse);
    proxy.reset();
    let began = Instant::now();
    here.register(&second).await.unwrap();
    assert!(began.elapsed() < timeout, "{:?}", began.elapsed());
    here.unregister(&second).await.unwrap();
    drop(gone);
    proxy.gate(Gate::Open);
    // Paused: its connection is there, and nobody answers on it.
    let paused = seat_with(&behind, Means::Kv, "", SOON).await;
    paused.register(&second).await.unwrap();
    let began = Instant::now();
    proxy.set(Direction::ToClient, Fault::BlackHole);
    proxy.set(Direction::ToServer, Fault::BlackHole);
    assert_eq!(kind(here.register(&third).await), ErrorKind::DuplicateNode);
    until("its id is free", async || {
        here.register(&third).await.is_ok()
    })
    .await;
    assert!(
        began.elapsed() + SECOND / 4 >= timeout,
        "{:?}",
        began.elapsed()
    );
    watch.for_long(SECOND / 2).await;
    assert_eq!(watch.there["a"], third.incarnation);
    assert_eq!(
        watch.log.iter().filter(|event| *event == "+a").count(),
        4,
        "{:?}",
        watch.log
    );
}

#[tokio::test]
async fn who_is_only_connecting_again_keeps_its_id() {
    let server = NatsServer::start().unwrap();
    let proxy = Proxy::start(server.address(), 7).await.unwrap();
    let space = Space::at(&server.url());
    let behind = Space {
        url: format!("nats://{}", proxy.address()),
        namespace: space.namespace.clone(),
    };
    let here = seat_with(&space, Means::Kv, "", SOON * 10).await;
    // Its calls are too short to wait for an answer again.
    let hasty = seat_with(&space, Means::Kv, "&call_timeout=500ms", SOON * 10).await;
    let there = seat_with(&behind, Means::Kv, "", SOON * 10).await;
    let first = node("a");
    there.register(&first).await.unwrap();
    proxy.gate(Gate::Refuse);
    proxy.reset();
    let opened = async {
        sleep(SECOND).await;
        proxy.gate(Gate::Open);
    };
    let (second, third) = (node("a"), node("a"));
    let (by_here, by_hasty, ()) =
        tokio::join!(here.register(&second), hasty.register(&third), opened);
    assert_eq!(kind(by_here), ErrorKind::DuplicateNode);
    assert_eq!(kind(by_hasty), ErrorKind::DuplicateNode);
    there.heartbeat(&first).await.unwrap();
    // Gone for good: who asks again in time gets the id.
    proxy.gate(Gate::Refuse);
    proxy.reset();
    let began = Instant::now();
    until("its id is free", async || {
        hasty.register(&third).await.is_ok()
    })
    .await;
    assert!(began.elapsed() > SECOND * 3, "{:?}", began.elapsed());
}
