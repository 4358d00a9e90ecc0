// Partitions that are none, or too many
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[route_by(id, partitions = 0)]
struct OrderCreated {
    id: u32,
}

#[derive(Event, Serialize, Deserialize)]
#[route_by(id, partitions = 100000)]
struct OrderPaid {
    id: u32,
}

fn main() {}
