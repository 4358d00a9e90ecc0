use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

#[handler]
const fn constant(shipped: &OrderShipped) {}

#[handler]
async unsafe extern "C" fn foreign(shipped: OrderShipped) {
    drop(shipped);
}

#[handler]
struct Nothing;

fn main() {}
