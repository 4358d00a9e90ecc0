// A function that is no handler in `handlers![..]`
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

async fn on_shipped(shipped: OrderShipped) {
    drop(shipped);
}

struct OnPaid;

fn main() {
    drop(handlers![on_shipped]);
    drop(handlers![OnPaid]);
}
