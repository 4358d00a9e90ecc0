// A commit to what is no store
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

struct Repo;

#[handler]
async fn on_shipped(shipped: OrderShipped, tx: Commit<Repo>) {
    drop((shipped, tx));
}

fn main() {}
