//! Layers of `tower` stand around handlers as they are, and the messages keep their guarantees.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use catga::prelude::{Catga, FailWith, Request, Result, handler, handlers};
use catga::{Call, CallError, CatgaBuilder, ErrorKind, HandlerError, Reply};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::JoinSet;
use tower::BoxError;
use tower::limit::{ConcurrencyLimitLayer, RateLimitLayer};
use tower::load_shed::LoadShedLayer;
use tower::load_shed::error::Overloaded;
use tower::retry::{Policy, RetryLayer};
use tower::timeout::TimeoutLayer;
use tower::util::{MapRequestLayer, ThenLayer};

use crate::harness::{Bus, PLANNED, SOON, dead_letters, scenarios, wait_until};
use crate::journal::{Journal, Play, Step};
use crate::messages::{Ask, Other, Tick, Work, on_ask, on_other, on_tick, on_work};
use crate::parts::{Invoice, Order, on_invoice, on_order};

scenarios! { Runtime "layers":
    Paused time_out,
    Paused time_out_of_requests,
    Paused concurrency_limit,
    Paused rate_limit,
    Paused load_shed,
    Paused load_shed_of_requests,
    Paused retry_over_a_rate,
    Paused for_one_handler_alone,
    Paused outermost_first,
    Paused responses_arrive_unchanged,
}

pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) async fn started(node: CatgaBuilder, play: Play) -> Result<Catga> {
    let node = node.state(play).request_deadline(10 * MINUTE);
    let handlers = handlers![on_tick, on_work, on_invoice, on_ask, on_order, on_other];
    Ok(node.handlers(handlers).start().await?)
}

/// A node that only sends, and sees so many others.
pub(super) async fn caller(bus: &Bus, others: usize) -> Result<Catga> {
    let caller = bus.node("caller").handlers(handlers![]);
    let caller = caller.request_deadline(10 * MINUTE).start().await?;
    wait_until("all are seen", SOON, || caller.nodes().len() == others + 1).await;
    Ok(caller)
}

/// Of each sort so many messages: QoS 0 from 1000, QoS 1 from 2000, QoS 2 from 3000.
pub(super) async fn publish_all(node: &Catga, count: u32) -> Result<()> {
    for id in 0..count {
        node.publish(Tick { id: 1000 + id }).await?;
        node.publish(Work { id: 2000 + id }).await?;
        node.publish(Invoice { id: 3000 + id }).await?;
    }
    Ok(())
}

/// The most that ran at once of one handler.
fn peak(journal: &Journal, handler: &str) -> usize {
    let (mut now, mut peak) = (0_usize, 0);
    for note in journal.notes() {
        if note.handler != handler {
            continue;
        }
        if note.step == Step::Started {
            now += 1;
        } else {
            now -= 1;
        }
        peak = peak.max(now);
    }
    peak
}

/// The most starts of one handler within any `time`.
pub(super) fn burst(journal: &Journal, handler: &str, time: Duration) -> usize {
    let mut starts = journal.all(Step::Started);
    starts.retain(|note| note.handler == handler);
    let within = |i: usize| {
        let of_it = starts[i..].iter();
        of_it
            .take_while(|note| note.at - starts[i].at < time)
            .count()
    };
    (0..starts.len()).map(within).max().unwrap_or_default()
}

/// `TimeoutLayer`: what takes longer is stopped, and tried again where the message may be.
async fn time_out(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.id % 10 == 0 && scene.attempt == 1 {
            tokio::time::sleep(MINUTE).await;
        }
        Ok(())
    });
    let node = bus.node("a").layer(TimeoutLayer::new(SECOND));
    let node = started(node, play).await?;
    publish_all(&node, 10).await?;
    journal.wait(Step::Done, 29, MINUTE).await;
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(journal.count(Step::Done), 29, "QoS 0 was tried again");
    let dropped = journal.all(Step::Dropped);
    assert_eq!(dropped.len(), 3);
    for id in [1000, 2000, 3000] {
        let starts = journal.starts(id);
        let end = dropped
            .iter()
            .find(|note| note.id == id)
            .expect("it was stopped");
        assert_eq!(end.at - starts[0].at, SECOND);
        assert_eq!(starts.len(), if id == 1000 { 1 } else { 2 });
        let last = starts[starts.len() - 1].attempt;
        assert_eq!(usize::try_from(last)?, starts.len());
    }
    for handler in node.handlers() {
        let failed = u64::from(["on_tick", "on_work", "on_invoice"].contains(&handler.name));
        assert_eq!((handler.stats.failed, handler.stats.in_flight), (failed, 0));
    }
    Ok(())
}

/// `TimeoutLayer`: the caller of a request is told of a time-out, and may try again.
async fn time_out_of_requests(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let count = journal.clone();
    let play = journal.play(move |scene| {
        let first = count.starts(scene.id).len() == 1;
        async move {
            if scene.id == 0 || first {
                tokio::time::sleep(MINUTE).await;
            }
            Ok(())
        }
    });
    let node = bus.node("a").layer(TimeoutLayer::new(SECOND));
    let node = started(node, play).await?;
    let caller = caller(&bus, 1).await?;
    // Here the one try fails; from elsewhere the second one is quick.
    let error = node.send(Ask { id: 1 }).await.expect_err("it takes longer");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(
        error.may_be_stored() && error.retry() != catga::Retry::Never,
        "{error:?}"
    );
    assert_eq!(node.send(Ask { id: 1 }).await?.id, 1);
    assert_eq!(caller.send(Ask { id: 2 }).await?.id, 2);
    assert!(caller.send(Order { id: 3 }).await?.may_have_run);
    let error = caller
        .send(Ask { id: 0 })
        .await
        .expect_err("it takes longer");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(journal.starts(0).len(), 4);
    assert!(node.handlers().iter().all(|h| h.stats.in_flight == 0));
    Ok(())
}

/// `ConcurrencyLimitLayer`: of each handler no more run at once, events and requests alike.
async fn concurrency_limit(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|_| async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok(())
    });
    let node = bus.node("a").layer(ConcurrencyLimitLayer::new(2));
    let node = started(node, play).await?;
    let caller = caller(&bus, 1).await?;
    publish_all(&caller, 50).await?;
    let mut calls = JoinSet::new();
    for id in 0..50 {
        let from = if id % 2 == 0 { &node } else { &caller }.clone();
        calls.spawn(async move {
            from.send(Ask { id }).await?;
            from.send(Order { id: 100 + id }).await.map(drop)
        });
    }
    for answer in calls.join_all().await {
        answer?;
    }
    journal.wait(Step::Done, 250, MINUTE).await;
    for handler in ["on_tick", "on_work", "on_invoice", "on_ask", "on_order"] {
        assert_eq!(peak(&journal, handler), 2, "{handler}");
        assert_eq!(journal.handled_by(handler).len(), 50, "{handler}");
    }
    assert_eq!(journal.count(Step::Started), 250, "something ran twice");
    Ok(())
}

/// `RateLimitLayer`: of each handler no more begin in a second.
async fn rate_limit(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = bus.node("a").layer(RateLimitLayer::new(10, SECOND));
    let node = started(node, journal.plain()).await?;
    let caller = caller(&bus, 1).await?;
    publish_all(&caller, 100).await?;
    let mut calls = JoinSet::new();
    for id in 0..100 {
        let from = if id % 2 == 0 { &node } else { &caller }.clone();
        calls.spawn(async move { from.send(Ask { id }).await });
    }
    for answer in calls.join_all().await {
        answer?;
    }
    journal.wait(Step::Done, 400, MINUTE).await;
    for handler in ["on_tick", "on_work", "on_invoice", "on_ask"] {
        assert_eq!(burst(&journal, handler, SECOND), 10, "{handler}");
        assert_eq!(journal.handled_by(handler).len(), 100, "{handler}");
    }
    assert_eq!(journal.count(Step::Started), 400, "something ran twice");
    Ok(())
}

/// `LoadShedLayer`: what is turned away did not run, uses up no attempt, and is tried again.
async fn load_shed(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|_| async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok(())
    });
    let turned_away = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&turned_away);
    let counting = ThenLayer::new(move |outcome: std::result::Result<Reply, BoxError>| {
        if outcome
            .as_ref()
            .is_err_and(|error| error.is::<Overloaded>())
        {
            count.fetch_add(1, Ordering::Relaxed);
        }
        ready(outcome)
    });
    let node = bus.node("a").concurrency(4).layer(counting);
    let node = node.backoff(Duration::from_millis(1), Duration::from_millis(50));
    let node = node
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(2));
    let node = started(node, play).await?;
    publish_all(&node, 100).await?;
    journal.wait(Step::Done, 200, 10 * MINUTE).await;
    tokio::time::sleep(10 * MINUTE).await;
    for (handler, first) in [("on_work", 2000), ("on_invoice", 3000)] {
        let all: Vec<_> = (first..first + 100).collect();
        assert_eq!(journal.handled_by(handler), all);
        assert_eq!(peak(&journal, handler), 2, "{handler}");
    }
    assert_eq!(journal.count(Step::Started), journal.count(Step::Done));
    assert!(dead_letters(node.backend()).await?.is_empty());
    assert!(
        turned_away.load(Ordering::Relaxed) > 0,
        "nothing was turned away"
    );
    let starts = journal.all(Step::Started);
    assert!(
        starts.iter().all(|note| note.attempt == 1),
        "an attempt was used up"
    );
    for handler in node.handlers() {
        assert_eq!(
            (handler.stats.in_flight, handler.stats.dead_lettered),
            (0, 0)
        );
    }
    Ok(())
}

/// `LoadShedLayer`: a request that is turned away goes to another node at once.
async fn load_shed_of_requests(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.id < 2 {
            tokio::time::sleep(20 * SECOND).await;
        }
        Ok(())
    });
    let shedding = |id| {
        let node = bus.node(id).layer(LoadShedLayer::new());
        started(node.layer(ConcurrencyLimitLayer::new(1)), play.clone())
    };
    let a = shedding("a").await?;
    let caller = caller(&bus, 1).await?;
    let held = {
        let a = a.clone();
        tokio::spawn(async move { a.send(Ask { id: 0 }).await })
    };
    journal.wait(Step::Started, 1, SOON).await;
    let error = a.send(Ask { id: 2 }).await.expect_err("there is no place");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(!error.may_be_stored(), "it did not run: {error:?}");
    assert_ne!(error.retry(), catga::Retry::Never);
    let _b = shedding("b").await?;
    wait_until("it is seen", SOON, || caller.nodes().len() == 3).await;
    for id in 3..10 {
        assert_eq!(caller.send(Ask { id }).await?.node, "b");
        assert_eq!(journal.starts(id).len(), 1);
    }
    assert_eq!(held.await??.node, "a");
    Ok(())
}

/// So many tries within an attempt.
#[derive(Clone)]
struct Tries(u32);

impl Policy<Call, Reply, BoxError> for Tries {
    type Future = std::future::Ready<()>;

    fn retry(
        &mut self,
        _: &mut Call,
        outcome: &mut std::result::Result<Reply, BoxError>,
    ) -> Option<Self::Future> {
        let error = outcome.as_ref().err()?;
        let final_ = CallError::is_terminal;
        if error.downcast_ref().is_some_and(final_) {
            return None;
        }
        self.0 = self.0.checked_sub(1)?;
        Some(ready(()))
    }

    fn clone_request(&mut self, call: &Call) -> Option<Call> {
        Some(call.clone())
    }
}

/// `RetryLayer`, over a rate limit: it tries again within one attempt; terminal errors go through.
async fn retry_over_a_rate(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let count = journal.clone();
    let play = journal.play(move |scene| {
        let runs = count.starts(scene.id).len();
        async move {
            match scene.id % 10 {
                0 => Err("never").terminal(),
                // With a panic among them.
                1 if runs == 1 => panic!("{PLANNED}"),
                1 if runs < 3 => Err(HandlerError::retry("not yet")),
                _ => Ok(()),
            }
        }
    });
    let node = bus.node("a").layer(RetryLayer::new(Tries(2)));
    let node = node.layer(RateLimitLayer::new(10, SECOND));
    let node = started(node, play).await?;
    let caller = caller(&bus, 1).await?;
    publish_all(&node, 10).await?;
    journal.wait(Step::Done, 27, MINUTE).await;
    for (id, runs) in [(0, 1), (1, 3), (2, 1)] {
        for first in [1000, 2000, 3000] {
            let starts = journal.starts(first + id);
            assert_eq!(starts.len(), runs, "{}", first + id);
            assert!(
                starts.iter().all(|note| note.attempt == 1),
                "the broker saw it"
            );
        }
    }
    assert_eq!(dead_letters(node.backend()).await?.len(), 2);
    for (from, id) in [(&node, 11), (&caller, 21)] {
        assert_eq!(from.send(Ask { id }).await?.id, id);
        assert_eq!(from.send(Order { id: 100 + id }).await?.id, 100 + id);
        assert_eq!(
            (journal.starts(id).len(), journal.starts(100 + id).len()),
            (3, 3)
        );
        let error = from.send(Order { id: 10 * id }).await.expect_err("never");
        assert_eq!(
            (error.kind(), error.retry()),
            (ErrorKind::Handler, catga::Retry::Never)
        );
        assert_eq!(journal.starts(10 * id).len(), 1);
    }
    Ok(())
}

/// `layer_for`: around the handlers that are named, and no other.
async fn for_one_handler_alone(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let limit = ConcurrencyLimitLayer::new(1);
    let node = bus.node("a").layer_for(handlers![on_work, on_ask], limit);
    let play = journal.play(|_| async {
        tokio::time::sleep(SECOND).await;
        Ok(())
    });
    let node = started(node, play).await?;
    for id in 0..10 {
        node.publish(Work { id }).await?;
        node.publish(Other { id: 10 + id }).await?;
    }
    let both = tokio::join!(node.send(Ask { id: 20 }), node.send(Ask { id: 21 }));
    assert_eq!((both.0?.id, both.1?.id), (20, 21));
    journal.wait(Step::Done, 22, MINUTE).await;
    for (handler, most) in [("on_work", 1), ("on_ask", 1), ("on_other", 10)] {
        assert_eq!(peak(&journal, handler), most, "{handler}");
    }
    Ok(())
}

/// The first that was added is the outermost; those of a handler are within those of the application.
async fn outermost_first(bus: Bus) -> Result<()> {
    let (seen, mut order) = unbounded_channel();
    let mark = |name: &'static str| {
        let seen = seen.clone();
        MapRequestLayer::new(move |call: Call| {
            let _ = seen.send((
                name,
                call.message(),
                call.handler(),
                call.attempt().number(),
            ));
            call
        })
    };
    let journal = Journal::default();
    let node = bus.node("a").layer_for(handlers![on_work], mark("inner"));
    let node = node.layer(mark("first")).layer(mark("second"));
    let node = node.layer_for(handlers![on_work, on_ask], mark("innermost"));
    let node = started(node, journal.plain()).await?;
    node.publish(Work { id: 0 }).await?;
    journal.wait(Step::Done, 1, SOON).await;
    node.send(Ask { id: 1 }).await?;
    let mut expected = Vec::new();
    for name in ["first", "second", "inner", "innermost"] {
        expected.push((name, "Work", "on_work", 1));
    }
    for name in ["first", "second", "innermost"] {
        expected.push((name, "Ask", "on_ask", 1));
    }
    let mut seen = Vec::new();
    while let Ok(next) = order.try_recv() {
        seen.push(next);
    }
    assert_eq!(seen, expected);
    Ok(())
}

#[derive(Request, Serialize, Deserialize)]
#[response(Sealed)]
#[request(idempotent = false)]
struct Open;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sealed {
    shown: u32,
    /// What no wire carries.
    #[serde(skip)]
    hidden: u32,
}

#[handler]
async fn open(_: Open) -> Result<Sealed> {
    let (shown, hidden) = (1, 2);
    Ok(Sealed { shown, hidden })
}

/// A direct call gets the very value back that its handler returned; another node what travels.
async fn responses_arrive_unchanged(bus: Bus) -> Result<()> {
    let node = bus.node("a").layer(TimeoutLayer::new(SECOND));
    let node = node
        .layer(RetryLayer::new(Tries(1)))
        .layer(ConcurrencyLimitLayer::new(3));
    let node = node.handlers(handlers![open]).start().await?;
    let caller = caller(&bus, 1).await?;
    for _ in 0..10 {
        let (here, there) = (node.send(Open).await?, caller.send(Open).await?);
        assert_eq!(
            (here.shown, here.hidden),
            (1, 2),
            "it was encoded on its way"
        );
        assert_eq!((there.shown, there.hidden), (1, 0));
    }
    Ok(())
}
