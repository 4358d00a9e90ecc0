// A response that is no `Result`
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Request, Serialize, Deserialize)]
#[response(u32)]
struct StockOf(String);

#[handler]
async fn stock_of(query: StockOf) -> u32 {
    drop(query);
    1
}

fn main() {}
