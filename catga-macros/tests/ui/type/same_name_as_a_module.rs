// A module of the handler's name (texts of rustc)
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

mod billing {}

#[handler]
async fn billing(shipped: OrderShipped) {
    drop(shipped);
}

fn main() {}
