use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Moved;

#[handler(breaker = false)]
async fn off(_: &Moved) {}

#[handler(breaker = 5)]
async fn number(_: &Moved) {}

#[handler(breaker(failure = 3, shut = "1s"))]
async fn unknown(_: &Moved) {}

#[handler(breaker(failures = 0, open = "0s"))]
async fn nothing(_: &Moved) {}

#[handler(breaker(failures = "5", open = 30))]
async fn other_values(_: &Moved) {}

#[handler(breaker(5))]
async fn no_key(_: &Moved) {}

#[handler(timeout("1s"))]
async fn no_list(_: &Moved) {}

fn main() {}
