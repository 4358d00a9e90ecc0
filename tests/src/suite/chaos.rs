//! Everything at once: handlers that fail in every way, members that come and go, and a checker that reads what they wrote.

use catga::prelude::Result;

use crate::checker::Invariant;
use crate::crew::Crew;
use crate::harness::{Bus, scenarios};

scenarios! { Backend "chaos":
    Real at_least_once,
    Real exactly_once,
}

const MESSAGES: u64 = 600;

/// At QoS 1 every invariant holds while handlers err, panic, hang and give up, and members leave and join.
async fn at_least_once(bus: Bus) -> Result<()> {
    chaos(bus, false).await
}

/// At QoS 2 the same.
async fn exactly_once(bus: Bus) -> Result<()> {
    chaos(bus, true).await
}

async fn chaos(bus: Bus, once: bool) -> Result<()> {
    let mut chance = bus.chance();
    let mut crew = Crew::new(&bus, once).await?;
    let mut members = Vec::new();
    let mut published = 0;
    while published < MESSAGES {
        while members.len() < 3 {
            // Whoever comes again is another process.
            let member = format!("member-{published}-{}", members.len());
            crew.start_here(&member, |part| part.trouble = Some(bus.seed()))
                .await?;
            members.push(member);
        }
        let more = chance.u64(1..80).min(MESSAGES - published);
        crew.publish(published..published + more).await?;
        published += more;
        let member = members.swap_remove(chance.usize(..members.len()));
        crew.stop_here(&member).await?;
    }
    crew.wait_until_done(0..MESSAGES).await?;
    let (verdict, _) = crew.judge(0..MESSAGES).await?;
    assert_eq!(verdict.published_ok, usize::try_from(MESSAGES)?);
    assert!(verdict.dead_lettered > 0, "nothing was given up: {verdict}");
    let unchecked = verdict.unchecked();
    let mut checked = vec![Invariant::I1, Invariant::I5, Invariant::I8, Invariant::I11];
    checked.push(if once { Invariant::I4 } else { Invariant::I3 });
    for invariant in checked {
        assert!(
            !unchecked.contains(&invariant),
            "{invariant} has no evidence"
        );
    }
    Ok(())
}
