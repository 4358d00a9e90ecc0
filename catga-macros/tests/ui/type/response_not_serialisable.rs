// A response that cannot be serialised
use catga::prelude::*;
use serde::{Deserialize, Serialize};

struct OrderAccepted {
    order_id: String,
}

#[derive(Request, Serialize, Deserialize)]
#[response(OrderAccepted)]
struct CreateOrder;

#[handler]
async fn create_order(_: CreateOrder) -> Result<OrderAccepted> {
    Ok(OrderAccepted { order_id: String::new() })
}

fn main() {}
