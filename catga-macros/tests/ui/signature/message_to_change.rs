// A message that is taken to be changed
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

#[handler]
async fn on_shipped(shipped: &mut OrderShipped) {
    shipped.order_id.clear();
}

fn main() {}
