// An older version that is not there
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[message(version = 2, upcast_from = OrderShippedV1)]
struct OrderShipped;

fn main() {}
