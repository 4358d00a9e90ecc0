// A method
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

struct Billing;

impl Billing {
    #[handler]
    async fn bill(&self, shipped: OrderShipped) {
        drop(shipped);
    }
}

fn main() {}
