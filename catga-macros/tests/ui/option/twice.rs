// An option that is given twice
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

#[handler(attempts = 2, attempts = 3)]
async fn on_shipped(shipped: OrderShipped) {
    drop(shipped);
}

fn main() {}
