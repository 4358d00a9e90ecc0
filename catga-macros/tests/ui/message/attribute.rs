use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[message(name = "orders.*", version = 0)]
struct OrderCreated;

#[derive(Event, Serialize, Deserialize)]
#[message(nmae = "orders.paid")]
#[qos(at_least_once)]
#[qos(exactly_once)]
struct OrderPaid;

#[derive(Request, Serialize, Deserialize)]
#[request(idempotent = "no")]
#[response]
struct StockOf;

fn main() {}
