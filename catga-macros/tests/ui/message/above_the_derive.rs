// An attribute above the derive (a text of rustc)
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[qos(at_least_once)]
#[derive(Event, Serialize, Deserialize)]
struct OrderShipped;

fn main() {}
