// An event with a response
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[response(u32)]
#[request(idempotent = false)]
struct OrderCreated;

fn main() {}
