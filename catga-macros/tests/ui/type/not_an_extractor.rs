// An argument that is no extractor
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

struct Repo;

#[handler]
async fn on_shipped(shipped: OrderShipped, context: Context, repo: Repo) {
    drop((shipped, context, repo));
}

fn main() {}
