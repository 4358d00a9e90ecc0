use std::sync::Arc;

use catga_core::{ErrorKind, Load, Name, NodeEvent, NodeId, NodeInfo, NodeRegistry, NodeWatch};
use tokio::time::{Instant, advance, timeout};

use crate::{SECOND, connect};

async fn registry() -> Arc<dyn NodeRegistry> {
    connect("memory://").await.registry.unwrap()
}

fn node(id: &str) -> NodeInfo {
    NodeInfo::new(NodeId::new(id).unwrap(), Name::from_static("shop"))
}

/// The next event as a word and the node's id.
async fn event(watch: &mut dyn NodeWatch) -> (&'static str, String) {
    let event = timeout(SECOND * 10, watch.next()).await.expect("no event");
    match event.expect("the registry is gone") {
        NodeEvent::Joined(node) => ("joined", node.id.to_string()),
        NodeEvent::Updated(node) => ("updated", node.id.to_string()),
        NodeEvent::Left(node) => ("left", node.id.to_string()),
        NodeEvent::Lagged => ("lagged", String::new()),
        other => panic!("unknown: {other:?}"),
    }
}

async fn silent(watch: &mut dyn NodeWatch) {
    let event = timeout(SECOND / 10, watch.next()).await;
    assert!(event.is_err(), "{event:?}");
}

#[tokio::test(start_paused = true)]
async fn a_live_double_is_refused_and_an_old_incarnation_is_powerless() {
    let registry = registry().await;
    let (old, new) = (node("n1"), node("n1"));
    registry.register(&old).await.unwrap();
    registry.register(&old).await.unwrap();
    let double = registry.register(&new).await.unwrap_err();
    assert_eq!(double.kind(), ErrorKind::DuplicateNode);
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

#[tokio::test(start_paused = true)]
async fn a_silent_node_leaves() {
    let registry = registry().await;
    let (silent_one, lively) = (node("n1"), node("n2"));
    registry.register(&silent_one).await.unwrap();
    registry.register(&lively).await.unwrap();
    let mut watch = registry.watch().await.unwrap();
    event(&mut *watch).await;
    event(&mut *watch).await;
    let began = Instant::now();
    for _ in 0..3 {
        advance(SECOND * 2 / 5).await;
        registry.heartbeat(&lively).await.unwrap();
    }
    assert_eq!(event(&mut *watch).await, ("left", "n1".to_owned()));
    assert!(began.elapsed() >= SECOND);
    let gone = registry.heartbeat(&silent_one).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    registry.unregister(&silent_one).await.unwrap();
    assert_eq!(event(&mut *watch).await, ("left", "n2".to_owned()));
    assert!(registry.nodes().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_watch_starts_with_everybody_and_hears_what_matters() {
    let registry = registry().await;
    let mut one = node("n1");
    registry.register(&node("n2")).await.unwrap();
    registry.register(&one).await.unwrap();
    let mut watch = registry.watch().await.unwrap();
    assert_eq!(event(&mut *watch).await, ("joined", "n1".to_owned()));
    assert_eq!(event(&mut *watch).await, ("joined", "n2".to_owned()));
    registry.heartbeat(&one).await.unwrap();
    one.load = Load::percent(9);
    registry.heartbeat(&one).await.unwrap();
    silent(&mut *watch).await;
    one.load = Load::percent(10);
    registry.heartbeat(&one).await.unwrap();
    assert_eq!(event(&mut *watch).await, ("updated", "n1".to_owned()));
    one.draining = true;
    registry.heartbeat(&one).await.unwrap();
    assert_eq!(event(&mut *watch).await, ("updated", "n1".to_owned()));
    registry.unregister(&one).await.unwrap();
    assert_eq!(event(&mut *watch).await, ("left", "n1".to_owned()));
    registry.register(&node("n3")).await.unwrap();
    assert_eq!(event(&mut *watch).await, ("joined", "n3".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_slow_watch_lags_and_gets_a_fresh_snapshot() {
    let registry = registry().await;
    let mut watch = registry.watch().await.unwrap();
    let node = node("n1");
    for _ in 0..200 {
        registry.register(&node).await.unwrap();
        registry.unregister(&node).await.unwrap();
    }
    registry.register(&node).await.unwrap();
    let mut events = 0;
    while event(&mut *watch).await.0 != "lagged" {
        events += 1;
    }
    assert_eq!(events, 256);
    assert_eq!(event(&mut *watch).await, ("joined", "n1".to_owned()));
    registry.unregister(&node).await.unwrap();
    assert_eq!(event(&mut *watch).await, ("left", "n1".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_with_its_registry() {
    let backend = connect("memory://").await;
    let registry = backend.registry.clone().unwrap();
    let mut closed = registry.watch().await.unwrap();
    backend.transport.close().await.unwrap();
    assert_eq!(closed.next().await, None);
    let error = registry.nodes().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);

    let backend = connect("memory://").await;
    let mut dropped = backend.registry.clone().unwrap().watch().await.unwrap();
    drop(backend);
    assert_eq!(dropped.next().await, None);
}
