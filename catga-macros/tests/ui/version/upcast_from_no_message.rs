// An older version that is no message
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct OrderShippedV1;

#[derive(Event, Serialize, Deserialize)]
#[message(version = 2, upcast_from = OrderShippedV1)]
struct OrderShipped;

impl From<OrderShippedV1> for OrderShipped {
    fn from(_: OrderShippedV1) -> Self {
        Self
    }
}

fn main() {}
