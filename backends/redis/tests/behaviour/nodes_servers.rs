//! The registry of nodes on more than one plain server, and the connections that it takes.

use std::time::Duration;

use catga_core::{ErrorKind, Load};
use catga_testkit::server::{RedisCluster, RedisOptions, RedisSentinel, RedisServer, Server as _};
use tokio::time::{Instant, sleep};

use crate::connecting::clients;
use crate::nodes::{KINDS, LONG, Seen, connect, event, follow, node, registry, silent, told};
use crate::{SECOND, SOON, Space, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_the_nodes_through_a_fail_over() {
    let starting = tokio::task::spawn_blocking(|| {
        RedisCluster::start(&RedisOptions::default().append_only()).unwrap()
    });
    let mut cluster = starting.await.unwrap();
    let urls = cluster.urls();
    let hosts: Vec<_> = urls
        .iter()
        .map(|url| url.strip_prefix("redis://").unwrap())
        .collect();
    let url = format!("redis://{}", hosts.join(","));
    let mut spaces = Vec::new();
    for kind in KINDS {
        let options = format!("{kind}&cluster=true");
        let space = Space::at(&url);
        let here = registry(&space, &options, SECOND * 20).await;
        let there = registry(&space, &options, SECOND * 20).await;
        let mut watch = there.watch().await.unwrap();
        let mut one = node("n1");
        here.register(&one).await.unwrap();
        assert_eq!(event(&mut *watch).await, told("joined", "n1"));
        one.load = Load::percent(50);
        here.heartbeat(&one).await.unwrap();
        assert_eq!(event(&mut *watch).await, told("updated", "n1"));
        let double = there.register(&node("n1")).await.unwrap_err();
        assert_eq!(double.kind(), ErrorKind::DuplicateNode);
        let two = node("n2");
        here.register(&two).await.unwrap();
        assert_eq!(event(&mut *watch).await, told("joined", "n2"));
        there.unregister(&two).await.unwrap();
        assert_eq!(event(&mut *watch).await, told("left", "n2"));
        let nodes = there.nodes().await.unwrap();
        assert_eq!((nodes.len(), nodes[0].load), (1, one.load));
        spaces.push((kind, here, there, watch, one));
    }
    // Whoever had the slots, all of them have a primary again.
    let failing = tokio::task::spawn_blocking(move || {
        for primary in 0..2 {
            cluster.server_mut(primary).kill().unwrap();
            cluster.wait_for_fail_over(primary).unwrap();
            cluster.server_mut(primary).restart().unwrap();
        }
        cluster
    });
    let cluster = failing.await.unwrap();
    for (kind, here, there, mut watch, one) in spaces {
        let beat = async || match here.heartbeat(&one).await {
            Err(error) if error.kind() == ErrorKind::NotFound => here.register(&one).await.is_ok(),
            beaten => beaten.is_ok(),
        };
        until("it is there", beat).await;
        let three = node("n3");
        until("it takes more", async || {
            here.register(&three).await.is_ok()
        })
        .await;
        let mut seen = Seen::from([("n1".to_owned(), one.clone())]);
        follow(&mut *watch, &mut seen, &["n1", "n3"]).await;
        let nodes = there.nodes().await.unwrap();
        assert_eq!(nodes.len(), 2, "{kind}: {nodes:?}");
    }
    drop(cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_say_where_the_nodes_are_also_after_a_fail_over() {
    let options = RedisOptions::default().append_only();
    let starting = tokio::task::spawn_blocking(move || RedisSentinel::start(&options).unwrap());
    let mut servers = starting.await.unwrap();
    let hosts: Vec<_> = servers
        .sentinels()
        .iter()
        .map(ToString::to_string)
        .collect();
    let space = Space::at(&format!("redis://{}", hosts.join(",")));
    let options = format!("?sentinel={}&call_timeout=2s", servers.name());
    let here = registry(&space, &options, LONG).await;
    let there = registry(&space, &options, LONG).await;
    let one = node("n1");
    here.register(&one).await.unwrap();
    let mut watch = there.watch().await.unwrap();
    assert_eq!(event(&mut *watch).await, told("joined", "n1"));
    // The replica gets it soon, and not before it is told.
    sleep(SECOND).await;
    let failing = tokio::task::spawn_blocking(move || {
        let from = servers.primary().unwrap();
        servers.server_mut(from).kill().unwrap();
        servers.wait_for_fail_over(from).unwrap();
        servers
    });
    let servers = failing.await.unwrap();
    until("it is there", async || here.heartbeat(&one).await.is_ok()).await;
    let two = node("n2");
    until("it takes more", async || here.register(&two).await.is_ok()).await;
    assert_eq!(event(&mut *watch).await, told("joined", "n2"));
    silent(&mut *watch).await;
    drop(servers);
}

#[tokio::test]
async fn the_registry_has_connections_of_its_own_that_are_closed_with_the_rest() {
    for kind in KINDS {
        let server = RedisServer::start().unwrap();
        let space = Space::at(&server.url());
        let backend = connect(&space, kind, LONG).await;
        let registry = backend.registry.clone().unwrap();
        assert_eq!(clients(&server), 2, "none before it is used");
        registry.register(&node("n1")).await.unwrap();
        assert_eq!(clients(&server), 3, "one for what it says");
        let one = registry.watch().await.unwrap();
        let two = registry.watch().await.unwrap();
        assert_eq!(clients(&server), 4, "and one for all that watch");
        drop((one, two));
        // It is looked for at the next sweep.
        until("nobody watches", async || clients(&server) == 3).await;
        let mut again = registry.watch().await.unwrap();
        assert_eq!(clients(&server), 4);
        backend.transport.close().await.unwrap();
        until("all are gone", async || clients(&server) == 0).await;
        assert_eq!(again.next().await, None);
    }
}

/// What the registry costs a server that does nothing else: figures for people, and a bound against loops.
#[tokio::test]
async fn an_idle_registry_is_idle() {
    for kind in KINDS {
        let server = RedisServer::start().unwrap();
        let space = Space::at(&server.url());
        let registry = registry(&space, kind, SECOND * 30).await;
        registry.register(&node("n1")).await.unwrap();
        let mut watch = registry.watch().await.unwrap();
        assert_eq!(event(&mut *watch).await, told("joined", "n1"));
        let calls = || {
            let stats = server.ask("INFO commandstats").unwrap();
            let evals = stats
                .lines()
                .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
            evals.map_or(0, |line| {
                line.split(',').next().unwrap().parse::<u64>().unwrap()
            })
        };
        let (before, began) = (calls(), Instant::now());
        sleep(Duration::from_secs(6)).await;
        let made = calls() - before;
        assert!(made <= 6, "{kind}: {made} in {:?}", began.elapsed());
        assert!(began.elapsed() < SOON);
    }
}
