// Two routing keys
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[route_by(order_id)]
#[route_by(customer)]
struct OrderCreated {
    order_id: String,
    customer: String,
}

fn main() {}
