// Rates that are none
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

#[handler(rate = "0/s")]
async fn none(_: &OrderShipped) {}

#[handler(rate = "many/s")]
async fn many(_: &OrderShipped) {}

#[handler(rate = "100")]
async fn for_ever(_: &OrderShipped) {}

#[handler(rate = 100)]
async fn number(_: &OrderShipped) {}

#[handler(rate = "5/parrot")]
async fn unknown_unit(_: &OrderShipped) {}

#[handler(rate = "5/100")]
async fn no_unit(_: &OrderShipped) {}

#[handler(rate = "5/0s")]
async fn no_time(_: &OrderShipped) {}

fn main() {}
