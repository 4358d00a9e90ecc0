//! At least once and exactly once: from publish to the broker, to a handler, to the acknowledgement.

use std::time::Duration;

use catga::prelude::*;
use futures_util::{StreamExt, stream};

use super::{Broker, Sample, StoredFrame, node, on_stored_frame};
use crate::bench::{Bench, Measured, two_cores};
use crate::latency::Tally;
use crate::pace::Pace;

const WINDOW: usize = 256;

/// Waits until the broker has every acknowledgement: one may be on its way.
async fn acknowledged<B: Broker>(url: &str) {
    while B::open(url).await > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// So many at once from one task, each until it is stored.
async fn publish_all<E: Sample>(
    writer: &Catga,
    count: u64,
    size: usize,
    tally: &Tally,
    done: fn(&Tally, u64),
) {
    let each = stream::iter(0..count).map(|i| async move {
        tally.sent(i);
        writer.publish(E::of(i, size)).await.expect("stored");
        done(tally, i);
    });
    each.buffer_unordered(WINDOW).for_each(|()| async {}).await;
}

/// Publishes until stored, with nobody there who handles.
pub fn publish<B: Broker>(bench: Bench, size: usize) -> Measured {
    two_cores(async move {
        let tally = bench.tally(1);
        let writer = node(&bench.url, "writer", handlers![], &tally).await;
        let clock = bench.begin();
        publish_all::<StoredFrame>(&writer, bench.operations, size, &tally, Tally::one).await;
        let measured = clock.end_with(&tally);
        assert_eq!(B::stored(&bench.url).await, bench.operations, "stored");
        measured
    })
}

/// The same in calls of so many each.
pub fn publish_many<B: Broker>(bench: Bench) -> Measured {
    two_cores(async move {
        let tally = bench.tally(1);
        let writer = node(&bench.url, "writer", handlers![], &tally).await;
        let clock = bench.begin();
        for start in (0..bench.operations).step_by(WINDOW) {
            let numbers = start..(start + WINDOW as u64).min(bench.operations);
            numbers.clone().for_each(|i| tally.sent(i));
            let events = numbers.clone().map(|i| StoredFrame::of(i, 100));
            for (i, outcome) in numbers.zip(writer.publish_many(events).await) {
                outcome.expect("stored");
                tally.one(i);
            }
        }
        let measured = clock.end_with(&tally);
        assert_eq!(B::stored(&bench.url).await, bench.operations, "stored");
        measured
    })
}

/// What is stored already is handled by a node that was paused: as in the loops by hand, it is connected and its consumer
/// is there before the clock runs.
pub fn consume<B: Broker>(bench: Bench) -> Measured {
    two_cores(async move {
        let tally = bench.tally(1);
        let reader = node(&bench.url, "reader", handlers![on_stored_frame], &tally).await;
        let handler = reader.handler("on_stored_frame").expect("one of that name");
        handler.pause();
        let writer = node(&bench.url, "writer", handlers![], &tally).await;
        publish_all::<StoredFrame>(&writer, bench.operations, 100, &tally, |_, _| ()).await;
        assert_eq!(
            handler.info().stats.handled,
            0,
            "all of it is handled while the clock runs"
        );
        let clock = bench.begin();
        handler.resume();
        tally.reach_all().await;
        let measured = clock.end_with(&tally);
        acknowledged::<B>(&bench.url).await;
        measured
    })
}

/// One node publishes while another handles.
pub fn end_to_end<E: Sample, B: Broker>(
    bench: Bench,
    handlers: catga::Handlers,
    size: usize,
) -> Measured {
    two_cores(async move {
        let tally = bench.tally(1);
        let _reader = node(&bench.url, "reader", handlers, &tally).await;
        let writer = node(&bench.url, "writer", handlers![], &tally).await;
        let clock = bench.begin();
        publish_all::<E>(&writer, bench.operations, size, &tally, |_, _| ()).await;
        tally.reach_all().await;
        let measured = clock.end_with(&tally);
        acknowledged::<B>(&bench.url).await;
        measured
    })
}

/// At a rate.
pub fn paced(bench: Bench, rate: f64) -> Measured {
    two_cores(async move {
        let tally = bench.tally(1);
        let _reader = node(&bench.url, "reader", handlers![on_stored_frame], &tally).await;
        let writer = node(&bench.url, "writer", handlers![], &tally).await;
        let pace = Pace::per_second(rate, bench.operations);
        let clock = bench.begin();
        let each = pace.numbers().map(|i| {
            let (writer, tally) = (&writer, &tally);
            async move {
                tally.sent(i);
                let frame = StoredFrame::of(i, 100);
                writer.publish(frame).await.expect("stored");
            }
        });
        each.buffer_unordered(WINDOW).for_each(|()| async {}).await;
        tally.reach_all().await;
        clock.end_with(&tally)
    })
}
