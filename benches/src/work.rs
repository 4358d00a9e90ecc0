//! The messages, and the handlers that do next to nothing with them.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use catga::prelude::*;
use serde::{Deserialize, Serialize};

use crate::raw;

#[derive(Request, Serialize, Deserialize)]
#[response(u64)]
#[request(idempotent = false)]
pub struct Quote {
    pub quantity: u64,
    pub unit_price: u64,
}

#[handler]
pub async fn price(request: Quote) -> Result<u64> {
    Ok(request.quantity * request.unit_price)
}

/// A [`Quote`] that is remembered by its id, wherever somebody may send it again.
#[derive(Request, Serialize, Deserialize)]
#[response(u64)]
pub struct SafeQuote {
    pub quantity: u64,
    pub unit_price: u64,
}

#[handler]
pub async fn price_once(request: SafeQuote) -> Result<u64> {
    Ok(request.quantity * request.unit_price)
}

pub trait Priced: catga::Request<Response = u64> {
    fn of(quantity: u64) -> Self;
}

impl Priced for Quote {
    fn of(quantity: u64) -> Self {
        Self {
            quantity,
            unit_price: 3,
        }
    }
}

impl Priced for SafeQuote {
    fn of(quantity: u64) -> Self {
        Self {
            quantity,
            unit_price: 3,
        }
    }
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
pub struct StoredOrder(pub Order);

#[derive(Event, Serialize, Deserialize)]
#[qos(exactly_once)]
pub struct OnceOrder(pub Order);

/// A [`StoredOrder`] with one of 16 keys.
#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
#[route_by(key, partitions = 16)]
pub struct KeyedOrder {
    pub key: u64,
    pub order: Order,
}

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
pub struct Seen(Arc<AtomicU64>);

impl Seen {
    fn one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub async fn all(&self, count: u64) {
        while self.0.load(Ordering::Relaxed) < count {
            tokio::task::yield_now().await;
        }
    }
}

#[handler(group = "one")]
pub async fn first(order: &Order, State(seen): State<Seen>) {
    black_box(order.quantity);
    seen.one();
}

#[handler(group = "two")]
pub async fn second(order: &Order, State(seen): State<Seen>) {
    black_box(order.quantity);
    seen.one();
}

#[handler(group = "three")]
pub async fn third(order: &Order, State(seen): State<Seen>) {
    black_box(order.quantity);
    seen.one();
}

#[handler(group = "by-value")]
pub async fn by_value(order: Order, State(seen): State<Seen>) {
    black_box(order.quantity);
    seen.one();
}

#[handler(group = "stored")]
pub async fn stored(order: &StoredOrder, State(seen): State<Seen>) -> Result<()> {
    black_box(order.0.quantity);
    seen.one();
    Ok(())
}

#[handler(group = "once")]
pub async fn once(order: &OnceOrder, State(seen): State<Seen>) -> Result<()> {
    black_box(order.0.quantity);
    seen.one();
    Ok(())
}

#[handler(group = "unordered", concurrency = 16)]
pub async fn unordered(order: &KeyedOrder, State(seen): State<Seen>) -> Result<()> {
    black_box(order.order.quantity);
    seen.one();
    Ok(())
}

#[handler(group = "ordered", ordered, concurrency = 16)]
pub async fn ordered(order: &KeyedOrder, State(seen): State<Seen>) -> Result<()> {
    black_box(order.order.quantity);
    seen.one();
    Ok(())
}

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
pub struct Heavy(pub u64);

#[handler]
pub async fn heavy(_: &Heavy, State(seen): State<Seen>) -> Result<()> {
    raw::burn();
    seen.one();
    Ok(())
}
