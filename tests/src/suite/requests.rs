//! A request is answered once: by this node, by another, by the one that was named, by each of them.

use std::future::pending;
use std::time::Duration;

use catga::prelude::{Catga, FailWith, Result, handlers};
use catga::{Capability, ErrorKind, HandlerError};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::{Bus, SOON, scenarios, wait_for_nodes};
use crate::journal::{Journal, Play, Step};
use crate::messages::{Answer, Ask, on_ask};

scenarios! { Backend "requests":
    Paused send_here,
    Paused send_to_another_node,
    Real own_reply_for_each [81],
    Paused send_to_a_named_node [82],
    Paused broadcast [87],
    Paused round_robin,
    Paused shutdown_while_it_runs [89],
}

/// Starts a node that answers.
pub(super) async fn serving(bus: &Bus, id: &str, play: Play) -> Result<Catga> {
    let node = bus.node(id).state(play);
    let node = node.request_deadline(Duration::from_secs(5));
    Ok(node.handlers(handlers![on_ask]).start().await?)
}

/// Starts a node that only asks, and waits until it sees so many nodes.
pub(super) async fn asking(bus: &Bus, nodes: usize) -> Result<Catga> {
    let node = bus.node("caller").handlers(handlers![]);
    let node = node
        .request_deadline(Duration::from_secs(5))
        .start()
        .await?;
    wait_for_nodes(&node, nodes).await;
    Ok(node)
}

/// A node that is asked alone calls its own handler, ready at once or not.
async fn send_here(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        assert!(scene.context.time_left() <= Some(Duration::from_secs(5)));
        if scene.id % 2 == 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    });
    let node = serving(&bus, "a", play).await?;
    for id in 0..10 {
        let node_id = "a".to_owned();
        assert_eq!(node.send(Ask { id }).await?, Answer { id, node: node_id });
    }
    assert_eq!(journal.handled(), (0..10).collect::<Vec<_>>());
    let stats = node.handlers()[0].stats;
    assert_eq!((stats.handled, stats.in_flight), (10, 0));
    Ok(())
}

/// A node without a handler is answered by one that has it.
async fn send_to_another_node(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let _a = serving(&bus, "a", journal.plain()).await?;
    let caller = asking(&bus, 2).await?;
    for id in 0..10 {
        assert_eq!(caller.send(Ask { id }).await?.id, id);
    }
    assert_eq!(journal.handled(), (0..10).collect::<Vec<_>>());
    Ok(())
}

/// Row 81: of 1,000 requests at the same time each gets its own reply, once.
async fn own_reply_for_each(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.id % 3 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if scene.id % 10 == 0 {
            Err(format!("refused {}", scene.id)).terminal()?;
        }
        Ok(())
    });
    let _a = serving(&bus, "a", play.clone()).await?;
    let _b = serving(&bus, "b", play).await?;
    let caller = asking(&bus, 3).await?;
    let mut calls = JoinSet::new();
    for id in 0..1000 {
        let caller = caller.clone();
        calls.spawn(async move { (id, caller.send(Ask { id }).await) });
    }
    for (id, answer) in calls.join_all().await {
        match answer {
            Ok(answer) => assert_eq!(answer.id, id),
            Err(error) => {
                assert_eq!(id % 10, 0, "{error:?}");
                let text = error.message();
                assert!(text.ends_with(&format!("refused {id}")), "{text}");
            }
        }
    }
    let mut started: Vec<_> = journal
        .all(Step::Started)
        .iter()
        .map(|note| note.id)
        .collect();
    started.sort_unstable();
    assert_eq!(started, (0..1000).collect::<Vec<_>>());
    Ok(())
}

/// Row 82: `send_to` reaches the node that was named; one that is not there is an error at once.
async fn send_to_a_named_node(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let a = serving(&bus, "a", journal.plain()).await?;
    let _b = serving(&bus, "b", journal.plain()).await?;
    let caller = asking(&bus, 3).await?;
    for id in 0..10 {
        assert_eq!(caller.send_to("b", Ask { id }).await?.node, "b");
        assert_eq!(a.send_to("a", Ask { id }).await?.node, "a");
    }
    let began = Instant::now();
    let error = caller.send_to("z", Ask { id: 0 }).await;
    let error = error.expect_err("there is no such node");
    if bus.has(Capability::Nodes) {
        assert_eq!(error.kind(), ErrorKind::UnknownNode);
        assert!(
            error.message().contains("\"z\"") && error.message().contains("a, b"),
            "{error}"
        );
    } else {
        // The broker knows nobody of that name.
        assert_eq!(error.kind(), ErrorKind::NoResponders, "{error:?}");
    }
    // It is there, and has no handler.
    let error = a.send_to("caller", Ask { id: 0 }).await;
    let error = error.expect_err("it answers nothing");
    assert!(
        [ErrorKind::NoHandler, ErrorKind::NoResponders].contains(&error.kind()),
        "{error:?}"
    );
    assert!(!error.may_be_stored(), "{error:?}");
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "only after {:?}",
        began.elapsed()
    );
    Ok(())
}

/// Row 87: `broadcast` asks every node that answers, itself included: an outcome for each, none delayed by another.
async fn broadcast(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        match scene.context.node().as_str() {
            "b" => pending().await,
            "c" => Err(HandlerError::terminal("out of order")),
            _ => Ok(()),
        }
    });
    let a = serving(&bus, "a", play.clone()).await?;
    let mut others = Vec::new();
    for id in ["b", "c", "d"] {
        others.push(serving(&bus, id, play.clone()).await?);
    }
    let _bystander = bus.observer().await?;
    wait_for_nodes(&a, 5).await;
    let began = Instant::now();
    let outcomes = a.broadcast(Ask { id: 7 }).await?;
    let limit = bus.bound(Duration::from_millis(5_250));
    assert!(began.elapsed() <= limit, "too late");
    let nodes: Vec<_> = outcomes
        .iter()
        .map(|outcome| outcome.node.as_str())
        .collect();
    assert_eq!(nodes, ["a", "b", "c", "d"]);
    let kinds: Vec<_> = outcomes
        .iter()
        .map(|outcome| outcome.result.as_ref().map_err(catga::Error::kind))
        .map(|result| result.map(|answer| answer.id))
        .collect();
    let expected = [
        Ok(7),
        Err(ErrorKind::Timeout),
        Err(ErrorKind::Handler),
        Ok(7),
    ];
    assert_eq!(kinds, expected);
    let done = journal.all(Step::Done);
    assert_eq!(done.len(), 2);
    assert!(
        done.iter()
            .all(|note| note.at - began < bus.bound(Duration::from_millis(100))),
        "a stuck node delayed another"
    );
    assert_eq!(journal.starts(7).len(), 4, "a node was asked twice");
    Ok(())
}

/// Of three nodes each answers a third, whoever asks; where no node knows another the broker chooses, and each gets some.
async fn round_robin(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let mut nodes = Vec::new();
    for id in ["a", "b", "c"] {
        nodes.push(serving(&bus, id, journal.plain()).await?);
    }
    let caller = asking(&bus, 4).await?;
    wait_for_nodes(&nodes[0], 4).await;
    for (round, node) in [(1, &caller), (2, &nodes[0])] {
        for id in 0..300 {
            assert_eq!(node.send(Ask { id }).await?.id, id);
        }
        let shares = journal.shares();
        if !bus.has(Capability::Nodes) {
            assert!(shares.values().all(|share| *share >= 50), "{shares:?}");
            assert_eq!(shares.len(), 3);
            break;
        }
        let fair = 90 * round..=110 * round;
        assert!(
            shares.values().all(|share| fair.contains(share)),
            "{shares:?}"
        );
        assert_eq!(shares.len(), 3);
    }
    Ok(())
}

/// Row 89: a node that shuts down answers what it began, and the rest is answered by others: nobody sees an error.
async fn shutdown_while_it_runs(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|_| async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(())
    });
    let a = serving(&bus, "a", play.clone()).await?;
    let _b = serving(&bus, "b", play).await?;
    // Long, so that nobody asks another because a node is silent: what goes to another was turned away.
    let caller = bus.node("caller").request_deadline(6 * SOON);
    let caller = caller.handlers(handlers![]).start().await?;
    wait_for_nodes(&caller, 3).await;
    let began = Instant::now();
    let mut calls = JoinSet::new();
    for id in 0..200 {
        let caller = caller.clone();
        calls.spawn(async move { caller.send(Ask { id }).await });
    }
    journal.wait(Step::Started, 100, SOON).await;
    assert_eq!(a.shutdown().await?.unfinished, 0);
    for answer in calls.join_all().await {
        answer?;
    }
    assert!(began.elapsed() < SOON, "somebody was kept waiting");
    wait_for_nodes(&caller, 2).await;
    for id in 200..210 {
        assert_eq!(caller.send(Ask { id }).await?.node, "b");
    }
    assert_eq!(journal.handled(), (0..210).collect::<Vec<_>>());
    Ok(())
}
