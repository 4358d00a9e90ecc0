// A request to every node
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Request, Serialize, Deserialize)]
#[response(u32)]
struct StockOf(String);

#[handler(each_node)]
async fn stock_of(query: StockOf) -> Result<u32> {
    drop(query);
    Ok(1)
}

fn main() {}
