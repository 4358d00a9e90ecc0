// A routing key that is no field
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[route_by(ordr_id)]
struct OrderCreated {
    order_id: String,
}

#[derive(Event, Serialize, Deserialize)]
#[route_by(1)]
struct OrderPaid(String);

#[derive(Event, Serialize, Deserialize)]
#[route_by(id)]
struct OrderClosed;

fn main() {}
