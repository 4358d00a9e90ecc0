// A back-off from the longer to the shorter
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

#[handler(backoff = "30s..200ms")]
async fn on_shipped(shipped: OrderShipped) {
    drop(shipped);
}

fn main() {}
