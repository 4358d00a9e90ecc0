//! Who is there, and who sees it: rows 72 and 74.

use std::sync::Arc;
use std::time::Duration;

use catga::Name;
use catga::prelude::{Catga, Result, handlers};
use catga_core::{Load, NodeEvent, NodeInfo, NodeRegistry, NodeWatch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::harness::{Bus, SOON, patience, poll_then_drop, scenarios, wait_until};
use crate::journal::Journal;
use crate::messages::{Ask, on_ask};
use crate::peers::{Connection, Eyes, HEARTBEAT, PATIENT, TIMEOUT, peer};

scenarios! { Backend "membership":
    Paused join_update_leave [72],
    Paused no_gap_between_snapshot_and_changes [72],
    Paused every_connection_is_told_once [72],
    Paused small_changes_of_load_are_not_told [72],
    Paused watches_begin_while_nodes_come_and_go [72, 79],
    Paused a_next_that_is_dropped_loses_nothing [72],
    Paused a_late_joiner_sees_everybody [74],
    Paused a_late_joiner_asks [74],
}

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
    timeout(patience(SOON), watch.next())
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
    let more = timeout(Duration::from_secs(1), watch.next()).await;
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

/// Row 72: whoever watches, and from wherever, is told once of each change, in its order.
async fn every_connection_is_told_once(bus: Bus) -> Result<()> {
    let there = Connection::patient(&bus).await?;
    let first = peer("first");
    there.registry.register(&first).await?;
    let (near, far) = (
        Connection::patient(&bus).await?,
        Connection::patient(&bus).await?,
    );
    let mut all = [
        there.eyes().await?,
        near.eyes().await?,
        far.eyes().await?,
        far.eyes().await?,
    ];
    for eyes in &mut all {
        let NodeEvent::Joined(node) = eyes.next().await else {
            panic!("the snapshot is missing: {:?}", eyes.told);
        };
        assert_eq!(node.incarnation, first.incarnation);
    }
    let mut node = peer("other").with_endpoint(Some("http://localhost:1".to_owned()));
    node.metadata.insert("zone".to_owned(), "north".to_owned());
    near.registry.register(&node).await?;
    node.draining = true;
    near.registry.heartbeat(&node).await?;
    near.registry.unregister(&node).await?;
    // One that joins afterwards ends the wait.
    let last = peer("last");
    there.registry.register(&last).await?;
    for (number, eyes) in all.iter_mut().enumerate() {
        eyes.until("the last is seen", SOON, |view| view.contains_key("last"))
            .await;
        assert_eq!(eyes.story(&node.id), "JUL", "watch {number}");
        let mut of_it = eyes.told.iter().filter_map(|(_, event)| match event {
            NodeEvent::Joined(told) | NodeEvent::Updated(told) if told.id == node.id => Some(told),
            _ => None,
        });
        let (joined, updated) = (of_it.next().expect("J"), of_it.next().expect("U"));
        assert_eq!(
            (&joined.endpoint, &joined.metadata),
            (&node.endpoint, &node.metadata)
        );
        assert!(!joined.draining && updated.draining, "watch {number}");
        assert!(eyes.sees(&first) && eyes.sees(&last), "watch {number}");
    }
    for connection in [near, far, there] {
        connection.close().await?;
    }
    Ok(())
}

/// Row 72: of a load that moves by less than ten points nobody is told; ten in small steps are told as ten at once.
async fn small_changes_of_load_are_not_told(bus: Bus) -> Result<()> {
    let connection = Connection::patient(&bus).await?;
    let mut eyes = connection.eyes().await?;
    let mut node = peer("busy");
    connection.registry.register(&node).await?;
    for load in [4, 9, 5, 0, 9, 12, 9, 3, 2] {
        node.load = Load::percent(load);
        connection.registry.heartbeat(&node).await?;
    }
    let last = peer("last");
    connection.registry.register(&last).await?;
    eyes.until("the last is seen", SOON, |view| view.contains_key("last"))
        .await;
    let loads: Vec<_> = eyes
        .told
        .iter()
        .filter_map(|(_, event)| match event {
            NodeEvent::Updated(told) if told.id == node.id => Some(told.load.as_percent()),
            _ => None,
        })
        .collect();
    assert_eq!(loads, [12, 2], "steps of ten are told");
    let listed = connection.listed().await?;
    assert_eq!(
        listed["busy"].load.as_percent(),
        2,
        "those who ask are told all"
    );
    Ok(())
}

/// Rows 72 and 79: whenever a watch begins, while nodes join and leave, its snapshot and its changes together are who is there.
async fn watches_begin_while_nodes_come_and_go(bus: Bus) -> Result<()> {
    let (one, two) = (
        Connection::patient(&bus).await?,
        Connection::patient(&bus).await?,
    );
    let watcher = Connection::patient(&bus).await?;
    let mut tasks = JoinSet::new();
    for number in 0..20 {
        let connection = if number % 2 == 0 { &one } else { &two };
        let (registry, mut chance) = (Arc::clone(&connection.registry), bus.chance());
        chance.seed(bus.seed().wrapping_add(number));
        tasks.spawn(async move {
            let mut there = Vec::new();
            for round in 0..12 {
                if chance.bool() || there.is_empty() {
                    let node = peer(&format!("node-{number}-{round}"));
                    registry.register(&node).await?;
                    there.push(node);
                } else {
                    let node = there.swap_remove(chance.usize(..there.len()));
                    registry.unregister(&node).await?;
                }
                sleep(Duration::from_millis(chance.u64(..3))).await;
            }
            Result::<_>::Ok(there)
        });
    }
    let mut all: Vec<Eyes> = Vec::new();
    while all.len() < 20 {
        all.push(watcher.eyes().await?);
        sleep(bus.by_clock(Duration::from_millis(1), Duration::from_millis(20))).await;
    }
    let mut there = Vec::new();
    while let Some(left) = tasks.join_next().await {
        there.extend(left??);
    }
    let last = peer("last");
    one.registry.register(&last).await?;
    for (number, eyes) in all.iter_mut().enumerate() {
        eyes.until("the last is seen", SOON, |view| view.contains_key("last"))
            .await;
        let gone = eyes.view.values().find(|seen| {
            seen.id != last.id
                && !there
                    .iter()
                    .any(|node| node.incarnation == seen.incarnation)
        });
        assert!(gone.is_none(), "watch {number} sees who has left: {gone:?}");
        let missing = there.iter().find(|node| !eyes.sees(node));
        assert!(missing.is_none(), "watch {number} does not see {missing:?}");
    }
    Ok(())
}

/// How long somebody waits who has something else to do.
const MOMENT: Duration = Duration::from_millis(1);

/// Begins a look, and drops it after so many polls.
async fn glance(eyes: &mut Eyes, polls: usize) {
    let look = poll_then_drop(polls, eyes.look());
    drop(timeout(MOMENT, look).await);
}

/// Row 72: whoever waits for two things at once drops `next` again and again, and misses nothing.
async fn a_next_that_is_dropped_loses_nothing(bus: Bus) -> Result<()> {
    let (there, watcher) = (
        Connection::patient(&bus).await?,
        Connection::patient(&bus).await?,
    );
    let mut eyes = watcher.eyes().await?;
    let mut chance = bus.chance();
    let mut nodes = Vec::new();
    for round in 0..20 {
        let node = peer(&format!("node-{round}"));
        {
            let register = there.registry.register(&node);
            tokio::pin!(register);
            loop {
                // As often as chance wants, a look is begun and dropped.
                glance(&mut eyes, chance.usize(..4)).await;
                if let Ok(registered) = timeout(MOMENT, &mut register).await {
                    registered?;
                    break;
                }
            }
        }
        for draining in [true, false, true] {
            let mut node = node.clone();
            node.draining = draining;
            there.registry.heartbeat(&node).await?;
            glance(&mut eyes, chance.usize(..4)).await;
        }
        if chance.bool() {
            there.registry.unregister(&node).await?;
        } else {
            nodes.push(node);
        }
    }
    let last = peer("last");
    there.registry.register(&last).await?;
    eyes.until("the last is seen", SOON, |view| view.contains_key("last"))
        .await;
    // What was missed of one that is gone shows in what is told of it: it joins, changes three times, and leaves.
    for round in 0..20 {
        let id = Name::new(format!("node-{round}"))?;
        let gone = !nodes.iter().any(|node| node.id == id);
        assert_eq!(
            eyes.story(&id),
            if gone { "JUUUL" } else { "JUUU" },
            "of {id}"
        );
    }
    assert!(
        nodes.iter().all(|node| eyes.sees(node)),
        "somebody is not seen"
    );
    Ok(())
}

/// Row 74: a node that comes last sees everybody within two heartbeats, and is seen by everybody.
async fn a_late_joiner_sees_everybody(bus: Bus) -> Result<()> {
    let start = async |id: &str| {
        let node = bus.node(id).heartbeat(HEARTBEAT, TIMEOUT);
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

/// Row 74: whoever comes late asks who is there, and does not wait until each has said so again.
async fn a_late_joiner_asks(bus: Bus) -> Result<()> {
    let (one, two) = (
        Connection::patient(&bus).await?,
        Connection::patient(&bus).await?,
    );
    let nodes = ["a", "b", "c"].map(peer);
    for (node, connection) in nodes.iter().zip([&one, &two, &one]) {
        connection.registry.register(node).await?;
    }
    // Nobody says anything from here on.
    let late = Connection::patient(&bus).await?;
    let began = Instant::now();
    let mut eyes = late.eyes().await?;
    eyes.until("all are seen", bus.bound(2 * HEARTBEAT), |view| {
        view.len() == 3
    })
    .await;
    let node = bus.node("late").handlers(handlers![]).start().await?;
    wait_until("all are there", bus.bound(2 * HEARTBEAT), || {
        node.nodes().len() == 4
    })
    .await;
    assert_eq!(
        late.listed().await?.len(),
        4,
        "those who ask later are told, too"
    );
    assert!(
        began.elapsed() < PATIENT / 3,
        "that took {:?}",
        began.elapsed()
    );
    Ok(())
}
