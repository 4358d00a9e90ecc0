// A version that is none
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[message(version = 0)]
struct OrderCreated;

#[derive(Event, Serialize, Deserialize)]
#[message(version = "2")]
struct OrderPaid;

fn main() {}
