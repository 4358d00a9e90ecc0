//! More than one server: sentinels, a cluster.

use std::time::Duration;

use catga_core::{
    Bytes, Consumers, Envelope, ErrorKind, Name, QoS, Settlement, Subscribe, Transport,
};
use catga_testkit::proxy::{Direction, Fault, Proxy};
use catga_testkit::server::{RedisCluster, RedisOptions, RedisSentinel, Server as _};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    NAME, SECOND, SOON, Space, ack, in_group, message, next, on_node, publish, text, until,
};

const QOS: QoS = QoS::AtLeastOnce;

/// Publishes with one id until it is stored, as the runtime does.
async fn store(bus: &dyn Transport, name: &Name, text: &str) {
    let by = Instant::now() + SOON * 2;
    let body = Bytes::copy_from_slice(text.as_bytes());
    let mut envelope = Envelope::received(name.clone(), QOS, body);
    while let Err(error) = bus.publish(&mut envelope, SECOND * 2).await {
        assert!(Instant::now() < by, "{error:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_say_where_the_primary_is_also_after_a_fail_over() {
    let options = RedisOptions::default().append_only();
    let starting = tokio::task::spawn_blocking(move || RedisSentinel::start(&options).unwrap());
    let mut servers = starting.await.unwrap();
    let hosts: Vec<_> = servers
        .sentinels()
        .iter()
        .map(ToString::to_string)
        .collect();
    let space = Space::at(&format!("redis://{}", hosts.join(",")));
    let unknown = space
        .try_connect("?sentinel=nobody&connect_timeout=3s")
        .await;
    assert_eq!(unknown.unwrap_err().kind(), ErrorKind::Connect);
    let url = format!(
        "?sentinel={}&wait_replicas=1&call_timeout=2s",
        servers.name()
    );
    let bus = space.try_connect(&url).await.unwrap().transport;
    let short = in_group(QOS, "g").with_ack_wait(SECOND);
    let mut subscription = bus.subscribe(&short).await.unwrap();
    for i in 0..10 {
        publish(&*bus, QOS, &i.to_string()).await;
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..5 {
        let delivery = next(&mut *subscription).await;
        seen.insert(text(&delivery));
        ack(delivery).await;
    }
    let failing = tokio::task::spawn_blocking(move || {
        let from = servers.primary().unwrap();
        servers.server_mut(from).kill().unwrap();
        servers.wait_for_fail_over(from).unwrap();
        servers
    });
    let servers = failing.await.unwrap();
    // What a replica had before it was told to be stored is there.
    let by = Instant::now() + SOON;
    while seen.len() < 10 {
        assert!(Instant::now() < by, "{seen:?} {}", servers.roles());
        let mut into = Vec::new();
        let _ = timeout(SECOND, subscription.recv(8, &mut into)).await;
        for delivery in into {
            seen.insert(text(&delivery));
            let _ = delivery.settle(Settlement::Ack).await;
        }
    }
    // There is no replica any more: it is stored, and that is not told. Before the writer has found the other server, too, it
    // certainly is not.
    let by = Instant::now() + SOON;
    loop {
        let error = bus
            .publish(&mut message(QOS, "alone"), SOON)
            .await
            .unwrap_err();
        if error.may_be_stored() {
            break;
        }
        assert!(Instant::now() < by, "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_serves_all_names_also_after_a_fail_over() {
    let options = RedisOptions::default()
        .append_only()
        .setting("appendfsync", "everysec");
    let starting = tokio::task::spawn_blocking(move || RedisCluster::start(&options).unwrap());
    let mut cluster = starting.await.unwrap();
    let hosts: Vec<_> = cluster
        .urls()
        .iter()
        .map(|url| url.trim_start_matches("redis://").to_owned())
        .collect();
    let space = Space::at(&format!("redis://{}", hosts.join(",")));
    // What it is worth is what its weakest primary is worth.
    let durable = "?cluster=true&durable=true";
    drop(space.try_connect(durable).await.unwrap());
    let weak = &cluster.servers()[1];
    weak.ask("CONFIG SET appendfsync no").unwrap();
    let error = space.try_connect(durable).await.unwrap_err();
    assert!(error.message().contains("appendfsync no"), "{error}");
    weak.ask("CONFIG SET appendfsync everysec").unwrap();
    let options = "?cluster=true&call_timeout=2s";
    let backend = space.try_connect(options).await.unwrap();
    let (bus, letters) = (backend.transport, backend.dead_letters.unwrap());
    // Names in all slots.
    let names: Vec<_> = (0..12)
        .map(|i| Name::new(format!("n{i}")).unwrap())
        .collect();
    let group = || Consumers::Group(Name::from_static("g"));
    let mut subscriptions = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let qos = if i % 2 == 0 { QOS } else { QoS::ExactlyOnce };
        let subscribe = Subscribe::new(name.clone(), qos, group()).with_ack_wait(SECOND * 2);
        subscriptions.push((name.clone(), qos, bus.subscribe(&subscribe).await.unwrap()));
    }
    let mut batch: Vec<_> = (0..120)
        .map(|i| {
            let (name, qos, _) = &subscriptions[i % 12];
            Envelope::received(name.clone(), *qos, Bytes::from(i.to_string()))
        })
        .collect();
    for outcome in bus.publish_many(&mut batch, SOON).await {
        outcome.unwrap();
    }
    for (_, qos, subscription) in &mut subscriptions {
        for turn in 0..10 {
            let delivery = next(&mut **subscription).await;
            assert_eq!(delivery.is_claimed(), *qos == QoS::ExactlyOnce);
            let reason = catga_core::Reason::new(catga_core::ReasonKind::Terminal, "no");
            delivery
                .settle(match turn {
                    0 => Settlement::DeadLetter {
                        reason,
                        claim: None,
                    },
                    _ => Settlement::Complete(catga_core::Completion::new()),
                })
                .await
                .unwrap();
        }
    }
    let all = catga_core::DeadLetterFilter::all();
    let page = letters.list(&all, None, 100).await.unwrap();
    assert_eq!(page.letters.len(), 12);
    for letter in page.letters {
        letters.redrive(&letter.id).await.unwrap();
    }
    for (_, _, subscription) in &mut subscriptions {
        let delivery = next(&mut **subscription).await;
        assert_eq!(delivery.generation(), 1);
        delivery
            .settle(Settlement::Complete(catga_core::Completion::new()))
            .await
            .unwrap();
    }
    let mut event = bus.subscribe(&on_node(QoS::AtMostOnce, "n")).await.unwrap();
    publish(&*bus, QoS::AtMostOnce, "event").await;
    assert_eq!(text(&next(&mut *event).await), "event");

    let failing = tokio::task::spawn_blocking(move || {
        cluster.server_mut(0).kill().unwrap();
        cluster.wait_for_fail_over(0).unwrap();
        cluster
    });
    let cluster = failing.await.unwrap();
    for (name, _, subscription) in subscriptions.iter_mut().step_by(2) {
        store(&*bus, name, "after").await;
        let by = Instant::now() + SOON;
        loop {
            assert!(Instant::now() < by, "{name}: {}", cluster.roles());
            let mut into = Vec::new();
            let _ = timeout(SECOND, subscription.recv(1, &mut into)).await;
            let found = into.iter().any(|delivery| text(delivery) == "after");
            for delivery in into {
                let _ = delivery.settle(Settlement::Ack).await;
            }
            if found {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_cluster_a_publish_of_which_the_answer_is_lost_is_not_sent_again() {
    let mut proxies = Vec::new();
    for seed in 0..RedisCluster::SERVERS {
        proxies.push(Proxy::ahead(seed as u64).await.unwrap());
    }
    let proxies: [Proxy; RedisCluster::SERVERS] = proxies.try_into().unwrap();
    let starting = tokio::task::spawn_blocking(move || {
        let cluster = RedisCluster::behind(&RedisOptions::default(), &proxies).unwrap();
        (cluster, proxies)
    });
    let (cluster, proxies) = starting.await.unwrap();
    let space = Space::at(&cluster.urls()[0]);
    let options = "?cluster=true&call_timeout=5s";
    let bus = space.try_connect(options).await.unwrap().transport;
    publish(&*bus, QOS, "first").await;
    let stream = format!("{{{}:{NAME}}}", space.namespace);
    let server = cluster.servers().iter().position(|server| {
        // The others say where it is.
        server.ask(&format!("XLEN {stream}")).is_ok()
    });
    let index = server.unwrap();
    let stored = |count: &'static str| {
        let asked = cluster.servers()[index].ask(&format!("XLEN {stream}"));
        std::future::ready(asked.unwrap() == count)
    };
    proxies[index].set(Direction::ToClient, Fault::BlackHole);
    let mut second = message(QOS, "second");
    let publishing = bus.publish(&mut second, SOON);
    let cutting = async {
        until("it is stored", || stored("2")).await;
        proxies[index].reset();
    };
    let (published, ()) = tokio::join!(publishing, cutting);
    // Not before: its answer might still be on the way to the proxy.
    proxies[index].heal();
    let error = published.expect_err("nobody can know that it is stored");
    assert!(error.may_be_stored(), "{error:?}");
    // It is not sent again behind anybody's back.
    store(&*bus, &NAME, "third").await;
    assert!(stored("3").await, "it was stored again");
}
