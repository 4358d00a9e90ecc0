// A back-off of one duration
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

#[handler(backoff = "1s")]
async fn on_shipped(shipped: OrderShipped) {
    drop(shipped);
}

fn main() {}
