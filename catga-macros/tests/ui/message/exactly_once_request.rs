// A request exactly once
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Request, Serialize, Deserialize)]
#[qos(exactly_once)]
struct CreateOrder;

fn main() {}
