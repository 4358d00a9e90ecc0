// An attribute on a field
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct OrderCreated {
    #[qos(at_least_once)]
    order_id: String,
}

fn main() {}
