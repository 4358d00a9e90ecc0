// A boxed error, which `?` cannot take
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

fn check(_: &str) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    Ok(())
}

#[handler]
async fn on_shipped(shipped: OrderShipped) -> Result<()> {
    check(&shipped.order_id)?;
    Ok(())
}

fn main() {}
