// A generic handler
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

#[handler]
async fn by_type<M: Event>(message: M) {
    drop(message);
}

#[handler]
async fn by_lifetime<'a>(shipped: &'a OrderShipped) {
    let _ = shipped;
}

#[handler]
async fn by_number<const N: usize>(shipped: OrderShipped) {
    drop(shipped);
}

fn main() {}
