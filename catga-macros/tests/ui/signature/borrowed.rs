use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

#[handler]
async fn changes(shipped: &mut OrderShipped) {
    let _ = shipped;
}

#[handler]
async fn borrows_state(shipped: &OrderShipped, number: &State<u32>) {
    let _ = (shipped, number);
}

#[handler]
async fn keeps(shipped: &'static OrderShipped) {
    let _ = shipped;
}

#[handler]
async fn takes_too_much(
    _: OrderShipped,
    _: Context,
    _: Context,
    _: Context,
    _: Context,
    _: Context,
    _: Context,
    _: Context,
    _: Context,
    _: Headers,
) {
}

fn main() {}
