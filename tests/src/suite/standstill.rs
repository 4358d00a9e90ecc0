//! A process that stands still (SIGSTOP) while others go on.

use catga::Name;
use catga::prelude::Result;
use tokio::time::sleep;

use crate::crew::{Crew, LEASE, stops};
use crate::evidence::{Event, What};
use crate::harness::{Bus, scenarios};
use crate::worker::CREW;

scenarios! { Backend "standstill":
    Real given_while_it_stood,
}

/// A member that stands still while the server gives it a message, until its lease is over and another member handles it: what
/// it finds when it goes on is not its own any more, and it does not begin to handle it beside the other.
async fn given_while_it_stood(bus: Bus) -> Result<()> {
    let server = bus.own_server()?;
    let mut crew = Crew::of_processes(&server.bus(), false).await?;
    crew.start("stands", |_| {}).await?;
    let (message, group) = (crew.message(), Name::from_static(CREW));
    let mut id = 0;
    loop {
        crew.pause("stands")?;
        crew.publish([id]).await?;
        let backlog = server.site().backlog(&message, &group).await?;
        if backlog.is_some_and(|backlog| backlog.pending > 0) {
            break;
        }
        // It stood between two reads, and was given nothing: once more.
        crew.resume("stands")?;
        crew.wait_until_done(id..id + 1).await?;
        id += 1;
        assert!(id < 50, "it is never given anything while it stands");
    }
    crew.start("takes-over", |part| part.stops = stops(id..id + 1, true))
        .await?;
    crew.wait_for("the other handles it", |event| {
        event.process == "takes-over" && is_start(event, id)
    })
    .await?;
    crew.resume("stands")?;
    // Time enough to begin what it was given, and what is published now.
    crew.publish([id + 1]).await?;
    crew.wait_until_done(id + 1..id + 2).await?;
    sleep(LEASE).await;
    crew.kill("takes-over")?;
    crew.wait_until_done(0..id + 2).await?;
    let (_, events) = crew.judge(0..id + 2).await?;
    let began: Vec<_> = events
        .iter()
        .filter(|event| is_start(event, id))
        .map(|event| event.process.as_str())
        .collect();
    assert_eq!(began, ["takes-over", "stands"], "one behind the other");
    let killed = events
        .iter()
        .position(|event| matches!(event.what, What::Killed { .. }));
    let again = events
        .iter()
        .position(|event| event.process == "stands" && is_start(event, id));
    assert!(again > killed, "both handled it at once");
    Ok(())
}

fn is_start(event: &Event, id: u64) -> bool {
    event.id == Some(id) && matches!(event.what, What::Started { .. })
}
