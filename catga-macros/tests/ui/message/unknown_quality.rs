// A quality of service that is none
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(twice)]
struct OrderShipped {
    order_id: String,
}

#[derive(Event, Serialize, Deserialize)]
#[qos(at_lest_once)]
struct OrderPaid;

// Nothing else is said of a message with a mistake, nor of its handlers.
#[handler(attempts = 3)]
async fn on_paid(paid: OrderPaid) {
    drop(paid);
}

fn main() {}
