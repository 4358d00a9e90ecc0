//! Acks that are on their way when their member is killed.

use std::time::Duration;

use catga::prelude::Result;
use catga::{HandlerError, Name};
use tokio::time::{Instant, sleep, timeout};

use crate::crew::Crew;
use crate::evidence::What;
use crate::harness::{Bus, SOON, is_long, scenarios};
use crate::outcome::Lacking;
use crate::proxy::{Direction, Fault};
use crate::worker::CREW;

scenarios! { Backend "acks":
    Real handled_and_not_acked,
}

/// How many handlers a member has at work.
const AT_WORK: u32 = 64;
/// Longer than any ack is on its way: what is handled again is so because of the kill.
const LEASE: Duration = Duration::from_secs(4);

/// What a member had handled when it was killed is handled again only as far as its acks were on their way: of no more messages than
/// its backend says, and those that its handlers had in hand. Acks are larger than reads; over a slow link they queue up.
async fn handled_and_not_acked(bus: Bus) -> Result<()> {
    let Some(on_their_way) = bus.subject().acks_on_their_way() else {
        let lacking = Lacking("nobody says how many acks may be on their way".to_owned());
        return Err(HandlerError::terminal(lacking));
    };
    let most = on_their_way + AT_WORK as usize;
    let mut chance = bus.chance();
    let server = bus.own_server()?;
    let mut crew = Crew::of_processes(&server.bus(), false).await?;
    let proxy = server.proxy().await?;
    let slow = server.bus_through(&proxy).url().to_owned();
    let (kills, stored) = if is_long() { (10, 20_000) } else { (2, 5_000) };
    // Its group is there before anything is published.
    crew.start("first", |_| {}).await?;
    crew.terminate("first")?;
    let mut load = crew.load(0, 4_000);
    load.more(stored).await?;
    let end = load.stop().await?.end;
    for kill in 1..=kills {
        // Before it begins: what it handles until then would be acked at once.
        let bytes_per_second = chance.u32(3_000..6_000);
        proxy.set(Direction::ToServer, Fault::Throttle { bytes_per_second });
        crew.start("dies", |part| {
            part.url.clone_from(&slow);
            part.concurrency = AT_WORK;
            part.takes = Duration::ZERO;
            part.lease = LEASE;
        })
        .await?;
        // At any moment; the last time when no more has room.
        let mut left = if kill < kills {
            chance.usize(200..most)
        } else {
            2 * most
        };
        let handles = crew.wait_for("it handles", |event| {
            let done = event.process == "dies" && matches!(event.what, What::Done { .. });
            left = left.saturating_sub(usize::from(done));
            left == 0
        });
        let _ = timeout(LEASE, handles).await;
        crew.kill("dies")?;
        // What is on the wire is lost, too.
        proxy.reset();
        proxy.heal();
    }
    crew.start("last", |part| {
        part.concurrency = AT_WORK;
        part.lease = LEASE;
    })
    .await?;
    crew.wait_until_done(0..end).await?;
    let (message, group) = (crew.message(), Name::from_static(CREW));
    let by = Instant::now() + SOON + LEASE;
    loop {
        let backlog = server.site().backlog(&message, &group).await?;
        if backlog.is_some_and(|backlog| (backlog.pending, backlog.waiting) == (0, 0)) {
            break;
        }
        assert!(Instant::now() < by, "left: {backlog:?}");
        sleep(Duration::from_millis(20)).await;
    }
    let (verdict, _) = crew
        .judge_by(0..end, |rules| {
            rules.lease = LEASE;
            rules.recovery += 3 * LEASE;
            if let Some(group) = rules.groups.get_mut(CREW) {
                group.again = Some(most);
                group.max_deliver = None;
            }
        })
        .await?;
    say(&format!("at most {most}, seed {}\n{verdict}", bus.seed()));
    assert_eq!(verdict.kills.len(), kills);
    let worst = verdict.kills.iter().map(|kill| kill.again).max();
    assert!(
        worst.is_some_and(|worst| worst > on_their_way / 2),
        "hardly any acks were on their way, which shows nothing: {verdict}"
    );
    Ok(())
}

#[allow(clippy::print_stdout, reason = "how near it came to the bound")]
fn say(text: &str) {
    println!("{text}");
}
