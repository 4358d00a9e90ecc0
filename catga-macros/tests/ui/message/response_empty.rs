// A response that is not said
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Request, Serialize, Deserialize)]
#[response]
struct StockOf;

fn main() {}
