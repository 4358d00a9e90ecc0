// A quality of service that is not said
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos]
struct OrderShipped {
    order_id: String,
}

fn main() {}
