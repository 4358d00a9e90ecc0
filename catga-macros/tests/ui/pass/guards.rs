//! Every form of `rate` and `breaker`, on every kind of handler.

#![forbid(unsafe_code)]
#![deny(warnings)]

use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Moved;

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
#[route_by(0)]
struct Paid(u32);

#[derive(Request, Serialize, Deserialize)]
struct Reload;

#[handler(rate = "100/s", breaker)]
async fn at_most_once(_: Moved) {}

#[handler(rate = "5/min", breaker(), each_node)]
async fn on_each_node(_: &Moved) {}

#[handler(rate = "10/100ms", breaker(failures = 3), ordered)]
async fn in_order(_: &Paid) {}

#[handler(rate = "1/h", breaker(open = "1m 30s"))]
async fn answers(_: Reload) -> Result<()> {
    Ok(())
}

#[handler(rate = " 1 / 1h 30m ", breaker(failures = 1, open = "10ms",))]
async fn spaced(_: &Moved) {}

macro_rules! guarded {
    ($name:ident, $rate:literal, $failures:literal, $open:expr) => {
        #[handler(rate = $rate, breaker(failures = $failures, open = $open))]
        async fn $name(_: &Moved) {}
    };
}

guarded!(from_a_macro, "7/s", 8, "9s");

fn main() {
    let named = handlers![at_most_once, on_each_node, in_order, answers, spaced, from_a_macro];
    assert_eq!(named.len(), 6);
}
