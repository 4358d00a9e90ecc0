// Older versions that cannot be
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[message(name = "OrderShipped")]
struct OrderShippedV1;

#[derive(Event, Serialize, Deserialize)]
#[message(upcast_from = OrderShippedV1)]
struct OrderShipped;

#[derive(Event, Serialize, Deserialize)]
#[message(version = 1, upcast_from = OrderShippedV1)]
struct OrderPaid;

#[derive(Event, Serialize, Deserialize)]
#[message(version = 2, upcast_from = "OrderShippedV1")]
struct OrderPacked;

#[derive(Event, Serialize, Deserialize)]
#[message(name = "order shipped", version = 2, upcast_from = OrderShippedV1)]
struct OrderSpaced;

// The version is at fault, and nothing else.
#[derive(Event, Serialize, Deserialize)]
#[message(version = 0, upcast_from = OrderShippedV1)]
struct OrderSent;

#[derive(Event, Serialize, Deserialize)]
#[message(version = 2, upcast_form = OrderShippedV1)]
struct OrderClosed;

fn main() {}
