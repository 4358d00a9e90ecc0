//! Row 24 while a tracing subscriber is active, for the whole process, as programs install it: panics
//! are contained, and the subscriber sees a span for each handling.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use catga::DeadLetterFilter;
use catga::prelude::{Attempt, Catga, Event, Result, State, handler, handlers};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};

static SPANS: AtomicU64 = AtomicU64::new(0);
static EVENTS: AtomicU64 = AtomicU64::new(0);

/// Sees everything, and counts the spans of handlers.
struct Watcher;

impl Subscriber for Watcher {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let handling = span.metadata().name() == "process";
        SPANS.fetch_add(u64::from(handling), Ordering::Relaxed);
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        EVENTS.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct Numbered(u32);

#[handler(attempts = 2, backoff = "1ms..2ms")]
async fn on_numbered(
    event: Numbered,
    attempt: Attempt,
    State(done): State<UnboundedSender<u32>>,
) -> Result<()> {
    if attempt.number().is_multiple_of(2) {
        // The second attempt panics in a task of its own.
        tokio::task::yield_now().await;
    }
    assert_ne!(event.0, 5, "not this one");
    Ok(done.send(event.0)?)
}

#[tokio::test]
async fn panics_are_contained_under_a_subscriber() -> Result<()> {
    tracing::subscriber::set_global_default(Watcher)?;
    let (done, mut handled) = unbounded_channel::<u32>();
    let catga = Catga::builder()
        .connect("memory://")
        .state(done)
        .handlers(handlers![on_numbered]);
    let catga = catga.start().await?;
    for number in 0..20 {
        catga.publish(Numbered(number)).await?;
    }
    let mut numbers = Vec::new();
    while numbers.len() < 19 {
        let next = tokio::time::timeout(Duration::from_secs(20), handled.recv()).await;
        numbers.push(next?.expect("the handler keeps its sender"));
    }
    numbers.sort_unstable();
    assert_eq!(
        numbers,
        (0..20).filter(|number| *number != 5).collect::<Vec<_>>()
    );
    let store = catga
        .backend()
        .dead_letters
        .clone()
        .expect("memory keeps them");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while store
        .list(&DeadLetterFilter::all(), None, 10)
        .await?
        .letters
        .is_empty()
    {
        assert!(
            tokio::time::Instant::now() < deadline,
            "it was never dead-lettered"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(SPANS.load(Ordering::Relaxed), 21, "a span for each attempt");
    assert!(
        EVENTS.load(Ordering::Relaxed) >= 2,
        "both failures are logged"
    );
    catga.shutdown().await?;
    Ok(())
}
