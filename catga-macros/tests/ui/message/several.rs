// Several mistakes in one message, each told
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_lest_once)]
#[message(name = "orders.*", version = 0)]
#[route_by(ordr_id, partitions = 0)]
#[response(u32)]
struct OrderCreated {
    #[qos(at_least_once)]
    order_id: String,
}

fn main() {}
