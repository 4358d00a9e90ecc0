// Two qualities of service
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once, exactly_once)]
struct OrderShipped {
    order_id: String,
}

fn main() {}
