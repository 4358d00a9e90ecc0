// A function of an `impl`
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
    async fn bill(shipped: OrderShipped, billing: State<Self>) {
        drop((shipped, billing));
    }
}

fn main() {}
