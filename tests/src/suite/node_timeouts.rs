//! Who falls silent is given up, after the node timeout and by nobody's clock but the registry's: rows 73, 75 and 77.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use catga::prelude::Result;
use catga::{ErrorKind, Name};
use catga_core::{NodeEvent, NodeInfo, NodeRegistry};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::harness::{Bus, SOON, scenarios};
use crate::peers::{
    Beating, Connection, Eyes, HEARTBEAT, SWEEP, TIMEOUT, beat, bystander, peer, sees, slack,
    until_seen,
};
use crate::subject::Time;

scenarios! { Backend "node_timeouts":
    Paused who_falls_silent_leaves [73],
    Paused who_was_given_up_comes_back [73, 75],
    Paused heartbeats_around_the_timeout [75],
    Paused clocks_that_are_an_hour_off [77],
}

const HOUR: Duration = Duration::from_secs(60 * 60);

/// Looks on until a node leaves, and says how long that took since it was last heard of.
async fn until_it_leaves(bus: &Bus, eyes: &mut Eyes, node: &NodeInfo, last: Instant) -> Duration {
    if !eyes.story(&node.id).contains('J') {
        eyes.until("it is seen", SOON, |view| view.contains_key(&node.id))
            .await;
    }
    let limit = bus.bound(TIMEOUT + SWEEP);
    let what = format!("{} is given up", node.id);
    eyes.until(&what, limit, |view| !view.contains_key(&node.id))
        .await;
    let took = last.elapsed();
    assert!(
        took + slack(bus) >= TIMEOUT,
        "{} is given up after {took:?}",
        node.id
    );
    took
}

/// Row 73: a node that says nothing more is gone from every view after its timeout, and not before; nobody has to tell of it.
async fn who_falls_silent_leaves(bus: Bus) -> Result<()> {
    let (there, watcher) = (Connection::open(&bus).await?, Connection::open(&bus).await?);
    let (mut near, mut far) = (there.eyes().await?, watcher.eyes().await?);
    let app = bystander(&bus, "app").await?;
    let node = peer("silent");
    there.registry.register(&node).await?;
    until_seen(&app, &node, true).await;
    let mut last = Instant::now();
    for _ in 0..8 {
        sleep(HEARTBEAT).await;
        last = Instant::now();
        there.registry.heartbeat(&node).await?;
    }
    for eyes in [&mut near, &mut far] {
        until_it_leaves(&bus, eyes, &node, last).await;
        assert_eq!(
            eyes.story(&node.id),
            "JL",
            "of one that spoke for longer than its timeout"
        );
    }
    until_seen(&app, &node, false).await;
    // Nobody who comes now hears of it, and those who ask are told the same.
    let late = Connection::open(&bus).await?;
    for connection in [&there, &watcher, &late] {
        let listed = connection.listed().await?;
        assert_eq!(listed.keys().map(Name::as_str).collect::<Vec<_>>(), ["app"]);
    }
    let mut eyes = late.eyes().await?;
    eyes.until("the snapshot", SOON, |view| view.contains_key("app"))
        .await;
    eyes.for_a(bus.bound(HEARTBEAT) / 4).await;
    assert_eq!(
        eyes.story(&node.id),
        "",
        "the dead are shown to those who come"
    );
    Ok(())
}

/// Rows 73 and 75: a node that was given up is told at its next heartbeat, and is there again when it registers.
async fn who_was_given_up_comes_back(bus: Bus) -> Result<()> {
    let (there, watcher) = (Connection::open(&bus).await?, Connection::open(&bus).await?);
    let mut eyes = watcher.eyes().await?;
    let node = peer("back");
    for round in 1..=2 {
        there.registry.register(&node).await?;
        eyes.until("it joins", SOON, |view| view.contains_key("back"))
            .await;
        let last = Instant::now();
        until_it_leaves(&bus, &mut eyes, &node, last).await;
        let heartbeat = there.registry.heartbeat(&node).await;
        let kind = heartbeat.map_err(|error| error.kind());
        assert_eq!(
            kind,
            Err(ErrorKind::NotFound),
            "it is not told that it was given up"
        );
        assert!(
            !watcher.listed().await?.contains_key("back"),
            "a heartbeat alone brings nobody back"
        );
        assert_eq!(eyes.story(&node.id), "JL".repeat(round));
    }
    there.registry.register(&node).await?;
    eyes.until("it joins", SOON, |view| view.contains_key("back"))
        .await;
    Ok(())
}

/// What a node did whose heartbeats come around its timeout.
struct Flapped {
    node: NodeInfo,
    /// From before one heartbeat until after the next.
    gaps: Vec<Duration>,
    /// Says that it lives for as long as somebody looks.
    _well: Beating,
}

/// Says that it lives, each time after 0.8 to 1.2 timeouts.
async fn flap(
    registry: Arc<dyn NodeRegistry>,
    node: NodeInfo,
    mut chance: fastrand::Rng,
    rounds: u32,
) -> Result<Flapped> {
    let mut gaps = Vec::new();
    let mut last = Instant::now();
    registry.register(&node).await?;
    for _ in 0..rounds {
        sleep(TIMEOUT.mul_f64(0.8 + 0.4 * chance.f64())).await;
        let next = Instant::now();
        beat(&*registry, &node).await;
        gaps.push(last.elapsed());
        last = next;
    }
    // It is well from here on, and for as long as somebody looks.
    let well = Beating::go_on(registry, node.clone());
    sleep(2 * HEARTBEAT).await;
    Ok(Flapped {
        node,
        gaps,
        _well: well,
    })
}

/// Row 75: whose heartbeats come around its timeout leaves and joins at most once for each that came too late.
async fn heartbeats_around_the_timeout(bus: Bus) -> Result<()> {
    // As many gaps by the clock on the wall, in less time.
    let (nodes, rounds) = match bus.subject().time() {
        Time::Timers => (4, 40),
        Time::Wall => (30, 4),
    };
    let (there, watcher) = (Connection::open(&bus).await?, Connection::open(&bus).await?);
    let mut views = [there.eyes().await?, watcher.eyes().await?];
    let app = bystander(&bus, "app").await?;
    let mut flapping = JoinSet::new();
    for number in 0..nodes {
        let mut chance = bus.chance();
        chance.seed(bus.seed().wrapping_add(number));
        let node = peer(&format!("node-{number}"));
        flapping.spawn(flap(Arc::clone(&there.registry), node, chance, rounds));
    }
    let ended = flapping.join_all();
    tokio::pin!(ended);
    let [near, far] = &mut views;
    let flapped = loop {
        tokio::select! {
            biased;
            flapped = &mut ended => break flapped,
            _ = near.look() => {}
            _ = far.look() => {}
        }
    };
    let last = peer("last");
    there.registry.register(&last).await?;
    // Who watches may begin anew just now, and is to find it.
    let _lives = Beating::go_on(Arc::clone(&there.registry), last.clone());
    let (mut left, mut gaps) = (0, 0);
    let flapped = flapped.into_iter().collect::<Result<Vec<_>>>()?;
    for Flapped {
        node, gaps: all, ..
    } in &flapped
    {
        // What is written in time may be heard of late.
        let real = all
            .iter()
            .filter(|gap| **gap + slack(&bus) >= TIMEOUT)
            .count();
        gaps += all.len();
        for eyes in [&mut *near, &mut *far] {
            eyes.until("the last is seen", SOON, |view| view.contains_key("last"))
                .await;
            // That each Left follows a Joined, and each Joined a Left, is seen to by the eyes.
            eyes.until("who is well is seen", SOON, |view| sees(view, node))
                .await;
            let leaves = eyes.story(&node.id).matches('L').count();
            assert!(
                leaves <= real,
                "{} left {leaves} times in {real} gaps: {all:?}",
                node.id
            );
            left += leaves;
        }
    }
    assert!(left > 0, "of {gaps} gaps none was noticed");
    until_seen(&app, &last, true).await;
    Ok(())
}

/// Row 77: what a node says of the time does not matter: one whose clock is an hour off lives as long as it speaks, and no longer.
async fn clocks_that_are_an_hour_off(bus: Bus) -> Result<()> {
    let (there, watcher) = (Connection::open(&bus).await?, Connection::open(&bus).await?);
    let mut eyes = watcher.eyes().await?;
    let (mut behind, mut ahead) = (peer("behind"), peer("ahead"));
    let tell =
        |node: &mut NodeInfo, now: SystemTime| (node.started_at, node.last_seen) = (now, now);
    let clocks = |behind: &mut NodeInfo, ahead: &mut NodeInfo| {
        tell(behind, SystemTime::now() - HOUR);
        tell(ahead, SystemTime::now() + HOUR);
    };
    clocks(&mut behind, &mut ahead);
    there.registry.register(&behind).await?;
    there.registry.register(&ahead).await?;
    let mut last = Instant::now();
    for _ in 0..8 {
        eyes.for_a(HEARTBEAT).await;
        clocks(&mut behind, &mut ahead);
        last = Instant::now();
        for node in [&behind, &ahead] {
            there.registry.heartbeat(node).await?;
        }
    }
    for node in watcher.registry.nodes().await? {
        let now = SystemTime::now();
        let off = now
            .duration_since(node.last_seen)
            .unwrap_or_else(|error| error.duration());
        assert!(
            off < HOUR / 60,
            "{} was last seen {off:?} from now, by its own clock",
            node.id
        );
    }
    assert!(
        eyes.sees(&behind) && eyes.sees(&ahead),
        "one that speaks is given up"
    );
    for node in [&behind, &ahead] {
        until_it_leaves(&bus, &mut eyes, node, last).await;
        assert_eq!(eyes.story(&node.id), "JL");
    }
    let left = eyes
        .told
        .iter()
        .filter(|(_, event)| matches!(event, NodeEvent::Left(_)));
    assert_eq!(left.count(), 2);
    Ok(())
}
