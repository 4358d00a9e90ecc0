//! The places of a handler: who waits for one, who takes one from others, and what nobody begins any more.

use std::future::pending;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use catga::prelude::{Catga, Context, FailWith, Result, State, handler, handlers};
use catga::{CatgaBuilder, ErrorKind, MessageId};
use tokio::time::{Instant, sleep, timeout};
use tower::limit::RateLimitLayer;

use crate::harness::{Bus, SOON, scenarios, wait_until};
use crate::journal::{Journal, Play, Step};
use crate::messages::{Ask, Work, on_ask, on_work};
use crate::parts::{Invoice, Order, on_invoice, on_order};

scenarios! { Runtime "places":
    Paused a_batch_that_waits,
    Paused a_request_that_waits_at_the_stop [52],
    Paused a_request_that_waits_behind_layers_at_the_stop,
    Paused duplicates_of_what_runs_elsewhere,
    Paused a_duplicate_of_what_runs_here,
    Paused a_duplicate_of_what_runs_here_behind_a_layer,
    Paused a_paused_member_passes_on_what_it_receives,
    Paused a_broken_member_passes_on_what_it_receives,
}

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// A layer that lets all of these through.
fn wide() -> RateLimitLayer {
    RateLimitLayer::new(100_000, SECOND)
}

/// A batch whose handler may suddenly run one at a time does not wait for places until its leases are over:
/// nothing is handled twice, or counted.
async fn a_batch_that_waits(bus: Bus) -> Result<()> {
    let slow = Arc::new(OnceLock::<Catga>::new());
    let control = Arc::clone(&slow);
    let journal = Journal::default();
    let play = journal.play(move |scene| {
        let control = Arc::clone(&control);
        async move {
            if (scene.id, scene.context.node().as_str()) == (0, "slow") {
                // While the rest of its batch has not begun.
                let node = control.get().expect("it is set before it is published to");
                node.handler("on_work")?.concurrency(1)?;
                node.handler("on_invoice")?.concurrency(1)?;
                sleep(35 * SECOND).await;
            }
            sleep(3 * SECOND).await;
            Ok(())
        }
    });
    let node = |id| {
        let node = bus.node(id).state(play.clone());
        let node = node.handler_timeout(5 * MINUTE);
        node.handlers(handlers![on_work, on_invoice])
    };
    let first = node("slow").start().await?;
    let _ = slow.set(first.clone());
    let works: Vec<_> = (0..20).map(|id| Work { id }).collect();
    for outcome in first.publish_many(works).await {
        outcome?;
    }
    let invoices: Vec<_> = (20..40).map(|id| Invoice { id }).collect();
    for outcome in first.publish_many(invoices).await {
        outcome?;
    }
    journal.wait(Step::Started, 1, SOON).await;
    let second = node("other").start().await?;
    sleep(10 * MINUTE).await;
    assert_eq!(journal.handled(), (0..40).collect::<Vec<_>>());
    let mut starts = journal.all(Step::Started);
    assert_eq!(starts.len(), 40, "run twice");
    starts.retain(|note| note.attempt > 1);
    assert!(starts.is_empty(), "counted: {starts:?}");
    assert_eq!(crate::reliable::lost(&[&first, &second]), 0);
    Ok(())
}

/// Row 52: a request that waits for a place on its own node when that is stopped is never begun, and its caller
/// is told.
async fn a_request_that_waits_at_the_stop(bus: Bus) -> Result<()> {
    stopped_while_waiting(bus.node("a")).await
}

/// So is one that has layers before it.
async fn a_request_that_waits_behind_layers_at_the_stop(bus: Bus) -> Result<()> {
    stopped_while_waiting(bus.node("a").layer(wide())).await
}

async fn stopped_while_waiting(node: CatgaBuilder) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.id == 0 {
            pending::<()>().await;
        }
        Ok(())
    });
    let node = node.state(play).concurrency(1).request_deadline(None);
    let node = node.handlers(handlers![on_ask]).start().await?;
    let ask = |id| {
        let node = node.clone();
        tokio::spawn(async move { node.send(Ask { id }).await })
    };
    let runs = ask(0);
    journal.wait(Step::Started, 1, SOON).await;
    let waits = ask(1);
    // Until it waits, which nobody can see.
    sleep(SECOND).await;
    node.shutdown_within(2 * SECOND).await?;
    for (asked, may_have_run) in [(runs, true), (waits, false)] {
        let answer = timeout(SECOND, asked).await??;
        let error = answer.expect_err("the node was stopped");
        assert_eq!(error.kind(), ErrorKind::Closed);
        assert_eq!(error.may_be_stored(), may_have_run, "{error:?}");
    }
    sleep(MINUTE).await;
    assert_eq!(journal.starts(1), [], "begun after the stop");
    Ok(())
}

/// What a node answers to an order of 8 s, one a moment later with the same id to `duplicate_to`, and another
/// one there: how long the last takes.
async fn behind_a_duplicate(
    bus: &Bus,
    duplicate_to: &'static str,
    build: impl Fn(CatgaBuilder) -> CatgaBuilder,
) -> Result<Duration> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.id == 1 {
            sleep(8 * SECOND).await;
        }
        Ok(())
    });
    let node = |id| {
        let node = bus.node(id).state(play.clone());
        build(node).handlers(handlers![on_order])
    };
    let _nodes = (node("a").start().await?, node("b").start().await?);
    let caller = bus.observer().await?;
    wait_until("both are seen", SOON, || caller.nodes().len() == 3).await;
    let order = |to| {
        let caller = caller.clone();
        tokio::spawn(async move {
            let order = caller.request(Order { id: 1 }).to(to);
            order.id(MessageId::from_key("order")).send().await
        })
    };
    let first = order("a");
    journal.wait(Step::Started, 1, SOON).await;
    let second = order(duplicate_to);
    // Until it waits for the first, which nobody can see.
    sleep(SECOND / 10).await;
    let began = Instant::now();
    let other = caller.request(Order { id: 2 }).to(duplicate_to);
    other.send().await?;
    let took = began.elapsed();
    assert_eq!(first.await??, second.await??);
    assert_eq!(journal.starts(1).len(), 1);
    Ok(took)
}

/// A duplicate that waits for a run on another node takes no place from who could run.
async fn duplicates_of_what_runs_elsewhere(bus: Bus) -> Result<()> {
    let took = behind_a_duplicate(&bus, "b", |node| node.concurrency(1)).await?;
    assert!(took < SECOND, "a duplicate held it up for {took:?}");
    Ok(())
}

/// A duplicate that waits for a run on its own node holds up nobody.
async fn a_duplicate_of_what_runs_here(bus: Bus) -> Result<()> {
    let took = behind_a_duplicate(&bus, "a", |node| node).await?;
    assert!(took < SECOND, "a duplicate held it up for {took:?}");
    Ok(())
}

/// Nor where the handler has layers, which one call at a time is ready for.
async fn a_duplicate_of_what_runs_here_behind_a_layer(bus: Bus) -> Result<()> {
    let took = behind_a_duplicate(&bus, "a", |node| node.layer(wide())).await?;
    assert!(took < SECOND, "a duplicate held it up for {took:?}");
    Ok(())
}

#[handler(group = "workers", breaker(failures = 1, open = "20s"))]
async fn fragile_work(work: Work, context: Context, State(play): State<Play>) -> Result<()> {
    play.act("fragile_work", work.id, &context).await
}

/// Publishes ten to a group, and asserts that they are all handled at once, on `node`.
async fn at_once_on(node: &str, publisher: &Catga, journal: &Journal) -> Result<()> {
    let (began, before) = (Instant::now(), journal.count(Step::Started));
    let works: Vec<_> = (1..=10).map(|id| Work { id }).collect();
    for outcome in publisher.publish_many(works).await {
        outcome?;
    }
    journal.wait(Step::Done, 10, 2 * MINUTE).await;
    let notes = journal.all(Step::Started).split_off(before);
    let late = notes.iter().map(|note| note.at - began).max();
    assert!(late < Some(SECOND), "one waited {late:?}");
    assert!(
        notes
            .iter()
            .all(|note| note.node == node && note.attempt == 1)
    );
    Ok(())
}

/// A member that is paused while it waits for messages leaves them to the others, at once.
async fn a_paused_member_passes_on_what_it_receives(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = |id| {
        let node = bus.node(id).state(journal.plain());
        node.handlers(handlers![on_work])
    };
    let (a, _b) = (node("a").start().await?, node("b").start().await?);
    // Until it waits, which nobody can see.
    sleep(3 * SECOND / 2).await;
    a.handler("on_work")?.pause();
    sleep(3 * SECOND / 2).await;
    at_once_on("b", &a, &journal).await
}

/// So does one whose breaker opens.
async fn a_broken_member_passes_on_what_it_receives(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.id == 0 {
            sleep(5 * SECOND / 2).await;
            Err("broken").retry_after(10 * MINUTE)?;
        }
        Ok(())
    });
    let node = |id| bus.node(id).state(play.clone());
    let a = node("a").handlers(handlers![fragile_work]).start().await?;
    a.publish(Work { id: 0 }).await?;
    journal.wait(Step::Started, 1, SOON).await;
    let b = node("b").handlers(handlers![on_work]).start().await?;
    journal.wait(Step::Failed, 1, SOON).await;
    sleep(SECOND).await;
    at_once_on("b", &b, &journal).await
}
