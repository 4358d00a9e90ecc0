//! The cases: each loop of ours stands next to the one by hand in `raw.rs`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use catga::prelude::*;
use tokio::runtime::{Builder, Runtime};
use tower::timeout::TimeoutLayer;

use crate::raw;
use crate::work::{
    Heavy, KeyedOrder, OnceOrder, Order, Priced, Quote, SafeQuote, Seen, StoredOrder, by_value,
    first, heavy, once, ordered, price, price_once, second, stored, third, unordered,
};

/// One row of the table.
pub struct Case {
    pub name: &'static str,
    /// The case that this one is held against.
    pub against: Option<&'static str>,
    pub operations: u64,
    pub run: fn(u64) -> Duration,
}

fn one_core() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Runs the work as a task of two workers, so that nothing else takes their cores.
pub fn two_cores<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async { tokio::spawn(work).await.expect("the work does not panic") })
}

fn builder(handlers: catga::Handlers, seen: &Seen, url: &str) -> catga::CatgaBuilder {
    Catga::builder()
        .connect(url)
        .handlers(handlers)
        .state(seen.clone())
}

async fn start(handlers: catga::Handlers, seen: &Seen, url: &str) -> Catga {
    let builder = builder(handlers, seen, url);
    builder.start().await.expect("it starts")
}

/// `send` to a handler of this node.
fn send<R: Priced>(operations: u64, builder: catga::CatgaBuilder) -> Duration {
    one_core().block_on(async {
        let catga = builder.start().await.expect("it starts");
        let began = Instant::now();
        for i in 0..operations {
            black_box(catga.send(R::of(i)).await.expect("an answer"));
        }
        began.elapsed()
    })
}

fn prices(url: &str) -> catga::CatgaBuilder {
    builder(handlers![price, price_once], &Seen::default(), url)
}

/// A request to another node on the same bus, one after the other.
fn send_over_bus<R: Priced>(operations: u64) -> Duration {
    one_core().block_on(async {
        let server = prices("memory://bench").node("server");
        let _server = server.start().await.expect("it starts");
        let client = start(handlers![], &Seen::default(), "memory://bench").await;
        while client.nodes().len() < 2 {
            tokio::task::yield_now().await;
        }
        let began = Instant::now();
        for i in 0..operations {
            let answer = client.send_to("server", R::of(i)).await;
            black_box(answer.expect("an answer"));
        }
        began.elapsed()
    })
}

/// QoS 0 from publish to handlers, with so many publishes between looks at how far they are that
/// no ring overflows: a dropped message is no message handled.
fn at_most_once(operations: u64, handlers: catga::Handlers) -> Duration {
    const WINDOW: u64 = 1024;
    two_cores(async move {
        let (seen, each) = (Seen::default(), handlers.len() as u64);
        let catga = start(handlers, &seen, "memory://?ring=4096").await;
        let began = Instant::now();
        for i in 0..operations {
            catga.publish(Order::new(i)).await.expect("published");
            if i % WINDOW == WINDOW - 1 {
                seen.all((i + 1).saturating_sub(WINDOW) * each).await;
            }
        }
        seen.all(operations * each).await;
        began.elapsed()
    })
}

/// QoS 1 or 2 from publish to ack, `WINDOW` publishes at once.
fn stored_to_ack<E: catga::Event>(
    operations: u64,
    handlers: catga::Handlers,
    event: fn(u64) -> E,
) -> Duration {
    const WINDOW: u64 = 64;
    two_cores(async move {
        let seen = Seen::default();
        let catga = start(handlers, &seen, "memory://").await;
        let began = Instant::now();
        let mut publishers = tokio::task::JoinSet::new();
        for lane in 0..WINDOW {
            let catga = catga.clone();
            publishers.spawn(async move {
                for i in (lane..operations).step_by(WINDOW as usize) {
                    catga.publish(event(i)).await.expect("stored");
                }
            });
        }
        publishers.join_all().await;
        seen.all(operations).await;
        began.elapsed()
    })
}

fn keyed(i: u64) -> KeyedOrder {
    let (key, order) = (i % 16, Order::new(i));
    KeyedOrder { key, order }
}

/// A handler that burns 100 µs of CPU per message.
fn burning(operations: u64) -> Duration {
    two_cores(async move {
        let seen = Seen::default();
        let catga = start(handlers![heavy], &seen, "memory://").await;
        let began = Instant::now();
        catga
            .publish_many((0..operations).map(Heavy))
            .await
            .into_iter()
            .for_each(|r| r.expect("stored"));
        seen.all(operations).await;
        began.elapsed()
    })
}

/// Every case, those by hand before those that are held against them.
pub fn all() -> Vec<Case> {
    let case = |name, against, operations, run| Case {
        name,
        against,
        operations,
        run,
    };
    vec![
        case("raw: boxed call through Arc<dyn>", None, 2_000_000, |n| {
            raw::boxed_call(&one_core(), n)
        }),
        case(
            "raw: the same behind a tower TimeoutLayer",
            Some("raw: boxed call through Arc<dyn>"),
            2_000_000,
            |n| raw::boxed_call_in_time(&one_core(), n),
        ),
        case("raw: request over mpsc + oneshot", None, 200_000, |n| {
            raw::channel_request(&one_core(), n)
        }),
        case(
            "catga: send, no deadline",
            Some("raw: boxed call through Arc<dyn>"),
            2_000_000,
            |n| send::<Quote>(n, prices("memory://?request_deadline=none")),
        ),
        case(
            "catga: send, default deadline",
            Some("raw: boxed call through Arc<dyn>"),
            2_000_000,
            |n| send::<Quote>(n, prices("memory://")),
        ),
        case(
            "catga: send, idempotent, first try here",
            Some("catga: send, default deadline"),
            2_000_000,
            |n| send::<SafeQuote>(n, prices("memory://")),
        ),
        case(
            "catga: send, behind a tower TimeoutLayer",
            Some("catga: send, default deadline"),
            2_000_000,
            |n| {
                let layer = TimeoutLayer::new(Duration::from_secs(30));
                send::<Quote>(n, prices("memory://").layer(layer))
            },
        ),
        case("catga: send to another node", None, 100_000, |n| {
            send_over_bus::<Quote>(n)
        }),
        case(
            "catga: send to another node, idempotent",
            Some("catga: send to another node"),
            100_000,
            |n| send_over_bus::<SafeQuote>(n),
        ),
        case("raw: one queue", None, 500_000, |n| raw::queues(n, 1)),
        case(
            "catga: QoS 0, one handler by reference",
            Some("raw: one queue"),
            500_000,
            |n| at_most_once(n, handlers![first]),
        ),
        case(
            "catga: QoS 0, one handler by value",
            Some("raw: one queue"),
            500_000,
            |n| at_most_once(n, handlers![by_value]),
        ),
        case("raw: three queues", None, 300_000, |n| raw::queues(n, 3)),
        case(
            "catga: QoS 0, three handlers by reference",
            Some("raw: three queues"),
            300_000,
            |n| at_most_once(n, handlers![first, second, third]),
        ),
        case("raw: three hops, 64 at once", None, 200_000, |n| {
            raw::three_hops(n, 64)
        }),
        case(
            "catga: QoS 1, 64 at once",
            Some("raw: three hops, 64 at once"),
            200_000,
            |n| stored_to_ack(n, handlers![stored], |i| StoredOrder(Order::new(i))),
        ),
        case(
            "catga: QoS 2, 64 at once",
            Some("catga: QoS 1, 64 at once"),
            200_000,
            |n| stored_to_ack(n, handlers![once], |i| OnceOrder(Order::new(i))),
        ),
        case("catga: QoS 1, 16 keys, unordered", None, 200_000, |n| {
            stored_to_ack(n, handlers![unordered], keyed)
        }),
        case(
            "catga: QoS 1, 16 keys, ordered",
            Some("catga: QoS 1, 16 keys, unordered"),
            200_000,
            |n| stored_to_ack(n, handlers![ordered], keyed),
        ),
        case("raw: 100 us of CPU on one core", None, 4_000, |n| {
            let began = Instant::now();
            (0..n).for_each(|_| raw::burn());
            began.elapsed()
        }),
        case(
            "catga: handler of 100 us, two cores",
            Some("raw: 100 us of CPU on one core"),
            4_000,
            burning,
        ),
    ]
}
