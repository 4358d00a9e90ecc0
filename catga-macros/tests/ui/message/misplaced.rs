use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct OrderCreated {
    #[qos(at_least_once)]
    order_id: String,
}

#[derive(Event, Serialize, Deserialize)]
enum Order {
    #[route_by(id)]
    Created { id: u32 },
}

fn main() {}
