//! Every form of message and handler, where nothing unsafe, undocumented or warned of is let through.

#![forbid(unsafe_code)]
#![deny(
    warnings,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    non_local_definitions
)]

use std::pin::pin;
use std::task::{Context as TaskContext, Poll, Waker};

use catga::prelude::*;
use catga::{Bytes, Kind, Message, QoS};
use serde::{Deserialize, Serialize};

/// A public event.
#[derive(Debug, Event, Serialize, Deserialize)]
#[qos(exactly_once)]
#[message(name = "orders.shipped", version = 2)]
#[route_by(order_id, partitions = 4)]
pub struct OrderShipped {
    /// Its key.
    pub order_id: String,
}

/// A public request.
#[derive(Debug, Request, Serialize, Deserialize)]
#[response(Vec<u32>)]
#[request(idempotent = false)]
#[route_by(0)]
pub struct StockOf(pub u64);

#[derive(Event, Serialize, Deserialize)]
enum Small {
    Empty,
    Full { weight: u32 },
}

#[derive(Request, Serialize, Deserialize)]
struct Reload;

/// Public and raw, by a name and a version of its own.
#[derive(Debug, Event)]
#[message(codec = "raw", name = "frames", version = 2)]
#[qos(exactly_once)]
pub struct Frame {
    /// What no codec writes.
    pub pixels: Bytes,
}

#[derive(Request)]
#[response(Bytes)]
#[message(codec = "raw")]
struct Mirror(Bytes);

/// Raw, by reference.
#[handler]
pub async fn on_frame(frame: &Frame) {
    assert!(frame.pixels.is_empty());
}

#[handler]
async fn mirror(mirror: Mirror) -> Result<Bytes> {
    Ok(mirror.0)
}

/// Public, with every option.
#[handler(
    group = "billing.invoices",
    concurrency = 16,
    attempts = 5,
    timeout = "1m 30s",
    backoff = "200ms..30s",
    rate = "100/s",
    breaker(failures = 5, open = "30s"),
    each_node = true,
    ordered,
    start = "new"
)]
pub async fn bill(shipped: OrderShipped, _: Context, State(number): State<u32>) -> Result<()> {
    assert_eq!((shipped.order_id.as_str(), number), ("o-1", 7));
    Ok(())
}

#[handler]
async fn stock_of(StockOf(item): StockOf, mut numbers: State<Vec<u32>>) -> Result<Vec<u32>> {
    numbers.0.push(u32::try_from(item)?);
    Ok(numbers.0)
}

#[handler]
async fn look(small: &Small) {
    match small {
        Small::Empty => {}
        Small::Full { weight } => assert_eq!(*weight, 3),
    }
}

// Other errors than ours are taken too.
#[handler]
async fn reload(_: &Reload, _: Headers, _: Attempt) -> std::io::Result<()> {
    Ok(())
}

/// Modules of a library.
pub mod nested {
    use super::{Small, handler};

    #[handler]
    pub(crate) async fn shared(_: Small) {}

    #[handler]
    pub(super) async fn for_parent(_: &Small) {}

    /// Types are found by path.
    #[handler]
    pub async fn by_path(_: super::OrderShipped) {}
}

fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut TaskContext::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("nothing here waits"),
    }
}

fn main() {
    assert_eq!((OrderShipped::NAME, OrderShipped::VERSION), ("orders.shipped", 2));
    assert_eq!((OrderShipped::QOS, OrderShipped::KIND), (QoS::ExactlyOnce, Kind::Event));
    assert_eq!(OrderShipped::PARTITIONS.map(Into::into), Some(4_u16));
    assert_eq!((Small::NAME, Small::QOS, Small::PARTITIONS), ("Small", QoS::AtMostOnce, None));
    assert_eq!((StockOf::QOS, StockOf::KIND), (QoS::AtLeastOnce, Kind::Request { idempotent: false }));
    assert_eq!(StockOf(9).routing_key().as_deref(), Some("9"));
    assert_eq!(StockOf::PARTITIONS.map(Into::into), Some(16_u16));
    assert_eq!(Reload::KIND, Kind::Request { idempotent: true });

    assert!(now(stock_of(StockOf(2), State(vec![1]))).is_ok_and(|numbers| numbers == [1, 2]));
    assert!(now(stock_of(StockOf(u64::MAX), State(vec![]))).is_err());
    now(look(&Small::Full { weight: 3 }));
    now(look(&Small::Empty));

    let named = handlers![bill, stock_of, look, reload, nested::shared, nested::for_parent, nested::by_path];
    let shown = format!("{named:?}");
    assert!(shown.contains("nested::by_path` (") && shown.contains("handles orders.shipped"), "{shown}");
}
