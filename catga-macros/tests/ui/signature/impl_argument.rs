// An `impl Trait` argument
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

#[handler]
async fn on_any(message: impl Event) {
    drop(message);
}

#[handler]
async fn on_shipped(shipped: OrderShipped, other: Option<impl Send>) {
    drop((shipped, other));
}

fn main() {}
