use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[route_by(ordr_id, partitions = 0)]
struct OrderCreated {
    order_id: String,
}

#[derive(Event, Serialize, Deserialize)]
#[route_by(id)]
enum Order {
    Paid { id: u32 },
}

#[derive(Event, Serialize, Deserialize)]
#[route_by(lines)]
struct OrderPacked {
    lines: Vec<u32>,
}

fn main() {}
