// An extractor that is borrowed
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

#[handler]
async fn on_shipped(shipped: &OrderShipped, number: &State<u32>) {
    let _ = (shipped, number);
}

fn main() {}
