// A message that cannot be serialised
use catga::prelude::*;

#[derive(Event)]
struct OrderCreated {
    order_id: String,
}

#[handler]
async fn on_created(created: OrderCreated) {
    drop(created.order_id);
}

fn main() {}
