// An event that is sent
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

async fn tell(catga: &Catga, order_id: String) -> Result<()> {
    catga.send(OrderShipped { order_id }).await?;
    Ok(())
}

fn main() {
    let _ = tell;
}
