//! A server that takes the place of another: row 65.

use catga::prelude::Result;

use crate::crew::Crew;
use crate::evidence::What;
use crate::harness::{Bus, scenarios};
use crate::site::SiteOptions;

scenarios! { Backend "server_failover":
    Real the_primary_is_killed [65],
    Real the_primary_steps_down [65],
}

/// Row 65: the primary is killed, and its replica takes over: nothing is lost that was told to be stored when the replica had it.
async fn the_primary_is_killed(bus: Bus) -> Result<()> {
    fail_over(bus, true).await
}

/// Row 65: the primary becomes a replica, which takes no writes: who was connected to it goes to the other.
async fn the_primary_steps_down(bus: Bus) -> Result<()> {
    fail_over(bus, false).await
}

async fn fail_over(bus: Bus, killed: bool) -> Result<()> {
    let mut server = bus.own_server_with(&SiteOptions {
        stand_by: true,
        ..SiteOptions::default()
    })?;
    let mut crew = Crew::new(&server.bus(), false).await?;
    for member in ["a", "b"] {
        crew.start_here(member, |_| {}).await?;
    }
    let mut load = crew.load(0, 100);
    load.more(100).await?;
    let fault = || "fail-over".to_owned();
    crew.note(What::FaultBegun { fault: fault() })?;
    server.fail_over(killed)?;
    crew.note(What::FaultHealed { fault: fault() })?;
    load.more(100).await?;
    let end = load.stop().await?.end;
    crew.wait_until_done(0..end).await?;
    let (verdict, _) = crew.judge(0..end).await?;
    assert_eq!(verdict.published_ok, usize::try_from(end)?, "{verdict}");
    Ok(())
}
