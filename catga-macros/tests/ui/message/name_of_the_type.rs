// A type whose name cannot travel
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct Bestellungsänderung;

fn main() {}
