//! At most once: from publish to a handler of another node.

use catga::prelude::*;
use futures_util::StreamExt;

use super::{Sample, node};
use crate::bench::{Bench, Measured, two_cores};
use crate::pace;

/// All at once or at a rate, so many on their way at most.
pub fn publish<E: Sample>(
    bench: Bench,
    handlers: catga::Handlers,
    size: usize,
    window: u64,
    rate: Option<f64>,
) -> Measured {
    two_cores(async move {
        let tally = bench.tally(1);
        let _reader = node(&bench.url, "reader", handlers, &tally).await;
        let writer = node(&bench.url, "writer", handlers![], &tally).await;
        let mut numbers = pace::numbers(bench.operations, rate);
        let clock = bench.begin();
        while let Some(i) = numbers.next().await {
            tally.sent(i);
            writer.publish(E::of(i, size)).await.expect("published");
            tally.pace(i, window).await;
        }
        tally.reach_all().await;
        clock.end_with(&tally)
    })
}
