//! The registry of nodes while servers, connections and messages are lost.

use std::sync::Arc;
use std::time::Duration;

use catga_core::{ErrorKind, NodeInfo, NodeRegistry};
use catga_testkit::proxy::{Direction, Fault, Gate, Proxy};
use catga_testkit::server::{RedisOptions, RedisServer, Server as _};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::nodes::{KINDS, LONG, Seen, TIMEOUT, event, follow, node, registry, silent, told};
use crate::{SECOND, SOON, Space, number, raw, shared, until};

/// Beats as the runtime does: who was given up registers again.
fn beat(registry: &Arc<dyn NodeRegistry>, node: &NodeInfo, every: Duration) -> Beating {
    let (registry, node) = (Arc::clone(registry), node.clone());
    Beating(tokio::spawn(async move {
        loop {
            if let Err(error) = registry.heartbeat(&node).await
                && error.kind() == ErrorKind::NotFound
            {
                // What fails here is tried again at the next beat.
                let _ = registry.register(&node).await;
            }
            sleep(every).await;
        }
    }))
}

/// Ends with this value.
struct Beating(JoinHandle<()>);

impl Drop for Beating {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test]
async fn after_everything_was_flushed_who_is_alive_comes_back_and_nobody_is_said_to_have_left() {
    for kind in KINDS {
        let server = RedisServer::start().unwrap();
        let space = Space::at(&server.url());
        let here = registry(&space, kind, TIMEOUT * 2).await;
        let there = registry(&space, kind, TIMEOUT * 2).await;
        let (lively, dead) = (node("lively"), node("dead"));
        here.register(&lively).await.unwrap();
        here.register(&dead).await.unwrap();
        let mut watch = there.watch().await.unwrap();
        let mut seen = Seen::new();
        follow(&mut *watch, &mut seen, &["dead", "lively"]).await;
        let flushed = Instant::now();
        server.ask("FLUSHALL").unwrap();
        for node in [&lively, &dead] {
            let gone = here.heartbeat(node).await.unwrap_err();
            assert_eq!(gone.kind(), ErrorKind::NotFound);
        }
        assert!(here.nodes().await.unwrap().is_empty());
        let beating = beat(&here, &lively, TIMEOUT / 5);
        // The last view is kept, until that has had its time.
        assert_eq!(event(&mut *watch).await, told("left", "dead"));
        let after = flushed.elapsed();
        assert!(
            after >= TIMEOUT * 2 && after < TIMEOUT * 4,
            "{kind}: {after:?}"
        );
        silent(&mut *watch).await;
        assert_eq!(there.nodes().await.unwrap().len(), 1);
        // And it goes on.
        drop(beating);
        assert_eq!(event(&mut *watch).await, told("left", "lively"));
    }
}

#[tokio::test]
async fn a_watch_survives_a_server_that_is_killed_with_and_without_its_data() {
    for (kind, options) in [
        (KINDS[0], RedisOptions::default()),
        (KINDS[1], RedisOptions::default()),
        (KINDS[0], RedisOptions::default().append_only()),
        (KINDS[1], RedisOptions::default().append_only()),
    ] {
        let mut server = RedisServer::with(&options).unwrap();
        let space = Space::at(&server.url());
        let here = registry(&space, kind, TIMEOUT * 3).await;
        let there = registry(&space, kind, TIMEOUT * 3).await;
        let (lively, dead) = (node("lively"), node("dead"));
        here.register(&lively).await.unwrap();
        here.register(&dead).await.unwrap();
        let mut watch = there.watch().await.unwrap();
        assert_eq!(event(&mut *watch).await, told("joined", "dead"));
        assert_eq!(event(&mut *watch).await, told("joined", "lively"));
        let beating = beat(&here, &lively, TIMEOUT / 5);
        server.kill().unwrap();
        sleep(SECOND / 2).await;
        server.restart().unwrap();
        // Who comes is seen, who died meanwhile leaves, who did not stays.
        until("it is there again", async || {
            here.register(&node("new")).await.is_ok()
        })
        .await;
        assert_eq!(event(&mut *watch).await, told("joined", "new"), "{kind}");
        let mut left = [event(&mut *watch).await, event(&mut *watch).await];
        left.sort();
        assert_eq!(left, [told("left", "dead"), told("left", "new")], "{kind}");
        silent(&mut *watch).await;
        let nodes = there.nodes().await.unwrap();
        assert_eq!(nodes.len(), 1, "{kind}: {nodes:?}");
        drop(beating);
    }
}

#[tokio::test]
async fn while_the_server_stands_still_calls_end_and_afterwards_nobody_alive_has_left() {
    for kind in KINDS {
        let mut server = RedisServer::start().unwrap();
        let space = Space::at(&server.url());
        let options = format!("{kind}&call_timeout=500ms&connect_timeout=500ms");
        let here = registry(&space, &options, TIMEOUT).await;
        let there = registry(&space, &options, TIMEOUT).await;
        let lively = node("lively");
        here.register(&lively).await.unwrap();
        let mut watch = there.watch().await.unwrap();
        assert_eq!(event(&mut *watch).await, told("joined", "lively"));
        let beating = beat(&here, &lively, TIMEOUT / 5);
        sleep(TIMEOUT / 2).await;
        server.pause().unwrap();
        let paused = Instant::now();
        while paused.elapsed() < TIMEOUT * 3 {
            let began = Instant::now();
            for error in [
                here.nodes().await.unwrap_err(),
                here.heartbeat(&lively).await.unwrap_err(),
                there.watch().await.unwrap_err(),
            ] {
                assert!(
                    matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable),
                    "{error:?}"
                );
            }
            assert!(began.elapsed() < SECOND * 3, "each has a deadline");
        }
        server.resume().unwrap();
        until(
            "it is back",
            async || matches!(there.nodes().await, Ok(nodes) if nodes.len() == 1),
        )
        .await;
        silent(&mut *watch).await;
        drop(beating);
        assert_eq!(event(&mut *watch).await, told("left", "lively"), "{kind}");
    }
}

#[tokio::test]
async fn after_three_timeouts_without_a_server_the_heartbeat_says_to_register_again() {
    for kind in KINDS {
        let options = RedisOptions::default().append_only();
        let mut server = RedisServer::with(&options).unwrap();
        let space = Space::at(&server.url());
        let short = SECOND / 2;
        let registry = registry(&space, kind, short).await;
        let one = node("n1");
        registry.register(&one).await.unwrap();
        server.kill().unwrap();
        sleep(short * 3).await;
        server.restart().unwrap();
        let by = Instant::now() + SOON;
        let error = loop {
            assert!(Instant::now() < by, "not in time");
            match registry.heartbeat(&one).await {
                Err(error) if error.kind() == ErrorKind::NotFound => break error,
                Err(error) => assert_ne!(error.kind(), ErrorKind::LostOwnership),
                Ok(()) => panic!("{kind}: it was given up"),
            }
        };
        assert!(error.message().contains("register it again"), "{error}");
        registry.register(&one).await.unwrap();
        registry.heartbeat(&one).await.unwrap();
    }
}

#[tokio::test]
async fn after_an_outage_a_new_process_gives_nobody_up_at_once() {
    for kind in KINDS {
        let options = RedisOptions::default().append_only();
        let mut server = RedisServer::with(&options).unwrap();
        let space = Space::at(&server.url());
        let one = node("n1");
        let record = format!("{{{}::nodes}}:n1", space.namespace);
        let there = async || number(&space.url, &["EXISTS", &record]).await == 1;
        {
            let before = registry(&space, kind, TIMEOUT).await;
            before.register(&one).await.unwrap();
            let mut watch = before.watch().await.unwrap();
            assert_eq!(event(&mut *watch).await, told("joined", "n1"));
            // It has looked who is silent.
            let meta = format!("{{{}::nodes}}::meta", space.namespace);
            until("somebody has looked", async || {
                number(&space.url, &["HEXISTS", &meta, "looked"]).await == 1
            })
            .await;
        }
        server.kill().unwrap();
        sleep(TIMEOUT * 3 / 2).await;
        server.restart().unwrap();
        let new = registry(&space, kind, TIMEOUT).await;
        let began = Instant::now();
        let _watch = new.watch().await.unwrap();
        loop {
            let is_there = there().await;
            let after = began.elapsed();
            if after >= TIMEOUT {
                break;
            }
            assert!(is_there, "{kind}: after {after:?}");
            sleep(TIMEOUT / 20).await;
        }
        until("it is given up", async || !there().await).await;
    }
}

#[tokio::test]
async fn a_watch_ends_when_nothing_is_heard_for_a_timeout_and_the_next_one_knows_who_was_there() {
    for kind in KINDS {
        let server = RedisServer::start().unwrap();
        let proxy = Proxy::start(server.address(), 7).await.unwrap();
        let living = Space::at(&server.url());
        let cut = Space {
            url: format!("redis://{}", proxy.address()),
            namespace: living.namespace.clone(),
        };
        let here = registry(&living, kind, LONG).await;
        let there = registry(&cut, kind, TIMEOUT).await;
        here.register(&node("n1")).await.unwrap();
        let mut watch = there.watch().await.unwrap();
        assert_eq!(event(&mut *watch).await, told("joined", "n1"));
        proxy.gate(Gate::Refuse);
        proxy.reset();
        let began = Instant::now();
        let end = timeout(SOON, watch.next()).await.expect("it ends");
        assert!(end.is_none(), "{kind}: {end:?}");
        let after = began.elapsed();
        assert!(after >= TIMEOUT && after < TIMEOUT * 6, "{kind}: {after:?}");
        // The registry is lost as well: who was there has a timeout to come back.
        server.ask("FLUSHALL").unwrap();
        proxy.gate(Gate::Open);
        // The time that they have begins before the watch is there.
        let began = Instant::now();
        let mut watch = there.watch().await.unwrap();
        assert_eq!(event(&mut *watch).await, told("joined", "n1"), "{kind}");
        assert_eq!(event(&mut *watch).await, told("left", "n1"), "{kind}");
        assert!(began.elapsed() > TIMEOUT / 2, "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_watch_survives_connections_that_are_cut_and_misses_nothing() {
    for kind in KINDS {
        let server = RedisServer::start().unwrap();
        let proxy = Proxy::start(server.address(), 7).await.unwrap();
        let living = Space::at(&server.url());
        let cut = Space {
            url: format!("redis://{}", proxy.address()),
            namespace: living.namespace.clone(),
        };
        let here = registry(&living, kind, LONG).await;
        let there = registry(&cut, kind, LONG).await;
        let mut watch = there.watch().await.unwrap();
        let mut seen = Seen::new();
        for round in 0..5 {
            let (stays, goes) = (
                node(&format!("stays{round}")),
                node(&format!("goes{round}")),
            );
            here.register(&stays).await.unwrap();
            here.register(&goes).await.unwrap();
            proxy.reset();
            here.unregister(&goes).await.unwrap();
            let ids: Vec<_> = (0..=round).map(|i| format!("stays{i}")).collect();
            let ids: Vec<_> = ids.iter().map(String::as_str).collect();
            follow(&mut *watch, &mut seen, &ids).await;
            assert!(!seen.contains_key(goes.id.as_str()));
        }
    }
}

#[tokio::test]
async fn a_link_that_swallows_everything_is_noticed() {
    for kind in KINDS {
        let server = RedisServer::start().unwrap();
        let proxy = Proxy::start(server.address(), 7).await.unwrap();
        let living = Space::at(&server.url());
        let cut = Space {
            url: format!("redis://{}", proxy.address()),
            namespace: living.namespace.clone(),
        };
        let here = registry(&living, kind, LONG).await;
        let options = format!("{kind}&call_timeout=500ms&connect_timeout=500ms");
        let there = registry(&cut, &options, LONG).await;
        let mut watch = there.watch().await.unwrap();
        proxy.set(Direction::ToClient, Fault::BlackHole);
        here.register(&node("n1")).await.unwrap();
        let error = there.nodes().await.unwrap_err();
        assert!(matches!(
            error.kind(),
            ErrorKind::Timeout | ErrorKind::Unavailable
        ));
        sleep(SECOND * 3).await;
        // Connections that were given up stay dead; new ones pass.
        proxy.heal();
        assert_eq!(event(&mut *watch).await, told("joined", "n1"));
        assert_eq!(there.nodes().await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_message_that_was_lost_is_repaired_by_the_sweep() {
    for kind in KINDS {
        let space = Space::new();
        let here = registry(&space, kind, LONG).await;
        let mut watch = here.watch().await.unwrap();
        let (one, two) = (node("n1"), node("n2"));
        here.register(&one).await.unwrap();
        here.register(&two).await.unwrap();
        assert_eq!(event(&mut *watch).await, told("joined", "n1"));
        assert_eq!(event(&mut *watch).await, told("joined", "n2"));
        // As a script whose message went nowhere.
        let (index, meta) = (
            format!("{{{}::nodes}}", space.namespace),
            format!("{{{}::nodes}}::meta", space.namespace),
        );
        let remove = if kind == KINDS[0] { "ZREM" } else { "SREM" };
        let script = format!(
            "redis.call('{remove}', KEYS[1], 'n1') redis.call('DEL', KEYS[1] .. ':n1') \
             redis.call('HINCRBY', KEYS[2], 'revision', 1)"
        );
        raw(shared(), &["EVAL", &script, "2", &index, &meta]).await;
        assert_eq!(event(&mut *watch).await, told("left", "n1"));
        // The next message shows that one is missing, too.
        raw(
            shared(),
            &["EVAL", &script.replace("n1", "n2"), "2", &index, &meta],
        )
        .await;
        here.register(&one).await.unwrap();
        let mut heard = [event(&mut *watch).await, event(&mut *watch).await];
        heard.sort();
        assert_eq!(heard, [told("joined", "n1"), told("left", "n2")]);
        silent(&mut *watch).await;
    }
}

#[tokio::test]
async fn a_key_that_is_gone_is_heard_of_where_the_server_tells_and_found_where_it_does_not() {
    // Sweeps are three seconds apart here.
    for (events, within) in [("KA", SECOND), ("Kg", SECOND), ("", SECOND * 8)] {
        let server = RedisServer::start().unwrap();
        let set = format!("CONFIG SET notify-keyspace-events \"{events}\"");
        server.ask(&set).unwrap();
        let before = server.ask("CONFIG GET notify-keyspace-events").unwrap();
        let space = Space::at(&server.url());
        let registry = registry(&space, KINDS[1], LONG).await;
        let mut watch = registry.watch().await.unwrap();
        for round in 0..3 {
            let id = format!("n{round}");
            registry.register(&node(&id)).await.unwrap();
            assert_eq!(event(&mut *watch).await, ("joined", id.clone()));
            let began = Instant::now();
            let key = format!("{{{}::nodes}}:{id}", space.namespace);
            raw(&space.url, &["DEL", &key]).await;
            assert_eq!(event(&mut *watch).await, ("left", id));
            assert!(began.elapsed() < within, "{events}: {:?}", began.elapsed());
        }
        // Never set by us.
        assert_eq!(
            server.ask("CONFIG GET notify-keyspace-events").unwrap(),
            before
        );
    }
}

#[test]
fn a_registry_is_taken_over_when_the_runtime_that_asked_first_is_gone() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let url = shared();
    for kind in KINDS {
        let (first, second) = (runtime(), runtime());
        let space = Space::at(url);
        // The backend lives with the second, its registry is asked by the first.
        let registry = second.block_on(registry(&space, kind, LONG));
        let one = node("n1");
        let mut watch = first.block_on(async {
            registry.register(&one).await.unwrap();
            let mut watch = registry.watch().await.unwrap();
            assert_eq!(event(&mut *watch).await, told("joined", "n1"));
            watch
        });
        drop(first);
        second.block_on(async {
            let began = Instant::now();
            registry.heartbeat(&one).await.unwrap();
            assert!(began.elapsed() < SECOND * 2, "{:?}", began.elapsed());
            assert_eq!(event(&mut *watch).await, told("lagged", ""));
            assert_eq!(event(&mut *watch).await, told("joined", "n1"));
            registry.unregister(&one).await.unwrap();
            assert_eq!(event(&mut *watch).await, told("left", "n1"));
        });
    }
}

#[test]
fn a_runtime_whose_workers_are_busy_holds_nobody_up() {
    let busy = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let own = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let space = Space::at(shared());
    let registry = busy.block_on(registry(&space, "", TIMEOUT));
    let one = node("n1");
    own.block_on(async {
        registry.register(&one).await.unwrap();
        let mut watch = registry.watch().await.unwrap();
        assert_eq!(event(&mut *watch).await, told("joined", "n1"));
        busy.spawn(async { std::thread::sleep(TIMEOUT * 3) });
        let began = Instant::now();
        while began.elapsed() < TIMEOUT * 2 {
            registry.heartbeat(&one).await.unwrap();
            sleep(TIMEOUT / 5).await;
        }
        silent(&mut *watch).await;
    });
}
