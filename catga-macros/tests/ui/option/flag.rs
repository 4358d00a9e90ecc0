// A flag that is neither true nor false
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

#[handler(each_node = "yes", ordered = 1)]
async fn on_shipped(shipped: OrderShipped) {
    drop(shipped);
}

fn main() {}
