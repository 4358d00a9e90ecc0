use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use catga_core::{
    ConnectionState, ErrorKind, MessageId, QoS, Retry, Subscription, Target, Transport,
};
use catga_testkit::proxy::{Direction, Fault, Gate, Proxy};
use catga_testkit::server::{NatsOptions, NatsServer, Server};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    NAME, SECOND, SOON, Space, ack, in_group, message, next, nothing, publish, text, until,
};

const QOS: QoS = QoS::AtLeastOnce;
const STREAM: &str = "orders=created";

async fn raw(url: &str) -> jetstream::Context {
    jetstream::new(async_nats::connect(url).await.unwrap())
}

fn stream(space: &Space) -> String {
    format!("{}~{STREAM}", space.namespace)
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
            let _ = delivery.settle(catga_core::Settlement::Ack).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_member_held_goes_to_one_that_lives_once() {
    let server = NatsServer::start().unwrap();
    let proxy = Proxy::start(server.address(), 7).await.unwrap();
    let living = Space::at(&server.url());
    let dying = Space {
        url: format!("nats://{}", proxy.address()),
        namespace: living.namespace.clone(),
    };
    let (here, there) = (living.transport().await, dying.transport().await);
    let short = in_group(QOS, "g").with_ack_wait(SECOND);
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
    for _ in 0..8 {
        nothing(&mut *lives).await;
        for delivery in &mut held {
            delivery.extend().await.unwrap();
        }
    }
    proxy.gate(Gate::Refuse);
    proxy.reset();
    let mut seen = std::collections::BTreeMap::new();
    let by = Instant::now() + SECOND * 4;
    while Instant::now() < by {
        let mut into = Vec::new();
        let _ = tokio::time::timeout_at(by, lives.recv(64, &mut into)).await;
        for delivery in into {
            seen.entry(text(&delivery))
                .or_insert_with(Vec::new)
                .push(delivery.count());
            ack(delivery).await;
        }
    }
    assert_eq!(seen.len(), 20, "{seen:?}");
    assert!(seen.values().all(|counts| *counts == [2]), "{seen:?}");
}

#[tokio::test]
async fn a_publish_to_a_paused_server_may_be_stored_and_its_retry_is_a_duplicate() {
    let mut server = NatsServer::start().unwrap();
    let space = Space::at(&server.url());
    let bus = space.transport().await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    publish(&*bus, QOS, "before").await;
    server.pause().unwrap();
    let mut envelope = message(QOS, "paused");
    let began = Instant::now();
    let error = bus.publish(&mut envelope, SECOND / 2).await.unwrap_err();
    assert!(began.elapsed() < SECOND / 2 + Duration::from_millis(250));
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.may_be_stored());
    server.resume().unwrap();
    assert!(bus.publish(&mut envelope, SOON).await.unwrap().duplicate);
    for expected in ["before", "paused"] {
        let delivery = next(&mut *subscription).await;
        assert_eq!(text(&delivery), expected);
        ack(delivery).await;
    }
    nothing(&mut *subscription).await;
}

#[tokio::test]
async fn a_connection_that_is_lost_ends_the_wait_for_an_answer() {
    let server = NatsServer::start().unwrap();
    let proxy = Proxy::start(server.address(), 7).await.unwrap();
    let space = Space::at(&format!("nats://{}", proxy.address()));
    let bus = space.transport().await;
    publish(&*bus, QOS, "first").await;
    let jetstream = raw(&server.url()).await;
    proxy.set(Direction::ToClient, Fault::BlackHole);
    let unanswered = tokio::spawn({
        let bus = Arc::clone(&bus);
        async move {
            let mut envelope = message(QOS, "second");
            let outcome = bus.publish(&mut envelope, SOON).await;
            (envelope, outcome)
        }
    });
    until("it is stored", async || {
        let mut stored = jetstream.get_stream(stream(&space)).await.unwrap();
        stored.info().await.unwrap().state.messages == 2
    })
    .await;
    proxy.set(Direction::ToClient, Fault::Pass);
    let lost = Instant::now();
    proxy.reset();
    let (mut envelope, outcome) = unanswered.await.unwrap();
    let error = outcome.unwrap_err();
    assert!(lost.elapsed() < SECOND, "{:?}", lost.elapsed());
    assert_eq!(
        (error.kind(), error.retry(), error.may_be_stored()),
        (ErrorKind::Unavailable, Retry::Reconnect, true),
        "{error:?}"
    );
    assert!(bus.publish(&mut envelope, SOON).await.unwrap().duplicate);
}

#[tokio::test]
async fn without_a_connection_nothing_is_stored_and_every_call_ends() {
    let mut server = NatsServer::start().unwrap();
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
async fn a_stream_in_memory_is_made_again_after_a_restart() {
    let mut server = NatsServer::start().unwrap();
    let space = Space::at(&server.url());
    let options = "?storage=memory&pull_heartbeat=300ms";
    let bus = space.try_connect(options).await.unwrap().transport;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    publish(&*bus, QOS, "0").await;
    handle_all(&mut *subscription, 0..1).await;
    server.kill().unwrap();
    server.restart().unwrap();
    store(&*bus, "1").await;
    handle_all(&mut *subscription, 1..2).await;
}

#[tokio::test]
async fn without_jetstream_one_clear_error_says_so() {
    let server = NatsServer::with(&NatsOptions::default().without_jetstream()).unwrap();
    let bus = Space::at(&server.url()).transport().await;
    publish(&*bus, QoS::AtMostOnce, "still works").await;
    let began = Instant::now();
    let errors = [
        bus.publish(&mut message(QOS, "a"), SOON).await.unwrap_err(),
        bus.subscribe(&in_group(QOS, "g")).await.unwrap_err(),
    ];
    for error in errors {
        let kind = error.kind();
        assert!(
            [ErrorKind::Unavailable, ErrorKind::Unsupported].contains(&kind),
            "{error:?}"
        );
        assert!(
            !error.may_be_stored() && error.message().contains("JetStream"),
            "{error:?}"
        );
    }
    assert!(began.elapsed() < SOON / 4);
}

#[tokio::test]
async fn a_full_stream_makes_room_by_what_all_groups_have_handled() {
    let space = Space::new();
    let bounded = space.try_connect("?max_bytes=20000").await.unwrap();
    let bus = bounded.transport;
    let mut quick = bus.subscribe(&in_group(QOS, "quick")).await.unwrap();
    let mut slow = bus.subscribe(&in_group(QOS, "slow")).await.unwrap();
    let fill = async |from: u32| {
        for i in from.. {
            let text = format!("{i:0500}");
            if let Err(error) = bus.publish(&mut message(QOS, &text), SOON).await {
                assert_eq!(error.kind(), ErrorKind::LimitReached, "{error:?}");
                return i;
            }
        }
        unreachable!("the stream has a bound")
    };
    let stored = fill(0).await;
    handle_all(&mut *quick, 0..stored).await;
    // One group alone makes no room: the other still needs all of it.
    let jetstream = raw(crate::shared()).await;
    let mut kept = jetstream.get_stream(stream(&space)).await.unwrap();
    for _ in 0..3 {
        nothing(&mut *quick).await;
        assert_eq!(fill(stored).await, stored);
    }
    assert_eq!(kept.info().await.unwrap().state.messages, u64::from(stored));
    handle_all(&mut *slow, 0..stored).await;
    store(&*bus, &format!("{stored:0500}")).await;
    handle_all(&mut *quick, stored..=stored).await;
    handle_all(&mut *slow, stored..=stored).await;
    assert!(kept.info().await.unwrap().state.first_sequence > u64::from(stored));
}

#[tokio::test]
async fn what_may_not_be_published_is_rejected_and_not_waited_for() {
    let lines = "authorization { users: [ { user: app, password: app, permissions: { publish: { deny: [\"*.s.>\", \"*.r.>\"] } } } ] }";
    let server = NatsServer::with(&NatsOptions::default().config(lines)).unwrap();
    let space = Space::at(&format!("nats://app:app@{}", server.address()));
    let bus = space.transport().await;
    let began = Instant::now();
    let error = bus.publish(&mut message(QOS, "a"), SOON).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Permission, Retry::Never)
    );
    assert!(!error.may_be_stored());
    let to = Target::Service(NAME);
    let asked = bus.request(&to, &message(QOS, "a"), 1, Some(SOON)).await;
    assert_eq!(asked.unwrap_err().kind(), ErrorKind::Permission);
    assert!(began.elapsed() < SOON / 4);
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
            loop {
                let answer = bus.request(&to, &own, 1, Some(SOON)).await;
                // While the abandoned ones fill the server's queue it is sent away.
                match answer {
                    Ok(reply) if reply.result.is_err() => sleep(SECOND / 100).await,
                    answer => return answer,
                }
            }
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
                .settle(catga_core::Settlement::Complete(completion))
                .await
                .unwrap();
        }
        if found {
            break asking.await.unwrap();
        }
    };
    assert_eq!(answered.unwrap().result.unwrap(), "own");
}
