//! The registry of nodes, of both kinds: whose an id is, who is live, and what watchers hear.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use catga_core::{
    Backend, ConnectOptions, Driver as _, ErrorKind, Load, Name, NodeEvent, NodeId, NodeInfo,
    NodeRegistry, NodeWatch,
};
use catga_redis::DRIVER;
use tokio::time::{Instant, sleep, timeout};

use crate::{SECOND, SOON, Space, TICK, raw, shared, until};

/// Both kinds, as the URL says them.
pub(crate) const KINDS: [&str; 2] = ["?discovery=sorted_set", "?discovery=keys"];
/// How long a node may be silent here.
pub(crate) const TIMEOUT: Duration = SECOND;
/// As long as no test takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) async fn connect(space: &Space, options: &str, node_timeout: Duration) -> Backend {
    let url = format!("{}{options}", space.url).parse().unwrap();
    let connect = ConnectOptions::new(space.namespace.clone()).with_node_timeout(node_timeout);
    DRIVER.connect(&url, &connect).await.unwrap()
}

pub(crate) async fn registry(
    space: &Space,
    options: &str,
    node_timeout: Duration,
) -> Arc<dyn NodeRegistry> {
    connect(space, options, node_timeout)
        .await
        .registry
        .unwrap()
}

pub(crate) fn node(id: &str) -> NodeInfo {
    NodeInfo::new(NodeId::new(id).unwrap(), Name::from_static("shop"))
}

/// The next event as a word and the node's id.
pub(crate) async fn event(watch: &mut dyn NodeWatch) -> (&'static str, String) {
    let event = timeout(SOON, watch.next()).await.expect("no event");
    match event.expect("the registry is gone") {
        NodeEvent::Joined(node) => ("joined", node.id.to_string()),
        NodeEvent::Updated(node) => ("updated", node.id.to_string()),
        NodeEvent::Left(node) => ("left", node.id.to_string()),
        NodeEvent::Lagged => ("lagged", String::new()),
        other => panic!("unknown: {other:?}"),
    }
}

pub(crate) fn told(what: &'static str, id: &str) -> (&'static str, String) {
    (what, id.to_owned())
}

pub(crate) async fn silent(watch: &mut dyn NodeWatch) {
    let event = timeout(SECOND / 2, watch.next()).await;
    assert!(event.is_err(), "{event:?}");
}

/// Who is there, by what a watch has told.
pub(crate) type Seen = BTreeMap<String, NodeInfo>;

/// Follows a watch until the nodes that it has told of are these.
pub(crate) async fn follow(watch: &mut dyn NodeWatch, seen: &mut Seen, ids: &[&str]) {
    let by = Instant::now() + SOON;
    while !seen.keys().eq(ids.iter().copied()) {
        let event = tokio::time::timeout_at(by, watch.next()).await;
        let event = event.unwrap_or_else(|_| panic!("{:?} instead of {ids:?}", seen.keys()));
        match event.expect("the registry is gone") {
            NodeEvent::Joined(node) | NodeEvent::Updated(node) => {
                seen.insert(node.id.to_string(), node);
            }
            NodeEvent::Left(node) => {
                seen.remove(node.id.as_str());
            }
            NodeEvent::Lagged => seen.clear(),
            other => panic!("unknown: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_live_double_is_refused_and_an_old_incarnation_is_powerless() {
    for kind in KINDS {
        let registry = registry(&Space::new(), kind, LONG).await;
        let (old, new) = (node("n1"), node("n1"));
        registry.register(&old).await.unwrap();
        registry.register(&old).await.unwrap();
        let double = registry.register(&new).await.unwrap_err();
        assert_eq!(double.kind(), ErrorKind::DuplicateNode);
        // It may be this node before it crashed.
        assert!(double.message().contains("is free in 60.0s"), "{double}");
        let early = registry.heartbeat(&new).await.unwrap_err();
        assert_eq!(early.kind(), ErrorKind::LostOwnership);
        registry.unregister(&old).await.unwrap();
        registry.unregister(&old).await.unwrap();
        registry.register(&new).await.unwrap();
        for refused in [
            registry.heartbeat(&old).await,
            registry.unregister(&old).await,
        ] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::LostOwnership);
        }
        let nodes = registry.nodes().await.unwrap();
        assert_eq!(nodes.len(), 1);
        assert_eq!(nodes[0].incarnation, new.incarnation);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_register_one_id_at_once_one_has_it() {
    for kind in KINDS {
        let space = Space::new();
        let mut registries = Vec::new();
        for _ in 0..8 {
            registries.push(registry(&space, kind, LONG).await);
        }
        let watcher = registry(&space, kind, LONG).await;
        let mut watch = watcher.watch().await.unwrap();
        for round in 0..20 {
            let id = format!("n{round}");
            let racing: Vec<_> = registries
                .iter()
                .map(|registry| {
                    let (registry, node) = (Arc::clone(registry), node(&id));
                    tokio::spawn(async move { (registry.register(&node).await, node) })
                })
                .collect();
            let mut winners = Vec::new();
            for one in racing {
                match one.await.unwrap() {
                    (Ok(()), node) => winners.push(node.incarnation),
                    (Err(error), _) => assert_eq!(error.kind(), ErrorKind::DuplicateNode),
                }
            }
            assert_eq!(winners.len(), 1, "in round {round}");
            let Some(NodeEvent::Joined(joined)) = timeout(SOON, watch.next()).await.unwrap() else {
                panic!("nobody joined in round {round}");
            };
            assert_eq!(joined.incarnation, winners[0]);
        }
    }
}

#[tokio::test]
async fn a_silent_node_leaves_and_hears_of_it() {
    for kind in KINDS {
        let registry = registry(&Space::new(), kind, TIMEOUT).await;
        let (silent_one, lively) = (node("n1"), node("n2"));
        registry.register(&silent_one).await.unwrap();
        registry.register(&lively).await.unwrap();
        let mut watch = registry.watch().await.unwrap();
        assert_eq!(event(&mut *watch).await, told("joined", "n1"));
        assert_eq!(event(&mut *watch).await, told("joined", "n2"));
        let began = Instant::now();
        registry.heartbeat(&silent_one).await.unwrap();
        let beating = async {
            loop {
                registry.heartbeat(&lively).await.unwrap();
                sleep(TIMEOUT / 5).await;
            }
        };
        tokio::select! {
            biased;
            told_of = event(&mut *watch) => assert_eq!(told_of, told("left", "n1")),
            () = beating => {}
        }
        let after = began.elapsed();
        assert!(after + TICK >= TIMEOUT, "{after:?}");
        assert!(after < TIMEOUT * 3, "{kind}: {after:?}");
        let gone = registry.heartbeat(&silent_one).await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound);
        registry.unregister(&silent_one).await.unwrap();
        registry.register(&silent_one).await.unwrap();
        assert_eq!(event(&mut *watch).await, told("joined", "n1"));
        let mut left = [event(&mut *watch).await, event(&mut *watch).await];
        left.sort();
        assert_eq!(left, [told("left", "n1"), told("left", "n2")]);
        assert!(registry.nodes().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn without_a_watcher_too_a_silent_node_is_not_listed_and_makes_room() {
    for kind in KINDS {
        let registry = registry(&Space::new(), kind, TIMEOUT).await;
        let (old, new) = (node("n1"), node("n1"));
        registry.register(&old).await.unwrap();
        until("it is given up", async || {
            registry.nodes().await.unwrap().is_empty()
        })
        .await;
        let gone = registry.heartbeat(&old).await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound);
        registry.register(&new).await.unwrap();
        let lost = registry.heartbeat(&old).await.unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::LostOwnership);
        let back = registry.register(&old).await.unwrap_err();
        assert_eq!(back.kind(), ErrorKind::DuplicateNode);
    }
}

#[tokio::test]
async fn a_watch_starts_with_everybody_and_hears_what_matters() {
    for kind in KINDS {
        let space = Space::new();
        let here = registry(&space, kind, LONG).await;
        let there = registry(&space, kind, LONG).await;
        let mut one = node("n1");
        here.register(&node("n2")).await.unwrap();
        here.register(&one).await.unwrap();
        let mut watch = there.watch().await.unwrap();
        assert_eq!(event(&mut *watch).await, told("joined", "n1"));
        assert_eq!(event(&mut *watch).await, told("joined", "n2"));
        here.heartbeat(&one).await.unwrap();
        one.load = Load::percent(Load::STEP - 1);
        here.heartbeat(&one).await.unwrap();
        silent(&mut *watch).await;
        // It is written, all the same.
        assert_eq!(there.nodes().await.unwrap()[0].load, one.load);
        one.load = Load::percent(Load::STEP);
        here.heartbeat(&one).await.unwrap();
        assert_eq!(event(&mut *watch).await, told("updated", "n1"));
        one.draining = true;
        here.heartbeat(&one).await.unwrap();
        assert_eq!(event(&mut *watch).await, told("updated", "n1"));
        one.metadata
            .insert("zone".to_owned(), "a b\n\"c".to_owned());
        here.heartbeat(&one).await.unwrap();
        let Some(NodeEvent::Updated(updated)) = timeout(SOON, watch.next()).await.unwrap() else {
            panic!("not told");
        };
        assert_eq!(updated.metadata, one.metadata);
        here.unregister(&one).await.unwrap();
        assert_eq!(event(&mut *watch).await, told("left", "n1"));
        here.register(&node("n3")).await.unwrap();
        assert_eq!(event(&mut *watch).await, told("joined", "n3"));
        silent(&mut *watch).await;
    }
}

#[tokio::test]
async fn a_slow_watch_lags_gets_a_fresh_snapshot_and_disturbs_no_other() {
    for kind in KINDS {
        let registry = registry(&Space::new(), kind, LONG).await;
        let mut slow = registry.watch().await.unwrap();
        let mut quick = registry.watch().await.unwrap();
        let node = node("n1");
        let mut heard = 0;
        for _ in 0..200 {
            registry.register(&node).await.unwrap();
            registry.unregister(&node).await.unwrap();
            assert_eq!(event(&mut *quick).await, told("joined", "n1"));
            assert_eq!(event(&mut *quick).await, told("left", "n1"));
        }
        registry.register(&node).await.unwrap();
        assert_eq!(event(&mut *quick).await, told("joined", "n1"));
        while event(&mut *slow).await.0 != "lagged" {
            heard += 1;
        }
        assert_eq!(heard, 256);
        assert_eq!(event(&mut *slow).await, told("joined", "n1"));
        registry.unregister(&node).await.unwrap();
        assert_eq!(event(&mut *slow).await, told("left", "n1"));
        assert_eq!(event(&mut *quick).await, told("left", "n1"));
    }
}

#[tokio::test]
async fn a_watch_ends_with_its_registry() {
    let backend = connect(&Space::new(), "", LONG).await;
    let registry = backend.registry.clone().unwrap();
    let mut closed = registry.watch().await.unwrap();
    backend.transport.close().await.unwrap();
    assert_eq!(closed.next().await, None);
    for error in [
        registry.nodes().await.unwrap_err(),
        registry.register(&node("n")).await.unwrap_err(),
        registry.watch().await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Closed);
    }
    let backend = connect(&Space::new(), "", LONG).await;
    let mut dropped = backend.registry.clone().unwrap().watch().await.unwrap();
    drop(backend);
    assert_eq!(dropped.next().await, None);
}

#[tokio::test]
async fn nobody_s_clock_counts_but_the_server_s() {
    for kind in KINDS {
        let registry = registry(&Space::new(), kind, LONG).await;
        let hour = SECOND * 3600;
        let (mut ahead, mut behind) = (node("ahead"), node("behind"));
        (ahead.started_at, ahead.last_seen) = (ahead.started_at + hour, ahead.last_seen + hour);
        (behind.started_at, behind.last_seen) = (behind.started_at - hour, behind.last_seen - hour);
        for node in [&ahead, &behind] {
            registry.register(node).await.unwrap();
            registry.heartbeat(node).await.unwrap();
        }
        let now = SystemTime::now();
        let nodes = registry.nodes().await.unwrap();
        assert_eq!(nodes.len(), 2);
        for node in nodes {
            for time in [node.started_at, node.last_seen] {
                let apart = now.duration_since(time).unwrap_or_else(|e| e.duration());
                assert!(apart < SOON, "{}: {apart:?}", node.id);
            }
            assert!(node.last_seen >= node.started_at);
        }
    }
}

#[tokio::test]
async fn what_others_write_there_is_left_out_and_counted_once() {
    for kind in KINDS {
        let space = Space::new();
        let registry = registry(&space, kind, TIMEOUT * 5).await;
        let one = node("n1");
        registry.register(&one).await.unwrap();
        let mut watch = registry.watch().await.unwrap();
        assert_eq!(event(&mut *watch).await, told("joined", "n1"));

        let index = format!("{{{}::nodes}}", space.namespace);
        let far = "99999999999999";
        let put = async |id: &str, incarnation: &str, json: &str| {
            let key = format!("{index}:{id}");
            let words = ["HSET", &key, "incarnation", incarnation, "node", json];
            let more = ["load", "1", "told", "1", "started", "1", "timeout", "1"];
            let mut words = words.to_vec();
            words.extend(more);
            words.extend(["until", far]);
            raw(shared(), &words).await;
        };
        let own = one.incarnation.as_uuid().to_string();
        let json = serde_json::to_string(&one).unwrap();
        put("foreign", &own, "{\"a\": [1, 2]}").await;
        put("no-json", &own, "\u{0}\u{1}").await;
        put("other", &own, &json).await;
        put("nobody", "not an incarnation", &json).await;
        let mut large = node("large");
        large.metadata.insert("a".to_owned(), "b".repeat(20_000));
        let incarnation = large.incarnation.as_uuid().to_string();
        let large = serde_json::to_string(&large).unwrap();
        put("large", &incarnation, &large).await;
        let list = format!("{index}:list");
        raw(shared(), &["RPUSH", &list, "a"]).await;
        let long = "x".repeat(500);
        let members = [
            "foreign", "no-json", "other", "nobody", "large", "list", "a b:*", &long,
        ];
        let mut found = members.len() as u64;
        for member in members {
            if kind == KINDS[0] {
                raw(shared(), &["ZADD", &index, far, member]).await;
            } else {
                raw(shared(), &["SADD", &index, member]).await;
                // A member without a key is as one whose key has expired.
                found -= u64::from(["a b:*"].contains(&member));
            }
        }
        // And told, as if it were news.
        for message in ["hello", "", "x 1 is n1"] {
            raw(shared(), &["PUBLISH", &index, message]).await;
        }
        for _ in 0..2 {
            let nodes = registry.nodes().await.unwrap();
            let ids: Vec<_> = nodes.iter().map(|node| node.id.as_str()).collect();
            assert_eq!(ids, ["n1"], "{kind}");
        }
        registry.heartbeat(&one).await.unwrap();
        // Another joins, and is seen. It takes its place also where something of another type is.
        registry.register(&node("list")).await.unwrap();
        assert_eq!(event(&mut *watch).await, told("joined", "list"));
        assert_eq!(registry.ignored(), found + 2, "{kind}: {registry:?}");
        // Also where something has all that a node has.
        for id in ["foreign", "large", "other"] {
            registry.register(&node(id)).await.unwrap();
            assert_eq!(event(&mut *watch).await, told("joined", id));
        }
        // And what was written over one that lives gives way to it.
        put("n1", &node("x").incarnation.as_uuid().to_string(), "{}").await;
        let over = registry.heartbeat(&one).await.unwrap_err();
        assert_eq!(over.kind(), ErrorKind::NotFound);
        registry.register(&one).await.unwrap();
        registry.heartbeat(&one).await.unwrap();
        // Whoever read everything in between has seen it go and come back.
        let mut back = Vec::new();
        for id in ["foreign", "large", "other"] {
            let nodes = registry.nodes().await.unwrap();
            let found = nodes.into_iter().find(|node| node.id.as_str() == id);
            registry.unregister(&found.unwrap()).await.unwrap();
            let left = loop {
                let event = event(&mut *watch).await;
                if event.1 != "n1" {
                    break event;
                }
                back.push(event);
            };
            assert_eq!(left, told("left", id));
        }
        assert!(
            back.is_empty() || back == [told("left", "n1"), told("joined", "n1")],
            "{back:?}"
        );
        // A watch that begins now is told of nodes alone.
        let mut late = registry.watch().await.unwrap();
        assert_eq!(event(&mut *late).await, told("joined", "list"));
        assert_eq!(event(&mut *late).await, told("joined", "n1"));
        silent(&mut *late).await;
    }
}

#[tokio::test]
async fn a_node_that_says_too_much_is_refused() {
    let registry = registry(&Space::new(), "", LONG).await;
    let mut node = node("n1");
    node.metadata.insert("a".to_owned(), "b".repeat(17_000));
    let error = registry.register(&node).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PayloadTooLarge, "{error:?}");
}

#[tokio::test]
async fn nodes_that_are_registered_otherwise_are_a_conflict() {
    let space = Space::new();
    let sorted = registry(&space, KINDS[0], LONG).await;
    let keys = registry(&space, KINDS[1], LONG).await;
    sorted.register(&node("n1")).await.unwrap();
    let errors = [
        keys.register(&node("n2")).await.unwrap_err(),
        keys.nodes().await.unwrap_err(),
        keys.watch().await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
        assert!(error.message().contains("discovery"), "{error}");
    }
    assert_eq!(sorted.nodes().await.unwrap().len(), 1);
}

#[tokio::test]
async fn namespaces_do_not_see_each_other() {
    for kind in KINDS {
        let one = registry(&Space::new(), kind, LONG).await;
        let two = registry(&Space::new(), kind, LONG).await;
        let mut watch = two.watch().await.unwrap();
        one.register(&node("n1")).await.unwrap();
        assert!(two.nodes().await.unwrap().is_empty());
        silent(&mut *watch).await;
    }
}

#[tokio::test]
async fn keys_expire_and_the_index_does_not_keep_them() {
    let space = Space::new();
    let registry = registry(&space, KINDS[1], TIMEOUT).await;
    registry.register(&node("n1")).await.unwrap();
    let index = format!("{{{}::nodes}}", space.namespace);
    let left = crate::number(shared(), &["TTL", &format!("{index}:n1")]).await;
    assert!((100..=120).contains(&left), "{left}");
    // As if nobody had looked until it expired.
    let _watch = registry.watch().await.unwrap();
    raw(shared(), &["DEL", &format!("{index}:n1")]).await;
    until("the index forgets it", async || {
        crate::number(shared(), &["SCARD", &index]).await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_join_quickly_and_all_are_seen_by_all() {
    for kind in KINDS {
        let space = Space::new();
        let mut registries = Vec::new();
        for _ in 0..6 {
            registries.push(registry(&space, kind, LONG).await);
        }
        let ids: Vec<_> = (0..300).map(|i| format!("n{i:03}")).collect();
        let mut watching = Vec::new();
        for registry in &registries {
            let mut watch = registry.watch().await.unwrap();
            let ids = ids.clone();
            watching.push(tokio::spawn(async move {
                let ids: Vec<_> = ids.iter().map(String::as_str).collect();
                let mut seen = Seen::new();
                follow(&mut *watch, &mut seen, &ids).await;
                (watch, seen)
            }));
        }
        let nodes: Vec<_> = ids.iter().map(|id| node(id)).collect();
        let began = Instant::now();
        let each = |i: usize| Arc::clone(&registries[i % registries.len()]);
        let joining = nodes.iter().cloned().enumerate().map(|(i, node)| {
            let registry = each(i);
            tokio::spawn(async move { registry.register(&node).await.unwrap() })
        });
        for one in joining.collect::<Vec<_>>() {
            one.await.unwrap();
        }
        let mut watches = Vec::new();
        for one in watching {
            watches.push(one.await.unwrap());
        }
        assert!(began.elapsed() < SOON / 2, "{kind}: {:?}", began.elapsed());
        assert_eq!(registries[0].nodes().await.unwrap().len(), 300);
        for (i, node) in nodes.iter().enumerate() {
            each(i).unregister(node).await.unwrap();
        }
        for (watch, seen) in &mut watches {
            follow(&mut **watch, seen, &[]).await;
        }
    }
}
