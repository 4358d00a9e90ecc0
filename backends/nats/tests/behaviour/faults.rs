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
    NAME, SECOND, SOON, Space, ack, in_group, message, next, nothing, on_node, publish, text, until,
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
async fn nothing_acknowledged_is_lost_over_kills_of_the_server() {
    let mut server = NatsServer::start().unwrap();
    let space = Space::at(&server.url());
    let (here, there) = (space.transport().await, space.transport().await);
    let short = in_group(QOS, "g").with_ack_wait(SECOND);
    let mut subscription = there.subscribe(&short).await.unwrap();
    let (tell, mut stored) = tokio::sync::watch::channel(0);
    let publishing = tokio::spawn(async move {
        for i in 0..600_u32 {
            store(&*here, &i.to_string()).await;
            tell.send_replace(i);
            sleep(Duration::from_millis(5)).await;
        }
    });
    let handling = tokio::spawn(async move {
        handle_all(&mut *subscription, 0..600).await;
        subscription
    });
    // Each of them while messages are published: those before it are stored, and those after it are not.
    for before in [150, 300, 450] {
        let reached = stored.wait_for(|stored| *stored >= before);
        timeout(4 * SOON, reached).await.unwrap().unwrap();
        let killed = tokio::task::spawn_blocking(move || {
            server.kill().unwrap();
            server.restart().unwrap();
            server
        });
        server = killed.await.unwrap();
    }
    publishing.await.unwrap();
    handling.await.unwrap();
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
async fn an_ack_that_is_cut_off_leaves_the_outcome_unknown() {
    let server = NatsServer::start().unwrap();
    let proxy = Proxy::start(server.address(), 7).await.unwrap();
    let space = Space::at(&format!("nats://{}", proxy.address()));
    let bus = space.transport().await;
    publish(&*bus, QOS, "first").await;
    let mut envelope = message(QOS, "second");
    proxy.set(Direction::ToClient, Fault::BlackHole);
    let error = bus.publish(&mut envelope, SECOND / 2).await.unwrap_err();
    assert!(error.may_be_stored(), "{error:?}");
    proxy.heal();
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
async fn a_consumer_that_is_deleted_goes_on_where_it_was() {
    let space = Space::new();
    let bus = space
        .try_connect("?pull_heartbeat=300ms")
        .await
        .unwrap()
        .transport;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let jetstream = raw(crate::shared()).await;
    publish(&*bus, QOS, "0").await;
    ack(next(&mut *subscription).await).await;
    nothing(&mut *subscription).await;
    // While a pull waits.
    jetstream
        .delete_consumer_from_stream("g", &stream(&space))
        .await
        .unwrap();
    publish(&*bus, QOS, "1").await;
    handle_all(&mut *subscription, 1..2).await;
    // While none does: a pull that is sent later gets no answer at all.
    let held = in_group(QOS, "h").with_max_in_flight(1);
    let mut busy = bus.subscribe(&held).await.unwrap();
    let delivery = next(&mut *busy).await;
    jetstream
        .delete_consumer_from_stream("h", &stream(&space))
        .await
        .unwrap();
    drop(delivery);
    publish(&*bus, QOS, "2").await;
    handle_all(&mut *busy, 0..3).await;
}

#[tokio::test]
async fn a_stream_that_is_deleted_is_made_again() {
    let space = Space::new();
    let bus = space
        .try_connect("?pull_heartbeat=300ms")
        .await
        .unwrap()
        .transport;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    for i in 0..10 {
        publish(&*bus, QOS, &i.to_string()).await;
    }
    handle_all(&mut *subscription, 0..10).await;
    let jetstream = raw(crate::shared()).await;
    jetstream.delete_stream(stream(&space)).await.unwrap();
    let error = bus.publish(&mut message(QOS, "x"), SOON).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.may_be_stored()),
        (ErrorKind::NotFound, false)
    );
    for i in 10..20 {
        store(&*bus, &i.to_string()).await;
    }
    handle_all(&mut *subscription, 10..20).await;
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
async fn a_full_stream_rejects_and_recovers() {
    let space = Space::new();
    let bus = space
        .try_connect("?max_bytes=4000")
        .await
        .unwrap()
        .transport;
    let text = "x".repeat(500);
    let error = loop {
        if let Err(error) = bus.publish(&mut message(QOS, &text), SOON).await {
            break error;
        }
    };
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::LimitReached, Retry::Now)
    );
    assert!(!error.may_be_stored());
    let jetstream = raw(crate::shared()).await;
    let full = jetstream.get_stream(stream(&space)).await.unwrap();
    full.purge().await.unwrap();
    publish(&*bus, QOS, &text).await;
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

#[tokio::test]
async fn a_revoked_password_is_said_and_the_new_one_is_read() {
    let lines = |password| {
        let lines = format!("authorization {{ user: app, password: {password} }}");
        NatsOptions::default().config(&lines)
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "old").unwrap();
    let old = NatsServer::with(&lines("old")).unwrap();
    let new = NatsServer::with(&lines("new")).unwrap();
    let proxy = Proxy::start(old.address(), 7).await.unwrap();
    let (at, path) = (proxy.address(), file.path().display());
    let space = Space::at(&format!("nats://app@{at}?password_file={path}"));
    let bus = space.transport().await;
    publish(&*bus, QOS, "a").await;
    proxy.forward_to(new.address());
    proxy.reset();
    until("it is refused", || async {
        let published = bus.publish(&mut message(QOS, "b"), SECOND / 5).await;
        published.is_err_and(|error| error.kind() == ErrorKind::Permission)
    })
    .await;
    std::fs::write(file.path(), "new").unwrap();
    store(&*bus, "c").await;
}

#[tokio::test]
async fn nothing_is_left_behind() {
    let server = NatsServer::start().unwrap();
    let space = Space::at(&server.url());
    let bus = space.transport().await;
    publish(&*bus, QOS, "a").await;
    let subscriptions = || {
        let varz = server.get("/varz").unwrap();
        let (_, rest) = varz.split_once("\"subscriptions\":").unwrap();
        rest.trim_start()
            .split(',')
            .next()
            .unwrap()
            .parse::<u32>()
            .unwrap()
    };
    let round = async || {
        let group = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
        let node = bus.subscribe(&on_node(QoS::AtMostOnce, "n")).await.unwrap();
        drop((group, node));
    };
    round().await;
    sleep(SECOND / 4).await;
    let before = subscriptions();
    for _ in 0..50 {
        round().await;
    }
    until("all are gone", || async { subscriptions() <= before }).await;
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
