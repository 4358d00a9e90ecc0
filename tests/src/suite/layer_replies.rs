//! Answers and refusals on their way out through layers.

use std::time::Duration;

use catga::prelude::{Catga, Context, Request, Result, State, handler, handlers};
use catga::{ErrorKind, HealthStatus};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tower::limit::{ConcurrencyLimitLayer, RateLimitLayer};
use tower::load_shed::LoadShedLayer;

use crate::harness::{Bus, PLANNED, SOON, scenarios, wait_until};
use crate::journal::{Journal, Play, Step};
use crate::messages::{Ask, Tick, on_ask, on_tick};

scenarios! { Runtime "layer_replies":
    Paused a_response_that_panics_when_it_is_dropped,
    Paused a_response_that_panics_when_it_is_dropped_behind_a_layer,
    Paused turned_away_at_most_once,
}

const SECOND: Duration = Duration::from_secs(1);

/// A response that panics when it is dropped where it was made.
#[derive(Debug, Serialize, Deserialize)]
struct Bomb {
    id: u32,
    #[serde(skip)]
    armed: bool,
}

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(!self.armed || std::thread::panicking(), "{PLANNED}");
    }
}

#[derive(Request, Clone, Debug, Serialize, Deserialize)]
#[response(Bomb)]
#[request(idempotent = false)]
struct Arm {
    id: u32,
}

#[handler]
async fn on_arm(arm: Arm, context: Context, State(play): State<Play>) -> Result<Bomb> {
    play.act("on_arm", arm.id, &context).await?;
    let (id, armed) = (arm.id, true);
    Ok(Bomb { id, armed })
}

/// A response that panics when it is dropped is a panic of its handler's: its caller is told at once, its place
/// comes free, and nobody else is disturbed.
async fn a_response_that_panics_when_it_is_dropped(bus: Bus) -> Result<()> {
    let node = bus.node("a").state(Journal::default().plain());
    let node = node.concurrency(1).handlers(handlers![on_arm, on_ask]);
    survives(&bus, node.start().await?).await
}

/// The same where a layer passes it on.
async fn a_response_that_panics_when_it_is_dropped_behind_a_layer(bus: Bus) -> Result<()> {
    let node = bus.node("a").state(Journal::default().plain());
    let node = node.layer(RateLimitLayer::new(100_000, SECOND));
    let node = node.concurrency(1).handlers(handlers![on_arm, on_ask]);
    survives(&bus, node.start().await?).await
}

async fn survives(bus: &Bus, node: Catga) -> Result<()> {
    let caller = bus.node("caller").request_retries(0);
    let caller = caller.handlers(handlers![]).start().await?;
    wait_until("it is seen", SOON, || caller.nodes().len() == 2).await;
    for id in 0..3 {
        let began = Instant::now();
        match caller.send(Arm { id }).await {
            Ok(bomb) => assert_eq!(bomb.id, id),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Panic, "{error:?}"),
        }
        let took = began.elapsed();
        assert!(took < SECOND, "its caller was told after {took:?}");
        assert_eq!(caller.send(Ask { id }).await?.id, id);
    }
    assert!(node.handlers().iter().all(|info| info.stats.in_flight == 0));
    assert_eq!(node.health().status, HealthStatus::Up);
    assert_eq!(node.shutdown().await?.unfinished, 0);
    Ok(())
}

/// A QoS 0 message that a layer turns away is gone, and counted as dropped.
async fn turned_away_at_most_once(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|_| async {
        tokio::time::sleep(SECOND / 20).await;
        Ok(())
    });
    let node = bus.node("a").state(play).layer(LoadShedLayer::new());
    let node = node.layer(ConcurrencyLimitLayer::new(1));
    let node = node.handlers(handlers![on_tick]).start().await?;
    for id in 0..20 {
        node.publish(Tick { id }).await?;
    }
    tokio::time::sleep(20 * SECOND).await;
    let stats = node.handlers()[0].stats;
    let handled = u64::try_from(journal.count(Step::Done))?;
    assert!(handled < 20, "nothing was turned away");
    assert_eq!((stats.handled, stats.failed), (handled, 0));
    assert_eq!(stats.dropped, 20 - handled, "turned away, and not counted");
    Ok(())
}
