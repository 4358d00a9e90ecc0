//! An id is one node's: a second one is refused, and one that was given up has no power over its successor: row 76.

use std::sync::Arc;

use catga::ErrorKind;
use catga::prelude::{Result, handlers};
use catga_core::{NodeEvent, NodeInfo, NodeRegistry};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::harness::{Bus, SOON, scenarios};
use crate::peers::{
    Beating, Connection, Eyes, HEARTBEAT, SWEEP, TIMEOUT, bystander, peer, until_seen,
};

scenarios! { Backend "node_ids":
    Paused a_live_double_is_refused [76],
    Paused an_old_incarnation_is_powerless [76],
    Real many_at_one_moment [76],
}

/// The incarnations that had an id, in the order in which they were told.
fn owners(eyes: &Eyes, node: &NodeInfo) -> Vec<NodeInfo> {
    let mut owners: Vec<NodeInfo> = Vec::new();
    for (_, event) in &eyes.told {
        if let NodeEvent::Joined(told) | NodeEvent::Updated(told) = event
            && told.id == node.id
            && owners
                .last()
                .is_none_or(|last| last.incarnation != told.incarnation)
        {
            owners.push(told.clone());
        }
    }
    owners
}

/// Row 76: a second node with the id of one that lives is refused, and can do nothing to it.
async fn a_live_double_is_refused(bus: Bus) -> Result<()> {
    let (there, elsewhere) = (Connection::open(&bus).await?, Connection::open(&bus).await?);
    let mut eyes = elsewhere.eyes().await?;
    let first = peer("one").with_endpoint(Some("http://localhost:1".to_owned()));
    let second = peer("one").with_endpoint(Some("http://localhost:2".to_owned()));
    let beating = Beating::start(&there.registry, first.clone()).await?;
    eyes.until("it joins", SOON, |view| view.contains_key("one"))
        .await;
    for registry in [&elsewhere.registry, &there.registry] {
        for _ in 0..3 {
            let refused = registry.register(&second).await;
            let kind = refused.map_err(|error| error.kind());
            assert_eq!(kind, Err(ErrorKind::DuplicateNode), "a double is let in");
            let beats = registry.heartbeat(&second).await;
            let kind = beats.map_err(|error| error.kind());
            assert_eq!(kind, Err(ErrorKind::LostOwnership), "a double is alive");
            // Whether it is told is the registry's; that nothing comes of it is not.
            drop(registry.unregister(&second).await);
            eyes.for_a(HEARTBEAT / 2).await;
        }
    }
    // An application that starts under the id of another.
    let double = bus
        .node("one")
        .heartbeat(HEARTBEAT, TIMEOUT)
        .endpoint("http://localhost:3");
    let error = double.handlers(handlers![]).start().await;
    let error = error.expect_err("a double has started");
    assert_eq!(error.kind(), ErrorKind::DuplicateNode, "{error:?}");
    assert!(error.message().contains("one"), "of which id? {error}");
    eyes.for_a(TIMEOUT).await;
    assert_eq!(eyes.story(&first.id), "J", "{:?}", eyes.told);
    for connection in [&there, &elsewhere] {
        let listed = connection.listed().await?;
        assert_eq!(listed.len(), 1);
        assert_eq!(
            listed["one"].endpoint, first.endpoint,
            "the double is listed"
        );
    }
    // Once it is known that the first has left, the id is free at once.
    drop(beating);
    there.registry.unregister(&first).await?;
    eyes.until("it leaves", SOON, |view| !view.contains_key("one"))
        .await;
    elsewhere.registry.register(&second).await?;
    eyes.until("the second joins", SOON, |view| {
        view.get("one")
            .is_some_and(|seen| seen.incarnation == second.incarnation)
    })
    .await;
    Ok(())
}

/// Row 76: a node that was silent and given up, and comes back while its successor lives, is told so and changes nothing.
async fn an_old_incarnation_is_powerless(bus: Bus) -> Result<()> {
    let (there, elsewhere) = (Connection::open(&bus).await?, Connection::open(&bus).await?);
    let mut eyes = elsewhere.eyes().await?;
    let app = bystander(&bus, "app").await?;
    let (old, new) = (peer("one"), peer("one"));
    there.registry.register(&old).await?;
    until_seen(&app, &old, true).await;
    eyes.until("it is seen", SOON, |view| view.contains_key("one"))
        .await;
    let limit = bus.bound(TIMEOUT + SWEEP);
    eyes.until("it is given up", limit, |view| !view.contains_key("one"))
        .await;
    let _beating = Beating::start(&elsewhere.registry, new.clone()).await?;
    until_seen(&app, &new, true).await;
    for registry in [&there.registry, &elsewhere.registry] {
        for _ in 0..3 {
            let beats = registry.heartbeat(&old).await.map_err(|error| error.kind());
            assert_eq!(beats, Err(ErrorKind::LostOwnership), "it is not told");
            let again = registry.register(&old).await.map_err(|error| error.kind());
            assert_eq!(again, Err(ErrorKind::DuplicateNode), "it is let in again");
            drop(registry.unregister(&old).await);
            eyes.for_a(HEARTBEAT).await;
        }
    }
    eyes.for_a(TIMEOUT).await;
    let owners = owners(&eyes, &new);
    let owners: Vec<_> = owners.iter().map(|node| node.incarnation).collect();
    assert_eq!(
        owners,
        [old.incarnation, new.incarnation],
        "the entry alternates"
    );
    assert_eq!(
        eyes.story(&new.id).matches('L').count(),
        1,
        "its successor was taken out"
    );
    assert_eq!(
        elsewhere.listed().await?["one"].incarnation,
        new.incarnation
    );
    until_seen(&app, &new, true).await;
    Ok(())
}

/// How a start under an id that others want ends: whether it still has it.
async fn contend(registry: Arc<dyn NodeRegistry>, node: NodeInfo) -> Result<(NodeInfo, bool)> {
    match registry.register(&node).await {
        Err(error) if error.kind() == ErrorKind::DuplicateNode => return Ok((node, false)),
        registered => registered?,
    }
    for _ in 0..4 {
        sleep(HEARTBEAT).await;
        match registry.heartbeat(&node).await {
            Err(error) if error.kind() == ErrorKind::LostOwnership => return Ok((node, false)),
            beats => beats?,
        }
    }
    Ok((node, true))
}

/// Row 76: of several that want one id at one moment one gets it; the others are refused, or told within two heartbeats.
async fn many_at_one_moment(bus: Bus) -> Result<()> {
    let connections = [
        Connection::open(&bus).await?,
        Connection::open(&bus).await?,
        Connection::open(&bus).await?,
    ];
    let mut eyes = connections[0].eyes().await?;
    let ids: Vec<_> = (0..20).map(|number| format!("node-{number}")).collect();
    let mut contenders = JoinSet::new();
    for id in &ids {
        for connection in &connections {
            contenders.spawn(contend(Arc::clone(&connection.registry), peer(id)));
        }
    }
    let ended = contenders.join_all();
    tokio::pin!(ended);
    let ended = loop {
        tokio::select! {
            biased;
            ended = &mut ended => break ended,
            _ = eyes.look() => {}
        }
    };
    let ended = ended.into_iter().collect::<Result<Vec<_>>>()?;
    // All are new a moment ago, and nobody is silent yet.
    let listed = connections[1].listed().await?;
    for id in &ids {
        let winners: Vec<_> = ended
            .iter()
            .filter(|(node, has_it)| *has_it && node.id.as_str() == id)
            .collect();
        assert_eq!(winners.len(), 1, "of three that want {id} so many have it");
        let (winner, _) = winners[0];
        assert_eq!(
            listed.get(id.as_str()).map(|node| node.incarnation),
            Some(winner.incarnation),
            "{id} is listed as another's"
        );
        let owners = owners(&eyes, winner);
        let mut known: Vec<_> = owners
            .iter()
            .map(|node| *node.incarnation.as_uuid())
            .collect();
        let changes = known.len();
        known.sort_unstable();
        known.dedup();
        assert_eq!(known.len(), changes, "{id} alternates: {owners:?}");
        assert_eq!(
            owners.last().map(|node| node.incarnation),
            Some(winner.incarnation),
            "{id} is seen as another's"
        );
    }
    Ok(())
}
