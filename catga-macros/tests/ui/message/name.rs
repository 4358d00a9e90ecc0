// A name that cannot travel
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[message(name = "orders.*")]
struct OrderCreated;

#[derive(Event, Serialize, Deserialize)]
#[message(name = "orders..created")]
struct OrderPaid;

fn main() {}
