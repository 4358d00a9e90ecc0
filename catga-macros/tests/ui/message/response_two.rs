// Two responses
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Request, Serialize, Deserialize)]
#[response(u32, String)]
struct StockOf;

fn main() {}
