//! What so many nodes cost, and how soon they know of a join and a death.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::counts::Counter;
use super::crew::{Crew, Times};
use super::means::Means;
use super::{memory, named};
use crate::bench::{Bench, Measured, Pass, two_cores};
use crate::figure::Figure;
use crate::running::Running;

/// How many join, and die without a word.
const JOINS: usize = 5;

pub fn run(mut bench: Bench, means: Means, count: usize) -> Measured {
    let running = Running::start(means.needs()).expect("the server starts");
    bench.url = means.url(running.as_ref().map(Running::url));
    bench.server = running.as_ref().and_then(Running::pid);
    if bench.pass == Pass::Allocations {
        return memory::run(bench, means, count);
    }
    two_cores(async move { measure(bench, means, count, running).await })
}

async fn measure(bench: Bench, means: Means, count: usize, running: Option<Running>) -> Measured {
    let times = Times::of(bench.operations, count);
    let mut crew = Crew::of(means, &bench.url, count, times).await;
    // Until what their coming has set off is over.
    crew.settle().await;

    let before = crew.said();
    let counter = Counter::begin(running.as_ref());
    let clock = bench.begin();
    sleep(times.window).await;
    let mut measured = clock.stop();
    let counts = counter.end(running.as_ref());
    let after = crew.said();
    let said = after.said - before.said;
    assert_eq!(
        (after.failed, after.again),
        (before.failed, before.again),
        "heartbeats that were not heard"
    );
    let beats = measured.wall.as_secs_f64() / times.heartbeat.as_secs_f64();
    let expected = count as f64 * beats;
    assert!(
        (said as f64 - expected).abs() <= expected * 0.05 + 1.0,
        "{said} heartbeats in the window, of {expected:.1}: the machine is too busy"
    );
    // An operation is a heartbeat, with what becomes of it at all others.
    measured.operations = said;
    let seconds = measured.wall.as_secs_f64();
    if running.is_some() {
        let each = |count: u64| count as f64 / seconds;
        measured.figures.extend([
            Figure::number(named::WRITTEN, each(counts.written)),
            Figure::number(named::DELIVERED, each(counts.delivered)),
            Figure::number(named::WRITTEN_EACH, each(counts.written) / count as f64),
            Figure::number(named::DELIVERED_EACH, each(counts.delivered) / count as f64),
            Figure::number(named::BYTES_IN, each(counts.bytes_in)),
            Figure::number(named::BYTES_OUT, each(counts.bytes_out)),
        ]);
    }
    let answered = (after.took - before.took) / u32::try_from(said).expect("few");
    measured
        .figures
        .push(Figure::time(named::ANSWERED, answered));
    measured.figures.extend(join_and_die(&mut crew).await);
    crew.catch_up();
    assert_eq!(crew.wrongly_left(), 0, "live nodes that were told as left");
    assert_eq!(crew.ended(), 0, "watches that ended");
    measured
}

/// Nodes join, one after the other, and then die without a word. The slowest counts.
async fn join_and_die(crew: &mut Crew) -> [Figure; 4] {
    let (mut seen, mut sees) = (Duration::ZERO, Duration::ZERO);
    let mut died = Vec::new();
    for number in crew.len()..crew.len() + JOINS {
        let mut node = crew.recruit(number).await;
        let began = Instant::now();
        crew.join(&node).await;
        let last_word = Instant::now();
        crew.watch(&mut node).await;
        let all = crew.all_know(&node).await.duration_since(began);
        seen = seen.max(all);
        sees = sees.max(crew.knows_all(&node).await.duration_since(began));
        died.push((node.info.id.clone(), last_word));
        // Its connections break, and nobody says a word for it.
        drop(node);
    }
    let (mut first, mut last) = (Duration::MAX, Duration::ZERO);
    for (id, at) in died {
        let (at_first, at_last) = crew.all_miss(&id).await;
        first = first.min(at_first.duration_since(at));
        last = last.max(at_last.duration_since(at));
    }
    [
        Figure::time(named::JOIN, seen),
        Figure::time(named::NEWCOMER, sees),
        Figure::time(named::DEATH_FIRST, first),
        Figure::time(named::DEATH, last),
    ]
}
