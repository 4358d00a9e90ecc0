//! What becomes of the membership when the server that keeps it goes, forgets, or is written to by others: rows 75, 78, 79 and 80.

use std::time::Duration;

use catga::prelude::{Catga, Result, handlers};
use catga::{HandlerError, HealthStatus, Name};
use catga_core::NodeInfo;
use tokio::time::{Instant, sleep};

use crate::harness::{Bus, SOON, needs_nodes, scenarios, wait_for_nodes, wait_until};
use crate::journal::Journal;
use crate::messages::{Ask, on_ask};
use crate::outcome::Lacking;
use crate::peers::{Beating, Connection, HEARTBEAT, SWEEP, TIMEOUT, bystander, peer, until_seen};
use crate::proxy::{Direction, Fault};

scenarios! { Backend "server_registry":
    Real the_server_is_away [78],
    Real what_is_kept_is_deleted [78],
    Real an_unread_watch_across_a_restart [79],
    Real an_unread_watch_across_a_kill [79],
    Real rubbish [80],
    Real a_link_that_flaps [75],
}

/// Whether an application says that its view may be old, or that others may not see it.
fn is_stale(node: &Catga) -> bool {
    let health = node.health();
    let mut parts = health.parts.iter();
    parts.any(|part| part.name == "membership" && part.status != HealthStatus::Up)
}

/// Asks for what may be had only once the server is back.
async fn once_it_is_back<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let by = Instant::now() + SOON;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() > by => {
                return Err(HandlerError::terminal(format!("{what}: {error:?}")));
            }
            Err(_) => sleep(HEARTBEAT / 4).await,
        }
    }
}

/// Three applications that see each other.
async fn three(bus: &Bus) -> Result<Vec<Catga>> {
    let mut nodes = Vec::new();
    for id in ["a", "b", "c"] {
        nodes.push(bystander(bus, id).await?);
    }
    needs_nodes(&nodes[0]).await?;
    for node in &nodes {
        wait_for_nodes(node, 3).await;
    }
    Ok(nodes)
}

/// Lets time pass in which nobody loses sight of anybody.
async fn all_see_all(nodes: &[Catga], when: &str, time: Duration) {
    let by = Instant::now() + time;
    while Instant::now() < by {
        for node in nodes {
            let seen: Vec<_> = node.nodes().into_iter().map(|node| node.id).collect();
            let known: Vec<_> = nodes.iter().map(|node| node.node().clone()).collect();
            assert_eq!(
                seen,
                known,
                "{} loses sight of those who live, {when}",
                node.node()
            );
        }
        sleep(HEARTBEAT / 20).await;
    }
}

/// Waits until whoever asks is told of all, and all are well.
async fn until_all_are_well(bus: &Bus, nodes: &[Catga], limit: Duration) -> Result<()> {
    let began = Instant::now();
    let connection =
        once_it_is_back("nobody can connect", async || Connection::open(bus).await).await?;
    loop {
        let listed = connection.listed().await.map(|listed| listed.len());
        if matches!(listed, Ok(3)) && !nodes.iter().any(is_stale) {
            return Ok(());
        }
        let stale: Vec<_> = nodes
            .iter()
            .filter(|node| is_stale(node))
            .map(Catga::node)
            .collect();
        let took = began.elapsed();
        assert!(
            took < limit,
            "after {took:?} {listed:?} of 3 are listed, and {stale:?} are not well"
        );
        all_see_all(nodes, "before all are well", HEARTBEAT / 4).await;
    }
}

/// How long it may take from a server's return until all is as before: a client finds it, which on a machine that does much else takes
/// a while, and two heartbeats.
fn recovery(bus: &Bus) -> Duration {
    bus.bound(2 * HEARTBEAT + Duration::from_secs(3))
}

/// Row 78: while the server is away for three timeouts, everybody keeps the last view, and says that it may be old; two heartbeats after its
/// return all is as before, and nobody was taken for dead.
async fn the_server_is_away(bus: Bus) -> Result<()> {
    let mut server = bus.own_server()?;
    let bus = server.bus();
    let nodes = three(&bus).await?;
    assert!(!nodes.iter().any(is_stale));
    server.kill()?;
    let away = Instant::now();
    all_see_all(&nodes, "when it is away", TIMEOUT).await;
    wait_until("all say that the view may be old", 2 * TIMEOUT, || {
        nodes.iter().all(is_stale)
    })
    .await;
    all_see_all(
        &nodes,
        "when it is long away",
        (3 * TIMEOUT).saturating_sub(away.elapsed()),
    )
    .await;
    server.restart()?;
    until_all_are_well(&bus, &nodes, recovery(&bus)).await?;
    all_see_all(&nodes, "once all are well", TIMEOUT + SWEEP).await;
    // By themselves, not because nobody believes the registry any more.
    until_all_are_well(&bus, &nodes, Duration::ZERO).await?;
    // And it is no view of the past: who comes and goes is seen.
    let other = bystander(&bus, "other").await?;
    wait_for_nodes(&nodes[0], 4).await;
    other.shutdown().await?;
    wait_for_nodes(&nodes[0], 3).await;
    Ok(())
}

/// Row 78: all that the server keeps of nodes is deleted: each that lives is there again within two heartbeats, and nobody loses sight
/// of anybody.
async fn what_is_kept_is_deleted(bus: Bus) -> Result<()> {
    let server = bus.own_server()?;
    let bus = server.bus();
    let nodes = three(&bus).await?;
    for _ in 0..2 {
        if !server.site().lose_nodes().await? {
            return Err(HandlerError::terminal(Lacking(
                "nothing is kept of nodes".to_owned(),
            )));
        }
        until_all_are_well(&bus, &nodes, recovery(&bus)).await?;
        all_see_all(&nodes, "once all are well", TIMEOUT + SWEEP).await;
    }
    let other = bystander(&bus, "other").await?;
    wait_for_nodes(&nodes[0], 4).await;
    other.shutdown().await?;
    wait_for_nodes(&nodes[0], 3).await;
    Ok(())
}

/// Row 79: the server is restarted while nobody reads a watch, and nodes join and leave before and after: what the watch tells in the
/// end is who is there.
async fn an_unread_watch_across_a_restart(bus: Bus) -> Result<()> {
    unread_watch(bus, false).await
}

/// Row 79, with a server that is killed.
async fn an_unread_watch_across_a_kill(bus: Bus) -> Result<()> {
    unread_watch(bus, true).await
}

async fn unread_watch(bus: Bus, kill: bool) -> Result<()> {
    let mut server = bus.own_server()?;
    let bus = server.bus();
    let (there, watcher) = (Connection::open(&bus).await?, Connection::open(&bus).await?);
    let mut eyes = watcher.eyes().await?.may_end();
    let [early, middle, stays, late] = ["early", "middle", "stays", "late"].map(peer);
    let mut beating = Vec::new();
    for node in [&stays, &middle, &early] {
        beating.push(Beating::start(&there.registry, node.clone()).await?);
    }
    eyes.until("three are seen", SOON, |view| view.len() == 3)
        .await;
    drop(beating.pop());
    there.registry.unregister(&early).await?;
    if kill {
        server.kill()?;
        sleep(TIMEOUT).await;
    }
    server.restart()?;
    drop(beating.pop());
    let registry = &there.registry;
    once_it_is_back("a node cannot leave", async || {
        Ok(registry.unregister(&middle).await?)
    })
    .await?;
    let joined = once_it_is_back("a node cannot join", async || {
        Beating::start(registry, late.clone()).await
    });
    beating.push(joined.await?);
    let all = [&stays, &late];
    eyes.until("those who are there are seen", SOON, |view| {
        view.len() == 2 && all.iter().all(|node| crate::peers::sees(view, node))
    })
    .await;
    eyes.for_a(TIMEOUT).await;
    assert!(
        eyes.view.len() == 2 && all.iter().all(|node| eyes.sees(node)),
        "{:?}",
        eyes.view.keys()
    );
    let listed = watcher.listed().await?;
    assert_eq!(listed.len(), 2, "{:?}", listed.keys());
    Ok(())
}

/// What others may have written under the id of a node that is not there, made of an entry that is one.
fn rubbish_of(entry: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let text = String::from_utf8_lossy(entry);
    let replaced = |from: &str, to: &str| text.replace(from, to).into_bytes();
    let bits = entry.iter().map(|byte| byte ^ 0x55).collect();
    let mut all = vec![
        ("nothing", Vec::new()),
        ("what is no text", vec![0xff, 0xfe, 0x00, 0x80]),
        ("another's entry", entry.to_vec()),
        ("half an entry", entry[..entry.len() / 2].to_vec()),
        ("an entry with more behind", [entry, b"}{"].concat()),
        ("an entry whose bits are wrong", bits),
        ("an empty object", b"{}".to_vec()),
        ("a list", b"[]".to_vec()),
        ("null", b"null".to_vec()),
        ("a number", b"1e999".to_vec()),
        ("deep nesting", b"[".repeat(100_000)),
        ("much", vec![b'x'; 700_000]),
        (
            "an id of two tokens",
            replaced("\"good\"", "\"ghost.good\""),
        ),
        ("an id that means something", replaced("\"good\"", "\"*\"")),
        (
            "an id that is huge",
            replaced("\"good\"", &format!("{:?}", "g".repeat(10_000))),
        ),
    ];
    let huge = format!("\"ghost\",\"metadata\":{{\"x\":{:?}}}", "y".repeat(700_000));
    all.push(("much that it says of itself", replaced("\"good\"", &huge)));
    all
}

/// Row 80: what others write into the registry, and is no node, is seen by nobody; those who are nodes are seen as before.
async fn rubbish(bus: Bus) -> Result<()> {
    let server = bus.own_server()?;
    let bus = server.bus();
    let (there, watcher) = (Connection::open(&bus).await?, Connection::open(&bus).await?);
    let app = bystander(&bus, "app").await?;
    let good = peer("good").with_endpoint(Some("http://localhost:1".to_owned()));
    let _beating = Beating::start(&there.registry, good.clone()).await?;
    until_seen(&app, &good, true).await;
    let mut eyes = watcher.eyes().await?;
    eyes.until("the good ones are seen", SOON, |view| view.len() == 2)
        .await;
    let entry = server.site().entry_of(&good.id).await?;
    for (number, (what, bytes)) in rubbish_of(&entry).into_iter().enumerate() {
        let id = format!("ghost-{number}");
        server.site().write_entry(&id, &bytes).await?;
        server.site().write_entry("ghost", &bytes).await?;
        // One that joins afterwards is seen; so this has been looked at.
        let after = peer(&format!("after-{number}"));
        there.registry.register(&after).await?;
        eyes.until(what, SOON, |view| crate::peers::sees(view, &after))
            .await;
        there.registry.unregister(&after).await?;
        let is_ghost = |node: &NodeInfo| !["app", "good"].contains(&node.id.as_str());
        let told = eyes
            .view
            .values()
            .find(|node| is_ghost(node) && node.id != after.id);
        assert!(told.is_none(), "{what} is taken for a node: {told:?}");
        let listed = watcher.registry.nodes().await?;
        let told = listed.iter().find(|node| is_ghost(node));
        assert!(told.is_none(), "{what} is taken for a node: {told:?}");
        assert_eq!(listed.len(), 2, "{what} hides others");
        let told = app
            .nodes()
            .into_iter()
            .find(|node| is_ghost(node) && node.id != after.id);
        assert!(told.is_none(), "{what} is taken for a node: {told:?}");
        // Those who come now see it first.
        let late = Connection::open(&bus).await?;
        let mut late_eyes = late.eyes().await?;
        late_eyes
            .until(what, SOON, |view| {
                view.contains_key("app") && crate::peers::sees(view, &good)
            })
            .await;
        let told = late_eyes
            .view
            .values()
            .find(|node| is_ghost(node) && node.id != after.id);
        assert!(told.is_none(), "{what} is taken for a node: {told:?}");
        late.close().await?;
    }
    // The place of a node is its own, whatever was written there before.
    let ghost = peer("ghost");
    let by = Instant::now() + SOON;
    while let Err(error) = there.registry.register(&ghost).await {
        assert!(Instant::now() < by, "rubbish keeps a node out: {error:?}");
        sleep(HEARTBEAT).await;
    }
    until_seen(&app, &ghost, true).await;
    // Rubbish over a node that lives is written over at its next heartbeats.
    server.site().write_entry("good", b"{").await?;
    sleep(3 * HEARTBEAT).await;
    eyes.until("it is there still", SOON, |view| {
        crate::peers::sees(view, &good)
    })
    .await;
    let listed = watcher.listed().await?;
    assert!(
        crate::peers::sees(&listed, &good),
        "it is written over for good"
    );
    Ok(())
}

/// Row 75: the link of a node goes for 0.8 to 1.2 timeouts, again and again: it leaves and joins at most once for each, and those who ask
/// are answered all the time.
async fn a_link_that_flaps(bus: Bus) -> Result<()> {
    const GAPS: usize = 3;
    let server = bus.own_server()?;
    let proxy = server.proxy().await?;
    let mut chance = bus.chance();
    let (flapping, bus) = (server.bus_through(&proxy), server.bus());
    let journal = Journal::default();
    let start = async |bus: &Bus, id: &str| {
        let node = bus
            .node(id)
            .heartbeat(HEARTBEAT, TIMEOUT)
            .state(journal.plain());
        node.handlers(handlers![on_ask]).start().await
    };
    let (a, f) = (start(&bus, "a").await?, start(&flapping, "f").await?);
    needs_nodes(&a).await?;
    wait_for_nodes(&a, 2).await;
    let watcher = Connection::open(&bus).await?;
    let mut eyes = watcher.eyes().await?;
    let caller = bystander(&bus, "caller").await?;
    wait_for_nodes(&caller, 3).await;
    let asking = tokio::spawn(async move {
        let mut id = 0;
        loop {
            let answer = caller.send(Ask { id }).await;
            assert!(answer.is_ok(), "request {id}: {answer:?}");
            id += 1;
            sleep(HEARTBEAT / 10).await;
        }
    });
    for _ in 0..GAPS {
        for way in [Direction::ToServer, Direction::ToClient] {
            proxy.set(way, Fault::BlackHole);
        }
        eyes.for_a(TIMEOUT.mul_f64(0.8 + 0.4 * chance.f64())).await;
        proxy.heal();
        eyes.for_a(TIMEOUT).await;
    }
    eyes.until("all are there", SOON, |view| {
        view.contains_key("f") && view.contains_key("a")
    })
    .await;
    assert!(!asking.is_finished(), "{:?}", asking.await);
    asking.abort();
    let id = Name::from_static("f");
    let left = eyes.story(&id).matches('L').count();
    assert!(
        left <= GAPS,
        "{left} times in {GAPS} gaps: {}",
        eyes.story(&id)
    );
    assert_eq!(eyes.story(&Name::from_static("a")).matches('L').count(), 0);
    drop((a, f));
    Ok(())
}
