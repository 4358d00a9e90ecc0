//! Requests go round among those who answer, and past those who do not: rows 80, 86 and 87.

use std::collections::BTreeMap;
use std::time::Duration;

use catga::prelude::{Catga, Result, handlers};
use catga::{ErrorKind, Name};
use catga_core::Target;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::{Bus, needs_nodes, scenarios, wait_for_nodes};
use crate::journal::Journal;
use crate::messages::Ask;
use crate::parts::Line;
use crate::peers::{Beating, Connection, peer};
use crate::suite::requests::{asking, serving};

scenarios! { Backend "balance":
    Paused a_third_for_each [86],
    Paused one_slow_one_down [80, 86],
    Paused all_of_them_down [86],
    Paused broadcast_to_one_that_is_dead [87],
}

const SECOND: Duration = Duration::from_secs(1);

/// A node that is listed, says that it answers, and does not.
async fn dead(connection: &Connection, id: &str) -> Result<Beating> {
    let node = peer(id).with_requests(vec![Name::from_static("Ask")]);
    Beating::start(&connection.registry, node).await
}

/// A node that only asks, and sees so many; whom it asks; and who owns its connection.
async fn asking_aloud(
    bus: &Bus,
    nodes: usize,
) -> Result<(Catga, UnboundedReceiver<Target>, Catga)> {
    let owner = bus.observer().await?;
    needs_nodes(&owner).await?;
    let (line, asked) = Line::told(owner.backend());
    let caller = Catga::builder().driver(line).connect(Line::URL);
    let caller = caller
        .service("suite")
        .node("caller")
        .request_deadline(3 * SECOND);
    let caller = caller.handlers(handlers![]).start().await?;
    wait_for_nodes(&caller, nodes + 2).await;
    Ok((caller, asked, owner))
}

/// How often each node was asked.
fn count(asked: &mut UnboundedReceiver<Target>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    while let Ok(target) = asked.try_recv() {
        *counts.entry(target.to_string()).or_default() += 1;
    }
    counts
}

/// How often a node was asked.
fn asked_of(counts: &BTreeMap<String, usize>, node: &str) -> usize {
    let target = Target::Node(Name::token(node).expect("a token")).to_string();
    counts.get(&target).copied().unwrap_or(0)
}

/// Sends so many requests, eight at a time, and says how many each node answered.
async fn answers(caller: &Catga, requests: u32) -> Result<BTreeMap<String, usize>> {
    let mut callers = JoinSet::new();
    for first in 0..8 {
        let caller = caller.clone();
        callers.spawn(async move {
            let mut nodes = Vec::new();
            for id in (first..requests).step_by(8) {
                let answer = caller.send(Ask { id }).await?;
                assert_eq!(answer.id, id);
                nodes.push(answer.node);
            }
            Result::<_>::Ok(nodes)
        });
    }
    let mut shares = BTreeMap::new();
    for nodes in callers.join_all().await {
        for node in nodes? {
            *shares.entry(node).or_default() += 1;
        }
    }
    Ok(shares)
}

/// Row 86: of three nodes that are well each answers a third, within 5 %, and so it stays when others come and go.
async fn a_third_for_each(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let mut nodes = Vec::new();
    for id in ["a", "b", "c"] {
        nodes.push(serving(&bus, id, journal.plain()).await?);
    }
    let caller = asking(&bus, 4).await?;
    needs_nodes(&caller).await?;
    for round in 0..3 {
        let shares = answers(&caller, 600).await?;
        let fair = |share: &usize| (190..=210).contains(share);
        assert!(
            shares.len() == 3 && shares.values().all(fair),
            "in round {round}: {shares:?}"
        );
        // One that answers nothing is no candidate, and its coming and going upsets no turn.
        let passing = bus.node("passing").handlers(handlers![]).start().await?;
        wait_for_nodes(&caller, 5).await;
        passing.shutdown().await?;
        wait_for_nodes(&caller, 4).await;
    }
    Ok(())
}

/// Rows 80 and 86: of three nodes one is slow, and one is listed and does not answer: nobody notices, the other two share alike, and
/// the dead one is left alone after its first failures.
async fn one_slow_one_down(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.context.node().as_str() == "slow" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    });
    let _quick = serving(&bus, "quick", play.clone()).await?;
    let _slow = serving(&bus, "slow", play).await?;
    let connection = Connection::open(&bus).await?;
    let _down = dead(&connection, "down").await?;
    let (caller, mut asked, _owner) = asking_aloud(&bus, 3).await?;
    let shares = answers(&caller, 400).await?;
    let fair = |share: &usize| (180..=220).contains(share);
    assert!(shares.len() == 2 && shares.values().all(fair), "{shares:?}");
    let counts = count(&mut asked);
    let down = asked_of(&counts, "down");
    assert!(down >= 1, "nobody tried it: {counts:?}");
    // Eight callers may meet it at once, and after a while it is tried again.
    assert!(down <= 16, "it is not skipped: {counts:?}");
    assert!(
        asked_of(&counts, "quick") + asked_of(&counts, "slow") <= 400,
        "somebody was asked twice: {counts:?}"
    );
    Ok(())
}

/// Row 86: where all are listed and none answers, a request ends soon, after each of them was asked once.
async fn all_of_them_down(bus: Bus) -> Result<()> {
    let connection = Connection::open(&bus).await?;
    let mut down = Vec::new();
    for id in ["a", "b", "c", "d", "e", "f"] {
        down.push(dead(&connection, id).await?);
    }
    let (caller, mut asked, _owner) = asking_aloud(&bus, 6).await?;
    for id in 0..5 {
        let began = Instant::now();
        let error = caller.send(Ask { id }).await.expect_err("nobody is there");
        let took = began.elapsed();
        assert!(took <= bus.bound(SECOND), "after {took:?}");
        assert_eq!(error.kind(), ErrorKind::NoResponders, "{error:?}");
        assert!(!error.may_be_stored(), "nobody can have run it: {error:?}");
        let counts = count(&mut asked);
        let tries: usize = counts.values().sum();
        // That nobody is there uses up no retry.
        assert!((1..=6).contains(&tries), "{tries} tries: {counts:?}");
        assert!(
            counts.values().all(|tries| *tries == 1),
            "one was asked twice: {counts:?}"
        );
    }
    Ok(())
}

/// Row 87: a broadcast to nodes of which one is dead and listed: an outcome for each, and nobody waits for the dead.
async fn broadcast_to_one_that_is_dead(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let mut nodes = Vec::new();
    for id in ["a", "b", "c"] {
        nodes.push(serving(&bus, id, journal.plain()).await?);
    }
    let connection = Connection::open(&bus).await?;
    let _down = dead(&connection, "down").await?;
    wait_for_nodes(&nodes[0], 4).await;
    let began = Instant::now();
    let outcomes = nodes[0].broadcast(Ask { id: 7 }).await?;
    assert!(
        began.elapsed() <= bus.bound(SECOND),
        "the dead one delayed it"
    );
    let outcomes: Vec<_> = outcomes
        .iter()
        .map(|outcome| {
            let result = outcome.result.as_ref().map(|answer| answer.node.as_str());
            (outcome.node.as_str(), result.map_err(catga::Error::kind))
        })
        .collect();
    let expected = [
        ("a", Ok("a")),
        ("b", Ok("b")),
        ("c", Ok("c")),
        ("down", Err(ErrorKind::NoResponders)),
    ];
    assert_eq!(outcomes, expected);
    Ok(())
}
