// A response of another type
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Request, Serialize, Deserialize)]
#[response(u32)]
struct StockOf(String);

#[handler]
async fn stock_of(query: StockOf) -> Result<String> {
    Ok(query.0)
}

#[handler]
async fn stock_of_nothing(query: &StockOf) {
    let _ = query;
}

fn main() {}
