// A future that is not `Send`
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

#[handler]
async fn on_shipped(shipped: OrderShipped) {
    let id = std::rc::Rc::new(shipped.order_id);
    std::future::ready(()).await;
    drop(id);
}

#[handler(group = "by-reference")]
async fn on_borrowed(shipped: &OrderShipped) {
    let id = std::rc::Rc::new(&shipped.order_id);
    std::future::ready(()).await;
    drop(id);
}

fn main() {}
