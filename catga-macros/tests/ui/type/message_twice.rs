// Two messages
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

#[derive(Event, Serialize, Deserialize)]
struct Moved;

#[handler]
async fn on_both(shipped: OrderShipped, moved: Moved) {
    drop((shipped, moved));
}

fn main() {}
