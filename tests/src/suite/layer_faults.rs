//! Layers that are slow, panic, lie or are never ready, and what becomes of the messages.

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use catga::prelude::{Result, handlers};
use catga::{Call, Erased, ErrorKind, HandlerError, Reply};
use tokio::time::Instant;
use tower::layer::layer_fn;
use tower::limit::RateLimitLayer;
use tower::timeout::TimeoutLayer;
use tower::util::{BoxCloneService, ThenLayer};
use tower::{BoxError, Service};

use crate::harness::{Bus, PLANNED, SOON, dead_letters, scenarios, wait_until};
use crate::journal::{Journal, Step};
use crate::messages::{Answer, Ask, Work, on_ask, on_tick, on_work};
use crate::parts::{Invoice, Order, on_invoice, on_order};

use super::layers::{MINUTE, SECOND, burst, caller, publish_all, started};

scenarios! { Runtime "layer_faults":
    Paused a_slow_rate_holds_no_lease,
    Paused a_slow_rate_starves_no_other_node,
    Paused panics,
    Paused swallowed_errors,
    Paused for_a_handler_that_is_not_there,
    Paused shutdown_while_not_ready,
}

/// A rate that is far slower than the leases are long: nothing is lost, and nothing is handled twice.
async fn a_slow_rate_holds_no_lease(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = bus.node("a").ack_wait(30 * SECOND);
    let node = node.layer(RateLimitLayer::new(1, SECOND));
    let node = started(node, journal.plain()).await?;
    publish_all(&node, 100).await?;
    // Looking all the while would take long by the wall clock.
    tokio::time::sleep(95 * SECOND).await;
    journal.wait(Step::Done, 300, MINUTE).await;
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(journal.count(Step::Started), 300, "handled twice");
    assert!(
        journal
            .all(Step::Started)
            .iter()
            .all(|note| note.attempt == 1),
        "a lease ran out"
    );
    for handler in ["on_tick", "on_work", "on_invoice"] {
        assert_eq!(burst(&journal, handler, SECOND), 1, "{handler}");
    }
    for handler in node.handlers() {
        assert_eq!((handler.stats.lost, handler.stats.retried), (0, 0));
    }
    Ok(())
}

/// A node that may begin one a second takes no more than that from the others of its group.
async fn a_slow_rate_starves_no_other_node(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let slow = bus.node("slow").layer(RateLimitLayer::new(1, SECOND));
    let _slow = started(slow, journal.plain()).await?;
    let _quick = started(bus.node("quick"), journal.plain()).await?;
    let observer = bus.observer().await?;
    let began = Instant::now();
    for id in 0..100 {
        observer.publish(Work { id }).await?;
        observer.publish(Invoice { id: 100 + id }).await?;
    }
    journal.wait(Step::Done, 200, 3 * MINUTE).await;
    assert!(
        began.elapsed() < 5 * SECOND,
        "they waited {:?} for the slow node",
        began.elapsed()
    );
    assert_eq!(journal.handled(), (0..200).collect::<Vec<_>>());
    assert!(
        journal
            .all(Step::Started)
            .iter()
            .all(|note| note.attempt == 1)
    );
    Ok(())
}

/// Where a layer panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Ready,
    Call,
    Future,
}

/// Panics the first of five times.
#[derive(Clone)]
struct Panics<S> {
    inner: S,
    place: Where,
    count: Arc<AtomicUsize>,
}

impl<S> Panics<S> {
    fn at(&self, place: Where) {
        if place == self.place {
            let before = self.count.fetch_add(1, Ordering::Relaxed);
            assert!(!before.is_multiple_of(5), "{PLANNED}");
        }
    }
}

impl<S: Service<Call, Response = Reply, Error = BoxError>> Service<Call> for Panics<S>
where
    S::Future: Send + 'static,
    S: Clone + Send + 'static,
{
    type Response = Reply;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<Reply, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<std::result::Result<(), BoxError>> {
        self.at(Where::Ready);
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        self.at(Where::Call);
        let (future, this) = (self.inner.call(call), self.clone());
        Box::pin(async move {
            tokio::task::yield_now().await;
            this.at(Where::Future);
            future.await
        })
    }
}

/// A layer that panics, wherever: as if the handler had, and nobody else is disturbed.
async fn panics(bus: Bus) -> Result<()> {
    for place in [Where::Ready, Where::Call, Where::Future] {
        let journal = Journal::default();
        let layer = layer_fn(move |inner: Erased| Panics {
            inner,
            place,
            count: Arc::default(),
        });
        let node = bus.node("a").attempts(100).layer(layer);
        let node = node.backoff(Duration::from_millis(1), Duration::from_millis(100));
        let node = started(node, journal.plain()).await?;
        let caller = caller(&bus, 1).await?;
        publish_all(&node, 10).await?;
        wait_until("all are handled", 10 * MINUTE, || {
            let of = |handler| journal.handled_by(handler).len();
            (of("on_work"), of("on_invoice")) == (10, 10)
        })
        .await;
        let error = node
            .send(Ask { id: 0 })
            .await
            .expect_err("the first one panics");
        assert_eq!(error.kind(), ErrorKind::Panic, "{place:?}");
        assert_eq!(node.send(Ask { id: 1 }).await?.id, 1);
        for id in 2..10 {
            assert_eq!(caller.send(Order { id }).await?.id, id);
        }
        assert!(dead_letters(node.backend()).await?.is_empty());
        assert!(node.handlers().iter().all(|h| h.stats.in_flight == 0));
        caller.shutdown().await?;
        node.shutdown().await?;
    }
    Ok(())
}

/// A layer that makes an error an answer is taken at its word.
async fn swallowed_errors(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|_| async { Err(HandlerError::retry("no")) });
    let events = ThenLayer::new(|_: std::result::Result<Reply, BoxError>| {
        ready(Ok::<_, BoxError>(Reply::new(())))
    });
    let asks = ThenLayer::new(|_: std::result::Result<Reply, BoxError>| {
        let (id, node) = (77, "a layer".to_owned());
        ready(Ok::<_, BoxError>(Reply::new(Answer { id, node })))
    });
    let node = bus
        .node("a")
        .layer_for(handlers![on_tick, on_work, on_invoice], events);
    // Of another type than the handler's.
    let node = node.layer_for(handlers![on_ask, on_order], asks);
    let node = started(node, play).await?;
    let caller = caller(&bus, 1).await?;
    publish_all(&node, 10).await?;
    journal.wait(Step::Failed, 30, MINUTE).await;
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(journal.count(Step::Started), 30, "tried again");
    for name in ["on_tick", "on_work", "on_invoice"] {
        let stats = node.handler(name)?.info().stats;
        assert_eq!((stats.handled, stats.failed), (10, 0), "{name}");
    }
    assert!(dead_letters(node.backend()).await?.is_empty());
    for from in [&node, &caller] {
        assert_eq!(from.send(Ask { id: 0 }).await?.node, "a layer");
        let error = from
            .send(Order { id: 100 })
            .await
            .expect_err("not its type");
        assert_eq!(
            (error.kind(), error.retry()),
            (ErrorKind::Handler, catga::Retry::Never)
        );
    }
    Ok(())
}

/// A layer for a handler that is not registered is a mistake, and said at the start.
async fn for_a_handler_that_is_not_there(bus: Bus) -> Result<()> {
    let node = bus.node("a").state(Journal::default().plain());
    let node = node.layer_for(handlers![on_work, on_ask], TimeoutLayer::new(SECOND));
    let error = node.handlers(handlers![on_work]).start().await;
    let error = error.expect_err("`on_ask` is not registered");
    assert_eq!(error.kind(), ErrorKind::Config);
    let text = error.to_string();
    assert!(
        text.contains("on_ask") && text.contains("layer_for"),
        "{text}"
    );
    assert!(!text.contains("on_work has"), "{text}");
    Ok(())
}

/// Is never ready.
#[derive(Clone)]
struct Never;

impl Service<Call> for Never {
    type Response = Reply;
    type Error = BoxError;
    type Future = std::future::Ready<std::result::Result<Reply, BoxError>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<std::result::Result<(), BoxError>> {
        Poll::Pending
    }

    fn call(&mut self, _: Call) -> Self::Future {
        panic!("called before it was ready");
    }
}

/// A node whose layers are not ready shuts down at once, and others handle what came to it.
async fn shutdown_while_not_ready(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let never = layer_fn(|_: Erased| BoxCloneService::new(Never));
    let a = started(bus.node("a").layer(never), journal.plain()).await?;
    let caller = caller(&bus, 1).await?;
    for id in 0..10 {
        caller.publish(Work { id }).await?;
        caller.publish(Invoice { id: 10 + id }).await?;
    }
    let asking = caller.clone();
    let asked = tokio::spawn(async move { asking.send(Order { id: 20 }).await });
    tokio::time::sleep(SECOND).await;
    assert_eq!(journal.notes(), []);
    let b = started(bus.node("b"), journal.plain()).await?;
    wait_until("it is seen", SOON, || caller.nodes().len() == 3).await;
    let began = Instant::now();
    let report = a.shutdown_within(10 * SECOND).await?;
    assert!(began.elapsed() < 2 * SECOND, "after {:?}", began.elapsed());
    assert_eq!(report.unfinished, 0, "nothing was begun");
    journal.wait(Step::Done, 21, SOON).await;
    assert_eq!(asked.await??.node, "b");
    assert_eq!(journal.handled(), (0..21).collect::<Vec<_>>());
    let mut starts = journal.all(Step::Started);
    starts.retain(|note| note.id < 20);
    assert!(starts.iter().all(|note| note.attempt == 1), "counted");
    b.shutdown().await?;
    Ok(())
}
