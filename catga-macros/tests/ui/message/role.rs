use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Request, Serialize, Deserialize)]
#[qos(exactly_once)]
struct CreateOrder;

#[derive(Event, Serialize, Deserialize)]
#[response(u32)]
struct OrderCreated;

fn main() {}
