//! The dispatch path, so often: `catga-counts CASE OPERATIONS`, for callgrind to count its instructions.
//!
//! Everything runs on one thread, so that a count is the same whatever else the machine does.

use std::cell::Cell;
use std::hint::black_box;

use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Request, Serialize, Deserialize)]
#[response(u64)]
#[request(idempotent = false)]
struct Quote {
    quantity: u64,
    unit_price: u64,
}

#[handler]
async fn price(request: Quote) -> Result<u64> {
    Ok(request.quantity * request.unit_price)
}

#[derive(Event, Serialize, Deserialize)]
struct Order {
    quantity: u64,
}

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct StoredOrder {
    quantity: u64,
}

#[derive(Event, Serialize, Deserialize)]
#[qos(exactly_once)]
struct OnceOrder {
    quantity: u64,
}

thread_local! {
    static HANDLED: Cell<u64> = const { Cell::new(0) };
}

fn handled(quantity: u64) {
    HANDLED.set(HANDLED.get() + black_box(quantity));
}

#[handler]
async fn reference(order: &Order) {
    handled(order.quantity);
}

#[handler]
async fn value(order: Order) {
    handled(order.quantity);
}

#[handler]
async fn stored(order: &StoredOrder) -> Result<()> {
    handled(order.quantity);
    Ok(())
}

#[handler]
async fn once(order: &OnceOrder) -> Result<()> {
    handled(order.quantity);
    Ok(())
}

async fn start(url: &str, handlers: catga::Handlers) -> Catga {
    let builder = Catga::builder().connect(url).handlers(handlers);
    builder.start().await.expect("it starts")
}

async fn send(url: &str, operations: u64) {
    let catga = start(url, handlers![price]).await;
    for _ in 0..operations {
        let request = Quote {
            quantity: 1,
            unit_price: 1,
        };
        handled(catga.send(request).await.expect("an answer"));
    }
}

/// Each is handled before the next is published. Of a burst a part would move to tasks of its own, as after a first poll
/// that took too long by the clock: how large a part would be another with each run.
async fn publish<E: catga::Event>(handlers: catga::Handlers, event: fn(u64) -> E, operations: u64) {
    let catga = start("memory://", handlers).await;
    for i in 0..operations {
        catga.publish(event(1)).await.expect("published");
        while HANDLED.get() <= i {
            tokio::task::yield_now().await;
        }
    }
}

async fn run(case: &str, operations: u64) -> bool {
    match case {
        "send" => send("memory://?request_deadline=none", operations).await,
        "send-deadline" => send("memory://", operations).await,
        "event-reference" => {
            publish(
                handlers![reference],
                |quantity| Order { quantity },
                operations,
            )
            .await;
        }
        "event-value" => {
            publish(handlers![value], |quantity| Order { quantity }, operations).await;
        }
        "event-stored" => {
            publish(
                handlers![stored],
                |quantity| StoredOrder { quantity },
                operations,
            )
            .await;
        }
        "event-once" => {
            publish(
                handlers![once],
                |quantity| OnceOrder { quantity },
                operations,
            )
            .await;
        }
        _ => return false,
    }
    true
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let case = arguments.next().unwrap_or_default();
    let operations = arguments.next().and_then(|count| count.parse().ok());
    let operations = operations.expect("catga-counts CASE OPERATIONS");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    assert!(
        runtime.block_on(run(&case, operations)),
        "no case is named {case:?}"
    );
    assert_eq!(HANDLED.get(), operations, "handled");
}
