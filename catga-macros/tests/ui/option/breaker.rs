// Breakers that are none
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

#[handler(breaker = false)]
async fn off(_: &OrderShipped) {}

#[handler(breaker = 5)]
async fn number(_: &OrderShipped) {}

#[handler(breaker(failure = 3, shut = "1s"))]
async fn unknown(_: &OrderShipped) {}

#[handler(breaker(failures = 0, open = "0s"))]
async fn nothing(_: &OrderShipped) {}

#[handler(breaker(failures = "5", open = 30))]
async fn other_values(_: &OrderShipped) {}

#[handler(breaker(5))]
async fn no_key(_: &OrderShipped) {}

#[handler(timeout("1s"))]
async fn no_list(_: &OrderShipped) {}

fn main() {}
