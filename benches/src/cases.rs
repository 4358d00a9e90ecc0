//! The cases: each loop of ours stands next to the one by hand in `raw.rs`.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use catga::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};

use crate::raw;

/// One row of the table.
pub struct Case {
    pub name: &'static str,
    /// The case that this one is held against.
    pub against: Option<&'static str>,
    pub operations: u64,
    pub run: fn(u64) -> Duration,
}

#[derive(Request, Serialize, Deserialize)]
#[response(u64)]
#[request(idempotent = false)]
pub struct Quote {
    pub quantity: u64,
    pub unit_price: u64,
}

#[handler]
async fn price(request: Quote) -> Result<u64> {
    Ok(request.quantity * request.unit_price)
}

/// Some 100 bytes as JSON.
#[derive(Event, Serialize, Deserialize)]
pub struct Order {
    pub order_id: String,
    pub product_id: String,
    pub quantity: u64,
}

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct StoredOrder(Order);

impl Order {
    pub fn new(i: u64) -> Self {
        Self {
            order_id: format!("order-{i}"),
            product_id: "product-4711-blue-xl".to_owned(),
            quantity: i,
        }
    }
}

#[derive(Clone, Default)]
struct Seen(Arc<AtomicU64>);

impl Seen {
    fn one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    async fn all(&self, count: u64) {
        while self.0.load(Ordering::Relaxed) < count {
            tokio::task::yield_now().await;
        }
    }
}

#[handler(group = "one")]
async fn first(order: &Order, State(seen): State<Seen>) {
    black_box(order.quantity);
    seen.one();
}

#[handler(group = "two")]
async fn second(order: &Order, State(seen): State<Seen>) {
    black_box(order.quantity);
    seen.one();
}

#[handler(group = "three")]
async fn third(order: &Order, State(seen): State<Seen>) {
    black_box(order.quantity);
    seen.one();
}

#[handler(group = "by-value")]
async fn by_value(order: Order, State(seen): State<Seen>) {
    black_box(order.quantity);
    seen.one();
}

#[handler(group = "stored")]
async fn stored(order: &StoredOrder, State(seen): State<Seen>) -> Result<()> {
    black_box(order.0.quantity);
    seen.one();
    Ok(())
}

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct Heavy(u64);

#[handler]
async fn heavy(_: &Heavy, State(seen): State<Seen>) -> Result<()> {
    raw::burn();
    seen.one();
    Ok(())
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

async fn start(handlers: catga::Handlers, seen: &Seen, url: &str) -> Catga {
    Catga::builder()
        .connect(url)
        .handlers(handlers)
        .state(seen.clone())
        .start()
        .await
        .expect("it starts")
}

/// `send` to a handler of this node.
fn send(operations: u64, url: &str) -> Duration {
    one_core().block_on(async {
        let catga = start(handlers![price], &Seen::default(), url).await;
        let began = Instant::now();
        for i in 0..operations {
            black_box(
                catga
                    .send(Quote {
                        quantity: i,
                        unit_price: 3,
                    })
                    .await
                    .expect("an answer"),
            );
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

/// QoS 1 from publish to ack, `window` publishes at once.
fn at_least_once(operations: u64, window: usize) -> Duration {
    two_cores(async move {
        let seen = Seen::default();
        let catga = start(handlers![stored], &seen, "memory://").await;
        let began = Instant::now();
        let mut publishers = tokio::task::JoinSet::new();
        for lane in 0..window as u64 {
            let catga = catga.clone();
            publishers.spawn(async move {
                for i in (lane..operations).step_by(window) {
                    catga
                        .publish(StoredOrder(Order::new(i)))
                        .await
                        .expect("stored");
                }
            });
        }
        publishers.join_all().await;
        seen.all(operations).await;
        began.elapsed()
    })
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
        case("raw: request over mpsc + oneshot", None, 200_000, |n| {
            raw::channel_request(&one_core(), n)
        }),
        case(
            "catga: send, no deadline",
            Some("raw: boxed call through Arc<dyn>"),
            2_000_000,
            |n| send(n, "memory://?request_deadline=none"),
        ),
        case(
            "catga: send, default deadline",
            Some("raw: boxed call through Arc<dyn>"),
            2_000_000,
            |n| send(n, "memory://"),
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
            |n| at_least_once(n, 64),
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
