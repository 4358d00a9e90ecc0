use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Moved;

#[handler(rate = "0/s")]
async fn none(_: &Moved) {}

#[handler(rate = "many/s")]
async fn many(_: &Moved) {}

#[handler(rate = "100")]
async fn for_ever(_: &Moved) {}

#[handler(rate = 100)]
async fn number(_: &Moved) {}

#[handler(rate = "5/parrot")]
async fn unknown_unit(_: &Moved) {}

#[handler(rate = "5/100")]
async fn no_unit(_: &Moved) {}

#[handler(rate = "5/0s")]
async fn no_time(_: &Moved) {}

fn main() {}
