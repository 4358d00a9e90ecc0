// A state that cannot be cloned
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

struct Repo;

#[handler]
async fn on_shipped(shipped: OrderShipped, State(repo): State<Repo>) {
    drop((shipped, repo));
}

fn main() {
    drop(Catga::builder().state(Repo));
}
