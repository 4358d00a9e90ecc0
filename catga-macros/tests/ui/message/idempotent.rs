// An `idempotent` that is neither true nor false
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Request, Serialize, Deserialize)]
#[request(idempotent = "no")]
struct StockOf;

fn main() {}
