//! Who is there, and who sees it: rows 72 and 74.

use std::time::Duration;

use catga::Name;
use catga::prelude::{Catga, Result, handlers};
use catga_core::{Load, NodeEvent, NodeInfo, NodeRegistry, NodeWatch};

use crate::harness::{Bus, SOON, scenarios, wait_until};
use crate::journal::Journal;
use crate::messages::{Ask, on_ask};

scenarios! { Backend "membership":
    Paused join_update_leave [72],
    Paused no_gap_between_snapshot_and_changes [72],
    Paused a_late_joiner_sees_everybody [74],
}

const HEARTBEAT: Duration = Duration::from_millis(200);

/// The registry of a node's backend; where there is none, what asks for the nodes has to be refused.
pub(super) async fn registry<'a>(bus: &Bus, node: &'a Catga) -> Result<&'a dyn NodeRegistry> {
    if let Some(registry) = &node.backend().registry {
        return Ok(registry.as_ref());
    }
    let asking = bus.node("asking").state(Journal::default().plain());
    let asking = asking.handlers(handlers![on_ask]).start().await?;
    match asking.broadcast(Ask { id: 0 }).await {
        Ok(_) => panic!("everybody was asked, and nobody knows who that is"),
        Err(refusal) => Err(refusal.into()),
    }
}

async fn next(watch: &mut dyn NodeWatch) -> NodeEvent {
    tokio::time::timeout(SOON, watch.next())
        .await
        .expect("an event in time")
        .expect("the registry is there")
}

/// Row 72: a watch begins with who is there; then it sees each joining, changing and leaving once.
async fn join_update_leave(bus: Bus) -> Result<()> {
    let observer = bus.observer().await?;
    let registry = registry(&bus, &observer).await?;
    let mut watch = registry.watch().await?;
    match next(watch.as_mut()).await {
        NodeEvent::Joined(node) => assert_eq!(node.id, *observer.node()),
        other => panic!("the snapshot is missing: {other:?}"),
    }
    let mut other = NodeInfo::new(Name::new("other")?, Name::new("suite")?)
        .with_endpoint(Some("http://localhost:1".to_owned()));
    registry.register(&other).await?;
    let NodeEvent::Joined(joined) = next(watch.as_mut()).await else {
        panic!("nobody joined");
    };
    assert_eq!(
        (&joined.id, joined.incarnation, &joined.endpoint),
        (&other.id, other.incarnation, &other.endpoint)
    );
    other.load = Load::percent(80);
    registry.heartbeat(&other).await?;
    // The same again is no change.
    registry.heartbeat(&other).await?;
    match next(watch.as_mut()).await {
        NodeEvent::Updated(node) => assert_eq!((&node.id, node.load), (&other.id, other.load)),
        event => panic!("the load is not told: {event:?}"),
    }
    registry.unregister(&other).await?;
    match next(watch.as_mut()).await {
        NodeEvent::Left(node) => assert_eq!(node.incarnation, other.incarnation),
        event => panic!("it is not told that the node left: {event:?}"),
    }
    let more = tokio::time::timeout(Duration::from_secs(1), watch.next()).await;
    assert!(more.is_err(), "something is told twice: {more:?}");
    Ok(())
}

/// Row 72: whoever joins while a watch begins is in its snapshot or in its changes, and once.
async fn no_gap_between_snapshot_and_changes(bus: Bus) -> Result<()> {
    let observer = bus.observer().await?;
    let registry = registry(&bus, &observer).await?;
    for round in 0..20 {
        let joining = NodeInfo::new(Name::new(format!("node-{round}"))?, Name::new("suite")?);
        let (watch, joined) = tokio::join!(registry.watch(), registry.register(&joining));
        joined?;
        let mut watch = watch?;
        let mut seen = 0;
        // A node that joins afterwards ends the wait.
        let last = NodeInfo::new(Name::new(format!("last-{round}"))?, Name::new("suite")?);
        registry.register(&last).await?;
        loop {
            match next(watch.as_mut()).await {
                NodeEvent::Joined(node) if node.id == joining.id => seen += 1,
                NodeEvent::Joined(node) if node.id == last.id => break,
                _ => {}
            }
        }
        assert_eq!(seen, 1, "in round {round}");
        registry.unregister(&last).await?;
    }
    Ok(())
}

/// Row 74: a node that comes last sees everybody within two heartbeats, and is seen by everybody.
async fn a_late_joiner_sees_everybody(bus: Bus) -> Result<()> {
    let start = async |id: &str| {
        let node = bus.node(id).heartbeat(HEARTBEAT, 5 * HEARTBEAT);
        node.handlers(handlers![]).start().await
    };
    let mut nodes = Vec::new();
    for id in ["a", "b", "c"] {
        nodes.push(start(id).await?);
    }
    registry(&bus, &nodes[0]).await?;
    let late = start("d").await?;
    wait_until("it sees all", bus.bound(2 * HEARTBEAT), || {
        late.nodes().len() == 4
    })
    .await;
    for node in &nodes {
        wait_until("all see it", bus.bound(2 * HEARTBEAT), || {
            node.nodes().len() == 4
        })
        .await;
    }
    let ids: Vec<_> = late.nodes().into_iter().map(|node| node.id).collect();
    assert_eq!(
        ids.iter().map(Name::as_str).collect::<Vec<_>>(),
        ["a", "b", "c", "d"]
    );
    Ok(())
}
