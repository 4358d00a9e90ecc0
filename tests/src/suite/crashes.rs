//! Processes that are killed: rows 21, 22, 27, 28, 45 and 57.

use std::collections::BTreeSet;

use catga::prelude::Result;

use crate::crew::{Crew, effects, runs, stops};
use crate::evidence::{Event, What};
use crate::harness::{Bus, scenarios};

scenarios! { Backend "crashes":
    Real killed_before_the_effect [21],
    Real killed_before_the_effect_exactly_once [21, 22],
    Real killed_after_the_effect [22],
    Real killed_after_the_effect_exactly_once [22],
    Real a_live_member_takes_over [27],
    Real its_own_backlog_after_a_restart [28],
    Real a_publisher_that_dies_publishes_again [45],
    Real rolling_restart [57],
}

/// Whether a handler of one of these messages began in a process.
fn began(process: &str, ids: std::ops::Range<u64>) -> impl FnMut(&Event) -> bool {
    let mut open: BTreeSet<_> = ids.collect();
    move |event| {
        if let (What::Started { .. }, Some(id)) = (&event.what, event.id)
            && event.process == process
        {
            open.remove(&id);
        }
        open.is_empty()
    }
}

/// Row 21: a consumer that is killed inside a handler, before its effect: another one handles the message, and is told.
async fn killed_before_the_effect(bus: Bus) -> Result<()> {
    killed(bus, false, true).await
}

/// Row 21 at QoS 2, and row 22 the other way round: its effect happens exactly once.
async fn killed_before_the_effect_exactly_once(bus: Bus) -> Result<()> {
    killed(bus, true, true).await
}

/// Row 22: a consumer that is killed between effect and completion: a plain effect happens twice, a keyed one once.
async fn killed_after_the_effect(bus: Bus) -> Result<()> {
    killed(bus, false, false).await
}

/// Row 22 at QoS 2.
async fn killed_after_the_effect_exactly_once(bus: Bus) -> Result<()> {
    killed(bus, true, false).await
}

async fn killed(bus: Bus, once: bool, before_the_effect: bool) -> Result<()> {
    let mut crew = Crew::of_processes(&bus, once).await?;
    crew.start("first", |part| part.stops = stops(0..1, before_the_effect))
        .await?;
    crew.publish(0..10).await?;
    if before_the_effect {
        crew.wait_for("the handler begins", began("first", 0..1))
            .await?;
    } else {
        crew.wait_for("the effect happens", |event| {
            event.id == Some(0) && matches!(event.what, What::Effect { .. })
        })
        .await?;
    }
    crew.wait_until_done(1..10).await?;
    crew.kill("first")?;
    crew.start("second", |_| {}).await?;
    crew.wait_until_done(0..10).await?;
    let (verdict, events) = crew.judge(0..10).await?;
    assert_eq!(verdict.kills.len(), 1);
    assert!(verdict.kills[0].own_handlers > 0, "nothing was in flight");
    assert_eq!(runs(&events, 0), [(1, false), (2, true)]);
    let plain = if before_the_effect { 1 } else { 2 };
    assert_eq!(effects(&events, 0), (plain, 1));
    for id in 1..10 {
        // One whose ack was still on its way may come again.
        assert_eq!(runs(&events, id)[0], (1, false), "message {id}");
        assert_eq!(effects(&events, id).1, 1, "message {id}");
    }
    Ok(())
}

/// Row 27: a member that lives gets all that a dead one held.
async fn a_live_member_takes_over(bus: Bus) -> Result<()> {
    let mut crew = Crew::of_processes(&bus, false).await?;
    crew.start("dying", |part| {
        part.stops = stops(0..20, true);
        part.concurrency = 20;
    })
    .await?;
    crew.publish(0..20).await?;
    crew.wait_for("it holds all", began("dying", 0..20)).await?;
    crew.start("living", |_| {}).await?;
    crew.publish(20..40).await?;
    crew.wait_until_done(20..40).await?;
    crew.kill("dying")?;
    crew.wait_until_done(0..40).await?;
    let (verdict, events) = crew.judge(0..40).await?;
    assert_eq!(verdict.kills[0].own_handlers, 20, "it did not hold them");
    for id in 0..20 {
        assert_eq!(runs(&events, id), [(1, false), (2, true)], "message {id}");
    }
    Ok(())
}

/// Row 28: a node that comes back under its own name handles what it held, and what came meanwhile.
async fn its_own_backlog_after_a_restart(bus: Bus) -> Result<()> {
    let mut crew = Crew::of_processes(&bus, false).await?;
    crew.start("same", |part| {
        part.stops = stops(0..20, true);
        part.concurrency = 20;
    })
    .await?;
    crew.publish(0..20).await?;
    crew.wait_for("it holds all", began("same", 0..20)).await?;
    crew.kill("same")?;
    crew.publish(20..40).await?;
    crew.start("same", |_| {}).await?;
    crew.wait_until_done(0..40).await?;
    let (verdict, events) = crew.judge(0..40).await?;
    assert_eq!(verdict.kills[0].own_handlers, 20, "it did not hold them");
    for id in 0..20 {
        assert_eq!(runs(&events, id), [(1, false), (2, true)], "message {id}");
    }
    Ok(())
}

/// Row 45: a publisher that dies, and publishes the same again from its outbox: each is handled once.
async fn a_publisher_that_dies_publishes_again(bus: Bus) -> Result<()> {
    let mut crew = Crew::of_processes(&bus, true).await?;
    crew.start("worker", |_| {}).await?;
    let mut published = 0;
    // A kill between two publishes leaves nothing unknown: then once more.
    loop {
        crew.start("publisher", |part| part.publishes = Some(0..2_000))
            .await?;
        let beyond = published + 50;
        crew.wait_for("it is at it", |event| {
            event.id == Some(beyond) && matches!(event.what, What::Published { .. })
        })
        .await?;
        published = beyond;
        crew.kill("publisher")?;
        if crew.has_open_publish()? || published > 1_000 {
            break;
        }
    }
    crew.start("publisher", |part| part.publishes = Some(0..2_000))
        .await?;
    crew.wait_until_done(0..2_000).await?;
    let (verdict, events) = crew.judge(0..2_000).await?;
    let open = verdict.kills.iter().any(|kill| kill.own_publishes > 0);
    assert!(open, "no kill hit a publish");
    for id in 0..2_000 {
        assert_eq!(effects(&events, id), (1, 1), "message {id}");
    }
    Ok(())
}

/// Row 57: three members are restarted one by one, three times over, cleanly and not: nothing is lost, and nothing is
/// handled twice but what ran in a process that was killed.
async fn rolling_restart(bus: Bus) -> Result<()> {
    let mut crew = Crew::of_processes(&bus, false).await?;
    let members = ["a", "b", "c"];
    let name = |member: &str, round: u32| format!("{member}-{round}");
    for member in members {
        crew.start(&name(member, 0), |part| member.clone_into(&mut part.node))
            .await?;
    }
    let mut published = 0;
    let mut killed = 0;
    for round in 0..3 {
        for member in members {
            crew.publish(published..published + 40).await?;
            published += 40;
            if round == 1 {
                crew.kill(&name(member, round))?;
                killed += 1;
            } else {
                crew.terminate(&name(member, round))?;
            }
            crew.publish(published..published + 40).await?;
            published += 40;
            crew.start(&name(member, round + 1), |part| {
                member.clone_into(&mut part.node);
            })
            .await?;
        }
    }
    crew.wait_until_done(0..published).await?;
    let (verdict, events) = crew.judge(0..published).await?;
    assert_eq!(verdict.kills.len(), killed);
    let ended_well = |process: &str| !process.ends_with("-1");
    for id in 0..published {
        let starts = events
            .iter()
            .filter(|event| event.id == Some(id) && matches!(event.what, What::Started { .. }));
        let starts: Vec<_> = starts.collect();
        if let [first, _, ..] = starts.as_slice() {
            let of_it = &first.process;
            assert!(
                !ended_well(of_it),
                "{of_it} ended well, and message {id} came again"
            );
        }
    }
    Ok(())
}
