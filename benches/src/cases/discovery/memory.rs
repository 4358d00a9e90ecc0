//! What a node takes in the view of another: an application that sees many is larger than one that sees few, by so much for each.
//!
//! The nodes that are seen are registered by others before, so that nothing but the application grows.

use std::time::Duration;

use catga::prelude::*;
use futures_util::{StreamExt, stream};
use tokio::time::sleep;

use super::crew;
use super::means::{Means, Member};
use super::named;
use crate::bench::{Bench, HEAP, Measured, two_cores};
use crate::figure::Figure;

/// Of all nodes: nobody is given up before this is over.
const NODE_TIMEOUT: Duration = Duration::from_secs(120);
/// How many there are at first.
const FEW: usize = 3;

pub fn run(bench: Bench, means: Means, count: usize) -> Measured {
    two_cores(async move {
        let clerk = means.connect(&bench.url, NODE_TIMEOUT).await;
        let clock = bench.begin();
        register(&clerk, 0..FEW).await;
        let few = taken(&bench.url, "early", FEW).await;
        register(&clerk, FEW..FEW + count).await;
        let many = taken(&bench.url, "late", FEW + count).await;
        let mut measured = clock.stop();
        let each = (many - few) / count as f64;
        assert!(
            each > 0.0,
            "{few} B with {FEW} nodes, {many} B with {count} more"
        );
        measured.figures.push(Figure::bytes(named::MEMORY, each));
        measured
    })
}

async fn register(clerk: &Member, numbers: std::ops::Range<usize>) {
    let each = stream::iter(numbers).map(|number| async move {
        let registered = clerk.registry.register(&crew::info(number)).await;
        registered.expect("nobody else has its id");
    });
    each.buffer_unordered(16).for_each(|()| async {}).await;
}

/// What an application holds that sees so many others.
async fn taken(url: &str, name: &str, others: usize) -> f64 {
    let before = held().await;
    let app = Catga::builder()
        .connect(url)
        .service("watcher")
        .node(name)
        .heartbeat(Duration::from_secs(10), NODE_TIMEOUT)
        .handlers(handlers![]);
    let app = app.start().await.expect("it starts");
    while app.nodes().len() < others + 1 {
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(app.nodes().len(), others + 1, "the others, and itself");
    let after = held().await;
    app.shutdown().await.expect("it ends");
    after - before
}

/// What the process holds, once nothing comes and goes any more: what is only passing is not in the least of many looks.
async fn held() -> f64 {
    sleep(Duration::from_millis(500)).await;
    let stats = HEAP.get().expect("the program that counts");
    let mut least = f64::MAX;
    for _ in 0..50 {
        let stats = stats();
        let held = stats.bytes_allocated as f64 - stats.bytes_deallocated as f64;
        least = least.min(held);
        sleep(Duration::from_millis(10)).await;
    }
    least
}
