// A handler that returns an `impl Trait`
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

#[handler]
async fn on_shipped(shipped: OrderShipped) -> impl Into<String> {
    shipped.order_id
}

fn main() {}
