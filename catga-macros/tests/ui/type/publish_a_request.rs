// A request that is published
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Request, Serialize, Deserialize)]
#[response(u32)]
struct StockOf(String);

async fn ask(catga: &Catga) -> Result<()> {
    catga.publish(StockOf("lamp".to_owned())).await?;
    Ok(())
}

fn main() {
    let _ = ask;
}
