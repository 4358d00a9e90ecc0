//! A long run in which the server and the workers are killed, again and again, at a steady rate of messages.
//!
//! `CATGA_LONG=1 cargo test -p catga-testkit --test conformance -- server_chaos::long_run --nocapture` takes more than a minute; without
//! it the same is shorter.

use std::time::Duration;

use catga::prelude::Result;
use tokio::time::{Instant, sleep_until};

use crate::checker::recovery_bound;
use crate::crew::Crew;
use crate::harness::{Bus, is_long, scenarios};
use crate::worker::Part;

scenarios! { Backend "server_chaos":
    Real long_run [58, 22, 57],
    Real long_run_exactly_once [58, 22, 57],
}

/// Who waits longer than that for a busy machine loses what it handles to another: its effects are repeated then, as they may be.
const LEASE: Duration = Duration::from_secs(3);

/// What a run is made of.
struct Plan {
    lasts: Duration,
    per_second: u32,
    servers: u32,
    workers: u32,
}

impl Plan {
    fn of_this_run(once: bool) -> Self {
        let lasts = Duration::from_secs(if is_long() { 60 } else { 6 });
        Self {
            lasts,
            per_second: rate(once),
            servers: if is_long() { 5 } else { 1 },
            workers: if is_long() { 10 } else { 2 },
        }
    }
}

/// So many messages by the second: `CATGA_RATE`, else what a busy machine with two cores keeps up with.
pub(super) fn rate(once: bool) -> u32 {
    let given = std::env::var("CATGA_RATE").ok();
    let usual = if once { 150 } else { 300 };
    given.and_then(|rate| rate.parse().ok()).unwrap_or(usual)
}

/// At QoS 1 nothing that was acknowledged is lost.
async fn long_run(bus: Bus) -> Result<()> {
    run(bus, false).await
}

/// At QoS 2 nothing is lost, and nothing completes twice.
async fn long_run_exactly_once(bus: Bus) -> Result<()> {
    run(bus, true).await
}

async fn run(bus: Bus, once: bool) -> Result<()> {
    let plan = Plan::of_this_run(once);
    let mut server = bus.own_server()?;
    let mut crew = Crew::of_processes(&server.bus(), once).await?;
    let members = ["a", "b", "c"];
    for member in members {
        crew.start(member, working).await?;
    }
    let load = crew.load(0, plan.per_second);
    let began = Instant::now();
    let kills = plan.servers + plan.workers;
    let mut servers = 0;
    for kill in 0..kills {
        // Spread over the run, the servers among the workers.
        sleep_until(began + plan.lasts * (kill + 1) / (kills + 1)).await;
        if servers < plan.servers && kill % 3 == 1 {
            servers += 1;
            crew.kill_server(&mut server)?;
        } else {
            let number = usize::try_from(kill - servers)?;
            kill_worker(&mut crew, members[number % members.len()]).await?;
        }
    }
    sleep_until(began + plan.lasts).await;
    let loaded = load.stop().await?;
    let end = loaded.end;
    crew.wait_until_done(0..end).await?;
    let (verdict, _) = crew
        .judge_by(0..end, |rules| {
            rules.lease = LEASE;
            rules.recovery = recovery_bound(LEASE, LEASE, LEASE, 3);
        })
        .await?;
    say(&format!(
        "{} messages at {:.0}/s in {:.1?}, seed {}\n{verdict}",
        end,
        loaded.rate(0),
        loaded.took,
        bus.seed()
    ));
    assert_eq!(verdict.published_ok, usize::try_from(end)?, "{verdict}");
    assert_eq!(verdict.kills.len(), usize::try_from(kills)?, "{verdict}");
    for kill in &verdict.kills {
        let (publishes, handlers) = (kill.publishes, kill.handlers);
        assert!(publishes + handlers > 0, "nothing was in flight: {verdict}");
    }
    drop(server);
    Ok(())
}

async fn kill_worker(crew: &mut Crew, name: &str) -> Result<()> {
    crew.kill(name)?;
    crew.start(name, working).await
}

/// Long enough that some are always at it.
fn working(part: &mut Part) {
    part.takes = Duration::from_millis(40);
    part.concurrency = 64;
    part.lease = LEASE;
}

#[allow(clippy::print_stdout, reason = "the verdict is what such a run is for")]
pub(super) fn say(text: &str) {
    println!("{text}");
}
