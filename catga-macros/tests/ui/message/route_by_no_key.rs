// A routing key that is no key
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[route_by(lines)]
struct OrderPacked {
    lines: Vec<u32>,
}

fn main() {}
