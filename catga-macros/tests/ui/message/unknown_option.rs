// An option of `#[message]` that is none
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[message(nmae = "orders.paid")]
struct OrderPaid;

fn main() {}
