// An error that is none
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

#[handler]
async fn on_shipped(shipped: OrderShipped) -> std::result::Result<(), String> {
    Err(shipped.order_id)
}

fn main() {}
