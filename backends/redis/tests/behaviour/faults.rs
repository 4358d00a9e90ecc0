use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use catga_core::{
    ConnectionState, ErrorKind, MessageId, QoS, Retry, Settlement, Subscription, Target, Transport,
};
use catga_testkit::proxy::{Direction, Fault, Gate, Proxy};
use catga_testkit::server::{RedisServer, Server};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    NAME, SECOND, SOON, Space, TICK, ack, in_group, message, next, nothing, nothing_within, number,
    publish, text, until,
};

const QOS: QoS = QoS::AtLeastOnce;

fn stream(space: &Space) -> String {
    format!("{{{}:{NAME}}}", space.namespace)
}

/// Publishes with one id until it is stored, as the runtime does.
async fn store(bus: &dyn Transport, text: &str) {
    let by = Instant::now() + SOON;
    let mut envelope = message(QOS, text).with_id(MessageId::from_key(text));
    while let Err(error) = bus.publish(&mut envelope, SECOND).await {
        assert_ne!(error.retry(), Retry::Never, "{error:?}");
        assert!(Instant::now() < by, "{error:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Handles what comes until all of these have.
async fn handle_all(subscription: &mut dyn Subscription, expected: impl Iterator<Item = u32>) {
    let mut missing: BTreeSet<u32> = expected.collect();
    let by = Instant::now() + SOON * 2;
    while !missing.is_empty() {
        let mut into = Vec::new();
        let received = timeout(SECOND, subscription.recv(64, &mut into)).await;
        assert!(Instant::now() < by, "missing: {missing:?} {received:?}");
        for delivery in into {
            missing.remove(&text(&delivery).parse().unwrap());
            let _ = delivery.settle(Settlement::Ack).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_member_held_goes_to_one_that_lives_once() {
    let server = RedisServer::start().unwrap();
    let proxy = Proxy::start(server.address(), 7).await.unwrap();
    let living = Space::at(&server.url());
    let dying = Space {
        url: format!("redis://{}", proxy.address()),
        namespace: living.namespace.clone(),
    };
    let (here, there) = (living.transport().await, dying.transport().await);
    let lease = SECOND * 2;
    let short = in_group(QOS, "g").with_ack_wait(lease);
    let mut dying = there
        .subscribe(&short.clone().with_max_in_flight(20))
        .await
        .unwrap();
    for i in 0..20 {
        publish(&*here, QOS, &i.to_string()).await;
    }
    let mut held = Vec::new();
    while held.len() < 20 {
        dying.recv(20, &mut held).await.unwrap();
    }
    let mut lives = here.subscribe(&short).await.unwrap();
    for _ in 0..6 {
        nothing(&mut *lives).await;
        for delivery in &mut held {
            delivery.extend().await.unwrap();
        }
    }
    proxy.gate(Gate::Refuse);
    proxy.reset();
    let mut seen = BTreeMap::new();
    for _ in 0..20 {
        let delivery = next(&mut *lives).await;
        seen.insert(text(&delivery), delivery.count());
        ack(delivery).await;
    }
    assert_eq!(seen.len(), 20, "{seen:?}");
    assert!(seen.values().all(|count| *count == 2), "{seen:?}");
    nothing_within(lease * 3 / 2, &mut *lives).await;
}

#[tokio::test]
async fn a_publish_to_a_paused_server_may_be_stored() {
    let mut server = RedisServer::start().unwrap();
    let space = Space::at(&server.url());
    let bus = space.transport().await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    publish(&*bus, QOS, "before").await;
    server.pause().unwrap();
    let mut envelope = message(QOS, "paused");
    let began = Instant::now();
    let error = bus.publish(&mut envelope, SECOND / 2).await.unwrap_err();
    // Half a second more for a machine that does something else meanwhile.
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.may_be_stored());
    server.resume().unwrap();
    for expected in ["before", "paused"] {
        let delivery = next(&mut *subscription).await;
        assert_eq!(text(&delivery), expected);
        ack(delivery).await;
    }
}

#[tokio::test]
async fn without_a_connection_nothing_is_stored_and_every_call_ends() {
    let mut server = RedisServer::start().unwrap();
    let space = Space::at(&server.url());
    let bus = space
        .try_connect("?call_timeout=300ms")
        .await
        .unwrap()
        .transport;
    publish(&*bus, QOS, "before").await;
    server.kill().unwrap();
    until("it is known", || async {
        bus.state() == ConnectionState::Reconnecting
    })
    .await;
    let began = Instant::now();
    let error = bus
        .publish(&mut message(QOS, "a"), SECOND / 4)
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Unavailable, Retry::Reconnect)
    );
    assert!(!error.may_be_stored());
    let error = bus.subscribe(&in_group(QOS, "g")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    bus.close().await.unwrap_err();
    assert_eq!(bus.state(), ConnectionState::Closed);
    assert!(began.elapsed() < SOON / 2);
}

#[tokio::test]
async fn what_was_read_and_did_not_arrive_comes_soon_and_as_a_first_delivery() {
    let server = RedisServer::start().unwrap();
    let proxy = Proxy::start(server.address(), 7).await.unwrap();
    let living = Space::at(&server.url());
    let cut = Space {
        url: format!("redis://{}", proxy.address()),
        namespace: living.namespace.clone(),
    };
    let (here, there) = (living.transport().await, cut.transport().await);
    let mut subscription = there.subscribe(&in_group(QOS, "g")).await.unwrap();
    publish(&*here, QOS, "first").await;
    ack(next(&mut *subscription).await).await;
    nothing(&mut *subscription).await;
    // While a read waits at the server: what it answers goes nowhere.
    proxy.set(Direction::ToClient, Fault::BlackHole);
    publish(&*here, QOS, "lost").await;
    let pending = stream(&living);
    until("it was handed out", || async {
        let found = ["XPENDING", &pending, "g", "-", "+", "10"];
        number(&living.url, &found).await == 1
    })
    .await;
    let began = Instant::now();
    proxy.heal();
    proxy.reset();
    let again = next(&mut *subscription).await;
    assert_eq!((text(&again).as_str(), again.count()), ("lost", 1));
    assert!(
        began.elapsed() < SECOND * 10,
        "well before its lease of 30 s"
    );
    ack(again).await;
}

#[tokio::test]
async fn a_reply_that_is_late_strands_nothing() {
    let server = RedisServer::start().unwrap();
    let proxy = Proxy::start(server.address(), 7).await.unwrap();
    let space = Space::at(&format!("redis://{}", proxy.address()));
    let bus = space.transport().await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    proxy.set(
        Direction::ToClient,
        Fault::Delay {
            by: Duration::from_millis(700),
            jitter: Duration::ZERO,
        },
    );
    for i in 0..5 {
        publish(&*bus, QOS, &i.to_string()).await;
    }
    for i in 0..5 {
        let delivery = next(&mut *subscription).await;
        assert_eq!((text(&delivery), delivery.count()), (i.to_string(), 1));
        ack(delivery).await;
    }
}

#[tokio::test]
async fn after_everything_was_flushed_it_goes_on() {
    let server = RedisServer::start().unwrap();
    let space = Space::at(&server.url());
    let bus = space.transport().await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let partitions = std::num::NonZeroU16::new(4);
    let ordered = in_group(QOS, "ordered").with_ordered(partitions);
    let mut ordered = bus.subscribe(&ordered).await.unwrap();
    let mut event = bus
        .subscribe(&in_group(QoS::AtMostOnce, "e"))
        .await
        .unwrap();
    for round in 0..3_u32 {
        server.ask("FLUSHALL").unwrap();
        for i in 0..20 {
            store(&*bus, &(round * 20 + i).to_string()).await;
        }
        handle_all(&mut *subscription, round * 20..round * 20 + 20).await;
        handle_all(&mut *ordered, round * 20..round * 20 + 20).await;
        let by = Instant::now() + SOON;
        let mut into = Vec::new();
        while into.is_empty() {
            assert!(Instant::now() < by, "events are heard again");
            publish(&*bus, QoS::AtMostOnce, "event").await;
            let _ = timeout(SECOND / 10, event.recv(1, &mut into)).await;
        }
    }
}

#[tokio::test]
async fn what_all_groups_acked_is_deleted_and_nothing_else() {
    let space = Space::new();
    let bus = space.transport().await;
    let stream = stream(&space);
    let mut quick = bus.subscribe(&in_group(QOS, "quick")).await.unwrap();
    let mut slow = bus.subscribe(&in_group(QOS, "slow")).await.unwrap();
    for i in 0..10 {
        publish(&*bus, QOS, &i.to_string()).await;
    }
    handle_all(&mut *quick, 0..10).await;
    for _ in 0..4 {
        ack(next(&mut *slow).await).await;
    }
    let held = next(&mut *slow).await;
    until("six are left", || async {
        number(crate::shared(), &["XLEN", &stream]).await == 6
    })
    .await;
    ack(held).await;
    handle_all(&mut *slow, 5..10).await;
    until("none is left", || async {
        number(crate::shared(), &["XLEN", &stream]).await == 0
    })
    .await;
}

#[tokio::test]
async fn the_bound_of_the_user_is_obeyed() {
    let space = Space::new();
    let bus = space.try_connect("?max_len=10").await.unwrap().transport;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    subscription.close().await.unwrap();
    for i in 0..50 {
        publish(&*bus, QOS, &i.to_string()).await;
    }
    let stream = stream(&space);
    until("ten are left", || async {
        number(crate::shared(), &["XLEN", &stream]).await == 10
    })
    .await;
    let mut late = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    handle_all(&mut *late, 40..50).await;
}

#[tokio::test]
async fn what_a_server_refuses_is_certainly_not_stored() {
    let server = RedisServer::start().unwrap();
    let space = Space::at(&server.url());
    let bus = space
        .try_connect("?call_timeout=1s")
        .await
        .unwrap()
        .transport;
    publish(&*bus, QOS, "a").await;
    server.ask("CONFIG SET min-replicas-to-write 1").unwrap();
    let error = bus.publish(&mut message(QOS, "x"), SOON).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.may_be_stored()),
        (ErrorKind::Unavailable, false),
        "{error:?}"
    );
    assert_eq!(error.context("code"), Some("NOREPLICAS"));
    server.ask("CONFIG SET min-replicas-to-write 0").unwrap();
    server.ask("REPLICAOF 127.0.0.1 1").unwrap();
    let error = bus
        .publish(&mut message(QOS, "x"), SECOND)
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.retry(), error.may_be_stored()),
        (ErrorKind::Unavailable, Retry::Reconnect, false),
        "{error:?}"
    );
    server.ask("REPLICAOF NO ONE").unwrap();
    store(&*bus, "b").await;
    let stream = stream(&space);
    assert_eq!(number(&space.url, &["XLEN", &stream]).await, 2);
}

#[tokio::test]
async fn fewer_replicas_than_asked_for_leave_the_outcome_unknown() {
    let server = RedisServer::start().unwrap();
    let space = Space::at(&server.url());
    let options = "?wait_replicas=1&call_timeout=400ms";
    let bus = space.try_connect(options).await.unwrap().transport;
    let error = bus.publish(&mut message(QOS, "a"), SOON).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.may_be_stored()),
        (ErrorKind::Unavailable, true),
        "{error:?}"
    );
    let replica = RedisServer::start().unwrap();
    let (host, port) = (server.address().ip(), server.address().port());
    replica.ask(&format!("REPLICAOF {host} {port}")).unwrap();
    until("the replica follows", || async {
        replica
            .ask("INFO replication")
            .unwrap()
            .contains("master_link_status:up")
    })
    .await;
    store(&*bus, "b").await;
}

#[tokio::test]
async fn delays_of_all_lengths_live_on_one_stream() {
    let space = Space::new();
    let (bus, there) = (space.transport().await, space.transport().await);
    let short = in_group(QOS, "g").with_ack_wait(SECOND);
    let mut subscription = bus.subscribe(&short).await.unwrap();
    let delays = [SECOND, SECOND * 2, SECOND * 3, SECOND * 600];
    for i in 0..delays.len() {
        publish(&*bus, QOS, &i.to_string()).await;
    }
    let began = Instant::now();
    for _ in &delays {
        let delivery = next(&mut *subscription).await;
        let after = delays[text(&delivery).parse::<usize>().unwrap()];
        delivery.settle(Settlement::Nak { after }).await.unwrap();
    }
    // They are the group's, not this member's.
    subscription.close().await.unwrap();
    let mut other = there.subscribe(&short).await.unwrap();
    for (i, delay) in delays.iter().take(3).enumerate() {
        let again = next(&mut *other).await;
        assert_eq!((text(&again), again.count()), (i.to_string(), 2));
        let age = began.elapsed();
        assert!(age + TICK >= *delay && age < *delay * 8, "{i}: {age:?}");
        ack(again).await;
    }
    nothing(&mut *other).await;
}

#[tokio::test]
async fn a_member_that_owns_nothing_is_removed() {
    let space = Space::new();
    let bus = space.transport().await;
    let stream = stream(&space);
    let consumers = async || number(crate::shared(), &["XINFO", "CONSUMERS", &stream, "g"]).await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    publish(&*bus, QOS, "a").await;
    let held = next(&mut *subscription).await;
    subscription.close().await.unwrap();
    assert_eq!(consumers().await, 1, "it holds one");
    ack(held).await;
    for _ in 0..20 {
        let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
        publish(&*bus, QOS, "a").await;
        ack(next(&mut *subscription).await).await;
        subscription.close().await.unwrap();
    }
    assert!(consumers().await <= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_given_up_leave_nothing_and_disturb_nobody() {
    let space = Space::new();
    let bus: Arc<dyn Transport> = space.transport().await;
    let node = catga_core::NodeId::from_static("n");
    let serve = catga_core::Serve::new(NAME, NAME, node).with_max_in_flight(100_000);
    let mut server = bus.serve(&serve).await.unwrap();
    let to = Target::Service(NAME);
    let asked = message(QOS, "a").with_id(MessageId::new());
    for _ in 0..20_000 {
        let request = bus.request(&to, &asked, 1, Some(SOON));
        let _ = timeout(Duration::ZERO, request).await;
    }
    let asking = {
        let (bus, to) = (Arc::clone(&bus), to.clone());
        tokio::spawn(async move {
            let own = message(QOS, "own").with_id(MessageId::new());
            bus.request(&to, &own, 1, Some(SOON)).await
        })
    };
    // Those that arrived are answered late, while one waits for its own.
    let mut into = Vec::new();
    let answered = loop {
        server.recv(64, &mut into).await.unwrap();
        let mut found = false;
        for delivery in into.drain(..) {
            let own = text(&delivery) == "own";
            found |= own;
            let reply = catga_core::Reply::ok(text(&delivery).into());
            let completion = catga_core::Completion::new().with_response(reply);
            delivery
                .settle(Settlement::Complete(completion))
                .await
                .unwrap();
        }
        if found {
            break asking.await.unwrap();
        }
    };
    assert_eq!(answered.unwrap().result.unwrap(), "own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_reply_that_nobody_heard_may_ask_again() {
    let server = RedisServer::start().unwrap();
    let proxy = Proxy::start(server.address(), 7).await.unwrap();
    let living = Space::at(&server.url());
    let cut = Space {
        url: format!("redis://{}", proxy.address()),
        namespace: living.namespace.clone(),
    };
    let here = living.transport().await;
    let node = catga_core::NodeId::from_static("n");
    let serve = catga_core::Serve::new(NAME, NAME, node);
    let mut serving = here.serve(&serve).await.unwrap();
    let channels = format!("{{{}::replies}}*", living.namespace);
    let listening = async || number(&living.url, &["PUBSUB", "CHANNELS", &channels]).await;
    for (qos, time) in [(QOS, SOON * 2), (QoS::AtMostOnce, SECOND * 4)] {
        let there = cut.transport().await;
        let asked = {
            let there = Arc::clone(&there);
            tokio::spawn(async move {
                let envelope = message(qos, "a").with_id(MessageId::new());
                there
                    .request(&Target::Service(NAME), &envelope, 1, Some(time))
                    .await
            })
        };
        let delivery = next(&mut *serving).await;
        // Its caller knows that it was taken.
        there.flush().await.unwrap();
        let began = Instant::now();
        proxy.gate(Gate::Refuse);
        proxy.reset();
        until("nobody listens", async || listening().await == 1).await;
        let completion =
            catga_core::Completion::new().with_response(catga_core::Reply::ok("b".into()));
        delivery
            .settle(Settlement::Complete(completion))
            .await
            .unwrap();
        here.flush().await.unwrap();
        proxy.gate(Gate::Open);
        let error = asked.await.unwrap().unwrap_err();
        assert!(error.may_be_stored());
        let told = (error.kind(), error.retry());
        if qos == QoS::AtMostOnce {
            // It is not asked again: the answer might still come.
            assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
        } else {
            assert_eq!(
                told,
                (ErrorKind::Unavailable, Retry::Reconnect),
                "{error:?}"
            );
            assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        }
    }
}
