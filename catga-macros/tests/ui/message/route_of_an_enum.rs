// A routing key of an enum
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[route_by(id)]
enum Order {
    Paid { id: u32 },
}

fn main() {}
