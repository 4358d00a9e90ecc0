// Several mistakes in one handler, each told
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

#[handler(attempts = 0, grop = "billing")]
unsafe fn on_shipped<T>(shipped: &mut OrderShipped, other: impl Send, state: &State<T>) {
    drop((shipped, other, state));
}

fn main() {}
