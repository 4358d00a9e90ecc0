// A message that is borrowed for ever
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

#[handler]
async fn on_shipped(shipped: &'static OrderShipped) {
    let _ = shipped;
}

fn main() {}
