//! The messages, and the handlers that do next to nothing with them.

use std::hint::black_box;

use bytes::Bytes;
use catga::prelude::*;
use serde::{Deserialize, Serialize};

use crate::latency::Tally;

/// Some 80 bytes as JSON; a peer's derive lets it publish the same type.
#[derive(Event, Serialize, Deserialize, ruststream::Outgoing)]
pub struct Order {
    pub order_id: String,
    pub product_id: String,
    pub quantity: u64,
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

/// Looks at an order: what every handler does, ours, the peers' and those by hand.
#[inline]
pub fn handle(order: &Order, tally: &Tally) {
    tally.one(black_box(order.quantity));
}

/// A node of ours with these handlers.
pub fn builder(handlers: catga::Handlers, tally: &Tally, url: &str) -> catga::CatgaBuilder {
    Catga::builder()
        .connect(url)
        .handlers(handlers)
        .state(tally.clone())
}

pub async fn start(handlers: catga::Handlers, tally: &Tally, url: &str) -> Catga {
    let builder = builder(handlers, tally, url);
    builder.start().await.expect("it starts")
}

/// What raw clients carry, and we where no codec is: bytes that begin with the message's number.
pub fn payload(i: u64, size: usize) -> Bytes {
    let mut bytes = vec![b'.'; size];
    bytes[..8].copy_from_slice(&i.to_le_bytes());
    bytes.into()
}

/// The number of a message.
pub fn number(payload: &[u8]) -> u64 {
    let first = payload.first_chunk().expect("a payload of ours");
    u64::from_le_bytes(*first)
}

pub const RAW_PAYLOAD: &str = "100 B, a number first";
