// An event that is answered
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

#[handler]
async fn on_shipped(shipped: OrderShipped) -> Result<String> {
    Ok(shipped.order_id)
}

fn main() {}
