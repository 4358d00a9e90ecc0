//! What users' code and the clock can do to the framework at worst: it stays theirs.

use std::fmt;
use std::panic::panic_any;
use std::time::Duration;

use catga::prelude::{Event, FailWith, HandlerError, Request, Result, State, handler, handlers};
use catga::{ErrorKind, HealthStatus};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use super::requests::{asking, serving};
use crate::harness::{Bus, dead_letters, scenarios, wait_for_dead_letters, wait_until};
use crate::journal::{Journal, Step};
use crate::messages::{Ask, Work, on_ask, on_work};

scenarios! { Runtime "hostile":
    Paused an_error_whose_text_panics,
    Paused a_panic_whose_payload_panics,
    Paused a_message_whose_drop_panics,
    Paused dead_letters_that_are_full,
    Paused many_to_a_full_log,
    Paused endless_limits,
    Paused a_failing_node_gets_its_turns_alone,
    Paused a_fail_over_to_oneself_is_the_same_request,
    Paused a_remote_failure_may_have_run,
    Paused a_request_names_its_delay,
    Paused time_that_is_over [88],
    Paused strict_requests,
}

const MINUTE: Duration = Duration::from_secs(60);

/// An error that panics when it is read.
#[derive(Debug)]
struct Unreadable;

impl fmt::Display for Unreadable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("unreadable");
    }
}

impl std::error::Error for Unreadable {}

/// What panics once more when it is dropped.
struct Twice;

impl Drop for Twice {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "once more");
    }
}

/// An error whose text panics still means what was said of it, and stops nobody.
async fn an_error_whose_text_panics(bus: Bus) -> Result<()> {
    stays_alone(bus, ErrorKind::Handler, || Err(Unreadable.into())).await
}

/// A panic whose payload panics is a panic, and stops nobody.
async fn a_panic_whose_payload_panics(bus: Bus) -> Result<()> {
    stays_alone(bus, ErrorKind::Panic, || panic_any(Twice)).await
}

async fn stays_alone(bus: Bus, kind: ErrorKind, bad: fn() -> Result<()>) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(move |scene| async move {
        // Half of the bad ones are ready at once, the others in a task.
        if scene.id % 2 == 1 {
            tokio::task::yield_now().await;
        }
        if scene.id < 4 { bad() } else { Ok(()) }
    });
    let node = bus
        .node("a")
        .attempts(2)
        .state(play)
        .handlers(handlers![on_work, on_ask]);
    let node = node.start().await?;
    for id in 0..20 {
        node.publish(Work { id }).await?;
    }
    let letters = wait_for_dead_letters(node.backend(), 4).await?;
    assert!(
        letters
            .iter()
            .all(|letter| letter.reason.detail.contains("panicked")),
        "{letters:?}"
    );
    journal.wait(Step::Done, 16, MINUTE).await;
    for id in 0..4 {
        let error = node.send(Ask { id }).await.expect_err("it failed");
        assert_eq!(error.kind(), kind);
    }
    assert_eq!(node.send(Ask { id: 4 }).await?.id, 4);
    assert_eq!(node.health().status, HealthStatus::Up);
    Ok(())
}

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct Fragile(u32);

impl Drop for Fragile {
    fn drop(&mut self) {
        assert!(self.0 != 3 || std::thread::panicking(), "it broke");
    }
}

#[handler]
async fn on_fragile(event: &Fragile, State(seen): State<UnboundedSender<u32>>) -> Result<()> {
    Ok(seen.send(event.0)?)
}

/// A message whose drop panics, wherever the last holder is, stops nobody.
async fn a_message_whose_drop_panics(bus: Bus) -> Result<()> {
    let (seen, mut numbers) = unbounded_channel::<u32>();
    let node = bus
        .node("a")
        .state(seen)
        .handlers(handlers![on_fragile])
        .start()
        .await?;
    for number in 0..10 {
        node.publish(Fragile(number)).await?;
    }
    for number in 0..10 {
        let next = tokio::time::timeout(MINUTE, numbers.recv()).await?;
        assert_eq!(next, Some(number));
    }
    assert_eq!(node.health().status, HealthStatus::Up);
    Ok(())
}

/// What finds the dead letters full is not counted as dead-lettered, stays, and goes there later.
async fn dead_letters_that_are_full(bus: Bus) -> Result<()> {
    let bus = bus.with_option("dead_letters=1");
    let journal = Journal::default();
    let play = journal.play(|_| async { Err("no").terminal() });
    let node = bus
        .node("a")
        .state(play)
        .handlers(handlers![on_work])
        .start()
        .await?;
    for id in 0..2 {
        node.publish(Work { id }).await?;
    }
    wait_until("the second was tried again", 10 * MINUTE, || {
        journal.count(Step::Started) >= 4
    })
    .await;
    assert_eq!(node.handlers()[0].stats.dead_lettered, 1);
    let store = node
        .backend()
        .dead_letters
        .clone()
        .expect("memory keeps them");
    store.purge(&catga::DeadLetterFilter::all()).await?;
    wait_until("the other came", 10 * MINUTE, || {
        node.handlers()[0].stats.dead_lettered == 2
    })
    .await;
    assert_eq!(dead_letters(node.backend()).await?.len(), 1);
    Ok(())
}

/// Publishing many has one deadline, however many fail.
async fn many_to_a_full_log(bus: Bus) -> Result<()> {
    let bus = bus.with_option("capacity=1");
    let journal = Journal::default();
    let play = journal.play(|_| std::future::pending());
    let limit = Duration::from_secs(5);
    let node = bus
        .node("a")
        .publish_deadline(limit)
        .state(play)
        .handlers(handlers![on_work]);
    let node = node.start().await?;
    let began = Instant::now();
    let outcomes = node.publish_many((0..50).map(|id| Work { id })).await;
    assert!(
        began.elapsed() < limit + Duration::from_millis(250),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    node.shutdown_within(Duration::ZERO).await?;
    Ok(())
}

/// The longest of all limits is one too.
async fn endless_limits(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = bus
        .node("a")
        .publish_deadline(Duration::MAX)
        .request_deadline(Duration::MAX);
    let node = node.handler_timeout(Duration::MAX).state(journal.plain());
    let node = node.handlers(handlers![on_work, on_ask]).start().await?;
    node.publish(Work { id: 0 }).await?;
    assert_eq!(node.send(Ask { id: 1 }).await?.id, 1);
    journal.wait(Step::Done, 2, MINUTE).await;
    node.shutdown_within(Duration::MAX).await?;
    Ok(())
}

/// A node that fails gets its turns and no more: a failure does not draw the next request.
async fn a_failing_node_gets_its_turns_alone(bus: Bus) -> Result<()> {
    let good = Journal::default();
    let bad = Journal::default();
    let _good = serving(&bus, "good", good.plain()).await?;
    let _bad = serving(&bus, "bad", bad.play(|_| async { Err("no").terminal() })).await?;
    let caller = asking(&bus, 3).await?;
    for id in 0..20 {
        let _ = caller.send(Ask { id }).await;
    }
    assert_eq!(
        (good.count(Step::Started), bad.count(Step::Started)),
        (10, 10)
    );
    Ok(())
}

/// A request that fails over to the node that sends it keeps its id, and is no first attempt.
async fn a_fail_over_to_oneself_is_the_same_request(bus: Bus) -> Result<()> {
    let (there, here) = (Journal::default(), Journal::default());
    let _a = serving(
        &bus,
        "a",
        there.play(|_| async { Err(HandlerError::retry("busy")) }),
    )
    .await?;
    let b = serving(&bus, "b", here.plain()).await?;
    wait_until("they know each other", MINUTE, || b.nodes().len() == 2).await;
    // One of two goes to the other node first, and comes back.
    for id in 0..2 {
        b.send(Ask { id }).await?;
    }
    let failed = there.all(Step::Started);
    assert_eq!(failed.len(), 1);
    let again = here.starts(failed[0].id);
    assert_eq!(again.len(), 1);
    assert_eq!((failed[0].attempt, again[0].attempt), (1, 2));
    Ok(())
}

/// A failure of a handler on another node says that the request may have run, as one here does.
async fn a_remote_failure_may_have_run(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let a = serving(
        &bus,
        "a",
        journal.play(|_| async { Err("half-way").terminal() }),
    )
    .await?;
    let caller = asking(&bus, 2).await?;
    let there = caller.send(Ask { id: 0 }).await.expect_err("it failed");
    let here = a.send_to("a", Ask { id: 1 }).await.expect_err("it failed");
    assert!(there.may_be_stored() && here.may_be_stored());
    assert_eq!(there.message(), here.message());
    Ok(())
}

/// A request whose handler names a delay is not tried again before it.
async fn a_request_names_its_delay(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let delay = Duration::from_secs(3);
    let play = journal.play(move |scene| async move {
        if scene.attempt == 1 {
            Err(HandlerError::retry_after("busy", delay))
        } else {
            Ok(())
        }
    });
    let _a = serving(&bus, "a", play).await?;
    let caller = asking(&bus, 2).await?;
    caller.send(Ask { id: 0 }).await?;
    let starts = journal.starts(0);
    assert_eq!(starts.len(), 2);
    assert!(starts[1].at - starts[0].at >= delay);
    Ok(())
}

#[derive(Request, Serialize, Deserialize)]
#[request(idempotent = false)]
struct Outer(u32);

/// Uses up its time, and asks then.
#[handler]
async fn outer(request: Outer, context: catga::Context) -> Result<()> {
    tokio::time::sleep(context.time_left().unwrap_or_default()).await;
    context.send(Ask { id: request.0 }).await?;
    Ok(())
}

/// Row 88: a request of a handler whose own time is over is not begun, on this node neither.
async fn time_that_is_over(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = bus
        .node("a")
        .state(journal.plain())
        .handlers(handlers![outer, on_ask]);
    let node = node.start().await?;
    let error = node.send(Outer(7)).await.expect_err("it is too late");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    wait_until("the handler ended", MINUTE, || {
        node.handlers()
            .iter()
            .any(|handler| handler.name == "outer" && handler.stats.failed == 1)
    })
    .await;
    assert_eq!(journal.starts(7), []);
    Ok(())
}

#[derive(Request, Serialize, Deserialize)]
#[response(Secret)]
#[request(idempotent = false)]
struct Reveal(Secret);

#[derive(Default, Serialize, Deserialize)]
struct Secret {
    #[serde(skip)]
    hidden: u32,
}

#[handler]
async fn reveal(request: Reveal) -> Result<Secret> {
    Ok(Secret {
        hidden: request.0.hidden + 1,
    })
}

/// With `strict`, a request that is answered here loses what it would lose on the way to another node.
async fn strict_requests(bus: Bus) -> Result<()> {
    for (strict, hidden) in [(false, 8), (true, 0)] {
        let node = bus
            .node(if strict { "strict" } else { "plain" })
            .strict(strict);
        let node = node.handlers(handlers![reveal]).start().await?;
        let answer = node.send(Reveal(Secret { hidden: 7 })).await?;
        assert_eq!(answer.hidden, hidden, "strict = {strict}");
        node.shutdown().await?;
    }
    Ok(())
}
