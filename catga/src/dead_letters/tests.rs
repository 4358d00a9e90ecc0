use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use catga_core::{
    Backend, BackendUrl, Capability, ConnectOptions, DeadLetterFilter, DeadLetterId, Driver, Error,
    ErrorKind, Name, async_trait,
};
use serde::{Deserialize, Serialize};

use super::{DeadLetterQueue, PAGE};
use crate::handlers;
use crate::prelude::{Catga, Event, HandlerError, Result, State, handler};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct Paid(usize);

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct Shipped(usize);

/// Whether the handlers succeed.
type Mended = Arc<AtomicBool>;

fn outcome(mended: &Mended) -> Result<()> {
    if mended.load(Ordering::SeqCst) {
        Ok(())
    } else {
        Err(HandlerError::terminal("broken"))
    }
}

#[handler]
async fn on_paid(_: Paid, mended: State<Mended>) -> Result<()> {
    outcome(&mended)
}

#[handler]
async fn on_shipped(_: Shipped, mended: State<Mended>) -> Result<()> {
    outcome(&mended)
}

async fn node(mended: &Mended) -> Catga {
    let node = Catga::builder().connect("memory://").service("test");
    let node = node.handlers(handlers![on_paid, on_shipped]);
    let node = node.state(Arc::clone(mended));
    node.start().await.expect("memory is always there")
}

async fn ids(queue: &DeadLetterQueue, filter: &DeadLetterFilter) -> Vec<DeadLetterId> {
    let (mut letters, mut ids) = (queue.walk(filter), Vec::new());
    while let Some(letter) = letters.next().await.expect("memory is always there") {
        assert!(filter.matches(&letter));
        ids.push(letter.id);
    }
    ids
}

async fn until_there_are(queue: &DeadLetterQueue, many: usize) -> Vec<DeadLetterId> {
    let all = async {
        loop {
            let ids = ids(queue, &DeadLetterFilter::all()).await;
            if ids.len() == many {
                return ids;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let all = tokio::time::timeout(Duration::from_secs(10), all).await;
    all.expect("so many letters come")
}

fn handled(node: &Catga, name: &str) -> u64 {
    let handler = node.handler(name).expect("it was registered");
    handler.info().stats.handled
}

async fn until_handled(node: &Catga, name: &str, many: u64) {
    let all = async {
        while handled(node, name) < many {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let all = tokio::time::timeout(Duration::from_secs(10), all).await;
    all.expect("so many messages are handled");
}

fn of<E: Event>() -> DeadLetterFilter {
    DeadLetterFilter::all().with_message(Name::from_static(E::NAME))
}

async fn publish<E: Event>(node: &Catga, many: usize, event: fn(usize) -> E) {
    for outcome in node.publish_many((0..many).map(event)).await {
        outcome.expect("memory is always there");
    }
}

#[tokio::test(start_paused = true)]
async fn a_walk_passes_each_letter_of_all_pages_once() {
    let node = node(&Mended::default()).await;
    let queue = node.dead_letters();
    publish(&node, 2 * PAGE + 1, Paid).await;
    publish(&node, 3, Shipped).await;
    let all = until_there_are(&queue, 2 * PAGE + 4).await;
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());

    let paid = of::<Paid>();
    assert_eq!(ids(&queue, &paid).await.len(), 2 * PAGE + 1);
    let first = queue.list(&paid).await.unwrap();
    assert_eq!(first.letters.len(), PAGE);
    let second = queue.list_after(&paid, &first.next.unwrap()).await.unwrap();
    assert_eq!(second.letters.len(), PAGE);
    let last = queue.list_after(&paid, &second.next.unwrap()).await;
    let last = last.unwrap();
    assert_eq!((last.letters.len(), last.next), (1, None));
}

#[tokio::test(start_paused = true)]
async fn what_fails_again_is_redriven_once_and_is_of_the_next_generation() {
    let mended = Mended::default();
    let node = node(&mended).await;
    let queue = node.dead_letters();
    publish(&node, PAGE + 5, Paid).await;
    let many = PAGE + 5;
    let before = until_there_are(&queue, many).await;
    let all = DeadLetterFilter::all();
    assert_eq!(queue.redrive_all(&all).await.unwrap(), many as u64);
    let again = until_there_are(&queue, many).await;
    assert!(before.iter().all(|id| !again.contains(id)));
    let letter = queue.inspect(&again[0]).await.unwrap().unwrap();
    assert_eq!(letter.generation, 1);

    mended.store(true, Ordering::SeqCst);
    assert_eq!(queue.redrive_all(&all).await.unwrap(), many as u64);
    until_handled(&node, "on_paid", many as u64).await;
    assert!(queue.list(&all).await.unwrap().letters.is_empty());
    assert_eq!(queue.redrive_all(&all).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn two_who_redrive_all_redrive_each_once() {
    let mended = Mended::default();
    let node = node(&mended).await;
    let queue = node.dead_letters();
    publish(&node, 20, Paid).await;
    until_there_are(&queue, 20).await;
    mended.store(true, Ordering::SeqCst);
    let all = DeadLetterFilter::all();
    let (one, other) = tokio::join!(queue.redrive_all(&all), queue.redrive_all(&all));
    assert_eq!(one.unwrap() + other.unwrap(), 20);
    until_handled(&node, "on_paid", 20).await;
}

#[tokio::test(start_paused = true)]
async fn a_filter_says_what_is_redriven_and_purged() {
    let mended = Mended::default();
    let node = node(&mended).await;
    let queue = node.dead_letters();
    publish(&node, 3, Paid).await;
    publish(&node, 2, Shipped).await;
    let letters = until_there_are(&queue, 5).await;
    mended.store(true, Ordering::SeqCst);
    let shipped = of::<Shipped>();
    assert_eq!(queue.redrive_all(&shipped).await.unwrap(), 2);
    until_handled(&node, "on_shipped", 2).await;
    assert_eq!(queue.purge(&shipped).await.unwrap(), 0);
    assert_eq!(queue.purge(&DeadLetterFilter::all()).await.unwrap(), 3);
    assert_eq!(handled(&node, "on_paid"), 0);

    assert!(queue.inspect(&letters[0]).await.unwrap().is_none());
    let gone = queue.redrive(&letters[0]).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn after_the_shutdown_it_is_closed() {
    let node = node(&Mended::default()).await;
    let queue = node.dead_letters();
    node.shutdown().await.unwrap();
    let all = DeadLetterFilter::all();
    let id = DeadLetterId::new("1");
    let errors = [
        queue.list(&all).await.err(),
        queue.list_after(&all, &id).await.err(),
        queue.walk(&all).next().await.err(),
        queue.inspect(&id).await.err(),
        queue.redrive(&id).await.err(),
        queue.redrive_all(&all).await.err(),
        queue.purge(&all).await.err(),
    ];
    for error in errors {
        assert_eq!(error.unwrap().kind(), ErrorKind::Closed);
    }
}

/// Memory without its dead letters.
#[derive(Debug)]
struct Forgetful;

#[async_trait]
impl Driver for Forgetful {
    fn name(&self) -> &'static str {
        "forgetful"
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["forgetful"]
    }

    fn options(&self) -> &'static [&'static str] {
        &[]
    }

    fn capabilities(&self) -> &'static [Capability] {
        &[]
    }

    async fn connect(&self, _: &BackendUrl, options: &ConnectOptions) -> Result<Backend, Error> {
        let url = "memory://".parse()?;
        let memory = catga_memory::MemoryDriver.connect(&url, options).await?;
        Ok(Backend::new("forgetful", memory.transport))
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_without_dead_letters_is_named() {
    let node = Catga::builder().connect("forgetful://").driver(Forgetful);
    let node = node.handlers(handlers![]).start().await.unwrap();
    let error = node.dead_letters().list(&DeadLetterFilter::all()).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("`forgetful`"), "{error}");
}
