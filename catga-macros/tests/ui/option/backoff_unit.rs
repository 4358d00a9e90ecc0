// A back-off with an unknown unit
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

#[handler(backoff = "200ms..5 parrots")]
async fn on_shipped(shipped: OrderShipped) {
    drop(shipped);
}

fn main() {}
