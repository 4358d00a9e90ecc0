//! A long run on servers that share the work, of which one is killed and another takes its place: at a steady rate of messages, while
//! workers are killed too.
//!
//! `CATGA_LONG=1 cargo test -p catga-testkit --test conformance -- redis::server_cluster --nocapture` takes some five minutes.

use std::time::Duration;

use catga::HandlerError;
use catga::prelude::Result;
use tokio::time::{Instant, sleep_until};

use crate::checker::recovery_bound;
use crate::crew::Crew;
use crate::harness::{Bus, is_long, scenarios};
use crate::outcome::Lacking;
use crate::suite::server_chaos::{rate, say};
use crate::worker::Part;

scenarios! { Backend "server_cluster":
    Real one_fails_over,
    Real one_fails_over_exactly_once,
    Real one_fails_over_and_replicas_are_waited_for,
    Real one_fails_over_and_replicas_are_waited_for_exactly_once,
}

/// How long a run takes, and how many workers are killed in it.
const LASTS: Duration = Duration::from_secs(60);
const WORKERS: u32 = 10;
/// Six servers, three workers and who publishes share the machine: each may have to wait for it.
const LEASE: Duration = Duration::from_secs(3);
/// How long before the kill of a server its replica stands still.
const BEHIND: Duration = Duration::from_millis(500);

/// At QoS 1 nothing is lost that was stored before the replica stood still.
async fn one_fails_over(bus: Bus) -> Result<()> {
    run(bus, false, false).await
}

/// The same at QoS 2.
async fn one_fails_over_exactly_once(bus: Bus) -> Result<()> {
    run(bus, true, false).await
}

/// Where a publish waits for the replica nothing is lost of which it returned Ok.
async fn one_fails_over_and_replicas_are_waited_for(bus: Bus) -> Result<()> {
    run(bus, false, true).await
}

/// The same at QoS 2.
async fn one_fails_over_and_replicas_are_waited_for_exactly_once(bus: Bus) -> Result<()> {
    run(bus, true, true).await
}

/// Long enough that some are always at it.
fn working(part: &mut Part) {
    part.takes = Duration::from_millis(40);
    part.concurrency = 64;
    part.lease = LEASE;
}

async fn run(bus: Bus, once: bool, waits: bool) -> Result<()> {
    if !is_long() {
        let lacking = Lacking("it takes minutes: CATGA_LONG=1".to_owned());
        return Err(HandlerError::terminal(lacking));
    }
    let bus = if waits {
        bus.limited("wait_replicas=1")?
    } else {
        bus
    };
    let mut servers = bus.own_cluster()?;
    let mut crew = Crew::of_processes(&servers.bus(), once).await?;
    let members = ["a", "b", "c"];
    for member in members {
        crew.start(member, working).await?;
    }
    let load = crew.load(0, rate(once));
    let began = Instant::now();
    let kills = WORKERS + 1;
    let mut was_behind = None;
    for kill in 0..kills {
        // Spread over the run, the server in the middle.
        sleep_until(began + LASTS * (kill + 1) / (kills + 1)).await;
        if kill == kills / 2 {
            was_behind = Some(crew.kill_and_replace(&mut servers, BEHIND).await?);
        } else {
            let member = members[kill as usize % members.len()];
            crew.kill(member)?;
            crew.start(member, working).await?;
        }
    }
    sleep_until(began + LASTS).await;
    let loaded = load.stop().await?;
    // On a machine that is too slow servers take others for dead, and what these were told meanwhile is lost.
    let fail_overs = servers.site().fail_overs()?;
    assert_eq!(fail_overs, 1, "no other server was to be taken for dead");
    let end = loaded.end;
    crew.wait_until_done(0..end).await?;
    let (verdict, _) = crew
        .judge_by(0..end, |rules| {
            rules.replication = was_behind.filter(|_| !waits);
            rules.lease = LEASE;
            // Hundreds of publishes wait for a server that is dead, and end at once.
            rules.publish_deadline += Duration::from_secs(1);
            rules.recovery = recovery_bound(LEASE, LEASE, LEASE, 3);
        })
        .await?;
    let was_behind = was_behind.unwrap_or_default();
    let allowed = if waits {
        "nothing may be lost of which a publish returned Ok".to_owned()
    } else {
        format!("what was stored in the last {was_behind:.1?} before the kill may be lost")
    };
    say(&format!(
        "{end} messages at {:.0}/s in {:.1?}, seed {}; {allowed}\n{verdict}",
        loaded.rate(0),
        loaded.took,
        bus.seed()
    ));
    assert_eq!(verdict.published_ok, usize::try_from(end)?, "{verdict}");
    assert_eq!(verdict.kills.len(), kills as usize, "{verdict}");
    for kill in &verdict.kills {
        let (publishes, handlers) = (kill.publishes, kill.handlers);
        assert!(publishes + handlers > 0, "nothing was in flight: {verdict}");
    }
    drop(servers);
    Ok(())
}
