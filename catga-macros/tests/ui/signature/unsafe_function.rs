// An `unsafe fn`
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

#[handler]
async unsafe fn on_shipped(shipped: OrderShipped) {
    drop(shipped);
}

fn main() {}
