use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

#[handler(timeout = "30 parrots", backoff = "30s..200ms")]
async fn on_shipped(shipped: OrderShipped) {
    drop(shipped);
}

#[handler(timeout = 30, backoff = "1s")]
async fn on_shipped_too(shipped: OrderShipped) {
    drop(shipped);
}

fn main() {}
