//! What a recorder is told is what happened: over success, retries, dead letters, duplicates and losses.

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a failure in a helper is a failure of its test, and counts are small"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use catga::prelude::*;
use catga::{Catga, CatgaBuilder, MessageId, Name, NodeInfo};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

#[derive(Event, Serialize, Deserialize)]
struct Tick(u32);

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct Work(u32);

#[derive(Event, Serialize, Deserialize)]
#[qos(exactly_once)]
struct Once(u32);

#[derive(Request, Serialize, Deserialize)]
#[response(u32)]
struct Double(u32);

#[handler(group = "ticks")]
async fn on_tick(_: &Tick) {}

/// Fails as the number says.
#[handler(group = "workers", attempts = 3)]
async fn on_work(work: Work) -> Result<()> {
    match work.0 {
        1 => Err("again and again").retry(),
        2 => Err("never").terminal(),
        3 => panic!("it fell"),
        _ => Ok(()),
    }
}

#[handler(group = "books")]
async fn on_once(_: Once) {}

#[handler]
async fn double(double: Double) -> Result<u32> {
    if double.0 == 0 {
        return Err("nothing to double").terminal();
    }
    Ok(double.0 * 2)
}

/// Waits until it is let go.
#[handler(group = "slow", concurrency = 1)]
async fn slow_tick(_: Tick, State(gate): State<Arc<Notify>>) {
    gate.notified().await;
}

/// What was told up to now: counts and sums by metric and labels. A histogram counts its values.
struct Told {
    recorder: Snapshotter,
    sums: BTreeMap<String, f64>,
}

impl Told {
    fn of(recorder: &DebuggingRecorder) -> Self {
        Self {
            recorder: recorder.snapshotter(),
            sums: BTreeMap::new(),
        }
    }

    /// Looking takes what is there.
    fn look(&mut self) {
        for (key, _, _, value) in self.recorder.snapshot().into_vec() {
            let labels = key.key().labels();
            let labels = labels.map(|label| format!("{}={},", label.key(), label.value()));
            let labels: String = labels.collect();
            let name = format!("{} {}", key.key().name(), labels);
            *self.sums.entry(name).or_default() += match value {
                DebugValue::Counter(count) => count as f64,
                DebugValue::Gauge(by) => by.into_inner(),
                DebugValue::Histogram(values) => {
                    assert!(
                        values
                            .iter()
                            .all(|took| (0.0..60.0).contains(&took.into_inner()))
                    );
                    values.len() as f64
                }
            };
        }
    }

    /// The sum of a metric over all labels that have these words.
    fn sum(&self, metric: &str, words: &[&str]) -> f64 {
        let all = self.sums.iter().filter(|(name, _)| {
            name.starts_with(&format!("{metric} ")) && words.iter().all(|word| name.contains(word))
        });
        all.map(|(_, sum)| sum).sum()
    }

    #[track_caller]
    fn is(&self, metric: &str, words: &[&str], expected: u32) {
        let sum = self.sum(metric, words);
        assert!(
            (sum - f64::from(expected)).abs() < 1e-9,
            "{metric} {words:?}: {sum} instead of {expected} in {:#?}",
            self.sums
        );
    }
}

const SENT: &str = "messaging.client.sent.messages";
const ANSWERED: &str = "messaging.client.operation.duration";
const CONSUMED: &str = "messaging.client.consumed.messages";
const PROCESSED: &str = "messaging.process.duration";

fn node(id: &str, url: &str) -> CatgaBuilder {
    Catga::builder().connect(url).service("shop").node(id)
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(600), waiting).await;
    assert!(waited.is_ok(), "not in time: {what}");
}

fn handled(node: &Catga, name: &str) -> u64 {
    let handlers = node.handlers();
    let one = handlers.iter().find(|handler| handler.name == name);
    one.expect("it is there").stats.handled
}

#[tokio::test(start_paused = true)]
async fn what_succeeds_is_counted_and_measured() {
    let recorder = DebuggingRecorder::new();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let mut told = Told::of(&recorder);
    let node = node("a", "memory://told-success").handlers(handlers![on_tick, on_work, on_once]);
    let node = node.start().await.unwrap();
    for i in 0..7 {
        node.publish(Tick(i)).await.unwrap();
    }
    for outcome in node.publish_many((10..15).map(Work)).await {
        outcome.unwrap();
    }
    node.publish(Once(1)).await.unwrap();
    let all = [
        ("Tick", "on_tick", 7),
        ("Work", "on_work", 5),
        ("Once", "on_once", 1),
    ];
    until("all are handled", || {
        all.iter()
            .all(|(_, handler, count)| handled(&node, handler) == u64::from(*count))
    })
    .await;
    // While it runs, a second later at most.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    told.look();
    for (message, handler, count) in all {
        let name = &*format!("messaging.destination.name={message},");
        told.is(
            SENT,
            &[name, "operation.name=publish", "system=memory"],
            count,
        );
        told.is(
            CONSUMED,
            &[name, &format!("catga.handler={handler},")],
            count,
        );
        told.is(PROCESSED, &[name], count);
    }
    told.is(CONSUMED, &["consumer.group.name=ticks,"], 7);
    node.shutdown().await.unwrap();
    told.look();
    told.is(CONSUMED, &[], 13);
    for metric in [
        "catga.retries",
        "catga.dead_letters",
        "catga.losses",
        "catga.duplicates",
    ] {
        told.is(metric, &[], 0);
        assert!(
            told.sums.keys().any(|name| name.starts_with(metric)),
            "{metric} is there"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn failures_are_told_by_what_became_of_them() {
    let recorder = DebuggingRecorder::new();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let mut told = Told::of(&recorder);
    let node = node("a", "memory://told-failures").handlers(handlers![on_work]);
    let node = node.start().await.unwrap();
    for number in 0..4 {
        node.publish(Work(number)).await.unwrap();
    }
    let given_up = || node.handlers()[0].stats.dead_lettered == 3;
    until("three are given up", given_up).await;
    node.shutdown().await.unwrap();
    told.look();
    told.is(SENT, &[], 4);
    told.is(CONSUMED, &["error.type"], 7);
    told.is(CONSUMED, &[], 8);
    told.is("catga.retries", &[], 4);
    told.is("catga.dead_letters", &["group.name=workers,"], 3);
    told.is(PROCESSED, &["error.type=handler,"], 4);
    told.is(PROCESSED, &["error.type=panic,"], 3);
    told.is(PROCESSED, &[], 8);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_run_again_is_counted() {
    let recorder = DebuggingRecorder::new();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let mut told = Told::of(&recorder);
    let url = "memory://told-duplicates?duplicate_window=20s";
    let node = node("a", url)
        .handlers(handlers![on_once, double])
        .start()
        .await
        .unwrap();
    let id = MessageId::new();
    for _ in 0..3 {
        node.message(Once(1)).id(id).publish().await.unwrap();
        until("it is handled", || handled(&node, "on_once") == 1).await;
        tokio::time::sleep(Duration::from_secs(21)).await;
        assert_eq!(node.request(Double(4)).id(id).send().await.unwrap(), 8);
    }
    until("all came", || {
        let stats = node.handlers();
        stats
            .iter()
            .map(|handler| handler.stats.duplicates)
            .sum::<u64>()
            == 4
    })
    .await;
    node.shutdown().await.unwrap();
    told.look();
    told.is(SENT, &["destination.name=Once,"], 3);
    told.is("catga.duplicates", &["destination.name=Once,"], 2);
    told.is("catga.duplicates", &["destination.name=Double,"], 2);
    told.is(ANSWERED, &["destination.name=Double,"], 3);
    told.is(CONSUMED, &[], 2);
}

#[tokio::test(start_paused = true)]
async fn losses_and_what_is_in_flight() {
    let recorder = DebuggingRecorder::new();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let mut told = Told::of(&recorder);
    let gate = Arc::new(Notify::new());
    let node = node("a", "memory://told-losses?ring=10").handlers(handlers![slow_tick]);
    let node = node.state(Arc::clone(&gate)).start().await.unwrap();
    for number in 0..100 {
        node.publish(Tick(number)).await.unwrap();
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(1100)).await;
    told.look();
    told.is("catga.in_flight", &["catga.handler=slow_tick,"], 1);
    told.is(CONSUMED, &[], 0);
    let idle = || {
        gate.notify_one();
        let stats = node.handlers()[0].stats;
        stats.handled + stats.dropped == 100 && stats.in_flight == 0
    };
    until("what was not lost is handled", idle).await;
    node.shutdown().await.unwrap();
    told.look();
    let (lost, came) = (told.sum("catga.losses", &[]), told.sum(CONSUMED, &[]));
    assert!(lost > 50.0 && came > 5.0, "{lost} lost, {came} came");
    assert!((lost + came - told.sum(SENT, &[])).abs() < 1e-9);
    told.is(SENT, &[], 100);
    told.is("catga.in_flight", &[], 0);
}

#[tokio::test(start_paused = true)]
async fn requests_are_measured_here_and_there() {
    let recorder = DebuggingRecorder::new();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let mut told = Told::of(&recorder);
    let url = "memory://told-requests";
    let a = node("a", url)
        .handlers(handlers![double])
        .start()
        .await
        .unwrap();
    for number in 1..6 {
        assert_eq!(a.send_to("a", Double(number)).await.unwrap(), number * 2);
        assert_eq!(a.send(Double(number)).await.unwrap(), number * 2);
    }
    a.send(Double(0)).await.unwrap_err();
    let b = node("b", url).handlers(handlers![]).start().await.unwrap();
    for number in 1..4 {
        assert_eq!(b.send_to("a", Double(number)).await.unwrap(), number * 2);
    }
    b.shutdown().await.unwrap();
    a.shutdown().await.unwrap();
    told.look();
    told.is(
        ANSWERED,
        &["operation.name=send", "destination.name=Double,"],
        14,
    );
    told.is(ANSWERED, &["error.type=handler,"], 1);
    told.is(CONSUMED, &["catga.handler=double,"], 14);
    told.is(CONSUMED, &["error.type"], 1);
    // Those of the other node.
    told.is(PROCESSED, &[], 3);
}

#[tokio::test(start_paused = true)]
async fn nodes_and_what_went_on_to_another_are_told() {
    let recorder = DebuggingRecorder::new();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let mut told = Told::of(&recorder);
    let url = "memory://told-nodes";
    let b = node("b", url).handlers(handlers![double]);
    let b = b.start().await.unwrap();
    // It is in the registry, and nowhere else.
    let token = |name| Name::token(name).unwrap();
    let dead = NodeInfo::new(token("a"), token("shop")).with_requests(vec![token("Double")]);
    let registry = b.backend().registry.as_ref().unwrap();
    registry.register(&dead).await.unwrap();
    let c = node("c", url).handlers(handlers![]).start().await.unwrap();
    until("all are seen", || {
        b.nodes().len() == 3 && c.nodes().len() == 3
    })
    .await;
    for number in 1..10 {
        assert_eq!(c.send(Double(number)).await.unwrap(), number * 2);
    }
    tokio::time::sleep(Duration::from_millis(1100)).await;
    told.look();
    told.is("catga.nodes", &["messaging.system=memory,"], 3);
    // From there on the dead one is skipped; by the other node nothing was sent.
    told.is("catga.fail_overs", &["messaging.system=memory,"], 1);
    c.shutdown().await.unwrap();
    b.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_not_published_is_told_by_its_error() {
    let recorder = DebuggingRecorder::new();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let mut told = Told::of(&recorder);
    let url = "memory://told-rejected?max_payload=1024";
    let a = node("a", url).handlers(handlers![]).start().await.unwrap();
    for size in [10, 2000, 3000] {
        let _ = a.publish(Parcel("x".repeat(size))).await;
    }
    a.shutdown().await.unwrap();
    a.publish(Parcel(String::new())).await.unwrap_err();
    told.look();
    told.is(SENT, &["error.type=payload_too_large,"], 2);
    told.is(SENT, &["error.type=closed,"], 1);
    told.is(SENT, &["destination.name=Parcel,"], 4);
}

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct Parcel(String);

#[tokio::test(start_paused = true)]
async fn two_applications_of_a_process_add_up() {
    let recorder = DebuggingRecorder::new();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let mut told = Told::of(&recorder);
    let url = "memory://told-twice";
    let a = node("a", url)
        .handlers(handlers![on_work])
        .start()
        .await
        .unwrap();
    let b = node("b", url)
        .handlers(handlers![on_work])
        .start()
        .await
        .unwrap();
    for number in 10..60 {
        [&a, &b][number as usize % 2]
            .publish(Work(number))
            .await
            .unwrap();
    }
    until("all are handled", || {
        handled(&a, "on_work") + handled(&b, "on_work") == 50
    })
    .await;
    for node in [a, b] {
        node.shutdown().await.unwrap();
    }
    told.look();
    told.is(SENT, &[], 50);
    told.is(CONSUMED, &[], 50);
}

#[tokio::test(start_paused = true)]
async fn a_recorder_that_comes_later_is_not_told() {
    let node = node("a", "memory://told-nobody").handlers(handlers![on_tick]);
    let node = node.start().await.unwrap();
    let recorder = DebuggingRecorder::new();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let mut told = Told::of(&recorder);
    node.publish(Tick(1)).await.unwrap();
    until("it is handled", || handled(&node, "on_tick") == 1).await;
    node.shutdown().await.unwrap();
    told.look();
    assert!(told.sums.is_empty(), "{:?}", told.sums);
}
