//! What the nodes do with the messages.

use catga::prelude::{Context, FailWith, Result, State, handler};

use crate::book::Book;
use crate::log::Log;
use crate::messages::{CreateOrder, FindOrder, Order, OrderCreated, OrderShipped, OrdersAfter};

/// Makes an order: the node whose turn it is, or the next one when that dies half-way.
#[handler]
pub(crate) async fn create_order(
    request: CreateOrder,
    ctx: Context,
    State(book): State<Book>,
    State(log): State<Log>,
) -> Result<Order> {
    // Who sent it may not have looked.
    request.check().terminal()?;
    let order = Order {
        id: ctx.id(),
        product_id: request.product_id,
        quantity: request.quantity,
        processed_by: ctx.node().to_string(),
    };
    log.say(
        ctx.node(),
        format_args!(
            "Processing order {}: {} x {}",
            order.id, order.quantity, order.product_id
        ),
    );
    // A run that was cut short, here or at a node that died, may have been heard of: what it made is the order.
    let entered = book.enter(order).await?;
    let order = entered.order;
    if entered.is_new {
        ctx.publish(OrderCreated { order_id: order.id }).await?;
    }
    let shipped = OrderShipped {
        order: order.clone(),
    };
    // By the order, and not by what it says: should two nodes have made it, it is shipped once.
    let id = order.id.derive(b"shipped");
    ctx.message(shipped).id(id).publish().await?;
    log.say(
        ctx.node(),
        format_args!(
            "Processed order {}: made by {}",
            order.id, order.processed_by
        ),
    );
    Ok(order)
}

#[handler(each_node)]
pub(crate) async fn on_created(event: &OrderCreated, ctx: Context, State(log): State<Log>) {
    log.say(
        ctx.node(),
        format_args!(
            "[QoS 0] order created received (may be lost): {}",
            event.order_id
        ),
    );
}

#[handler(each_node)]
pub(crate) async fn on_shipped(
    event: OrderShipped,
    ctx: Context,
    State(book): State<Book>,
    State(log): State<Log>,
) -> Result<()> {
    let order = event.order;
    let what = if book.ship(order.clone()).await? {
        "(guaranteed)"
    } else {
        "again (without effect)"
    };
    log.say(
        ctx.node(),
        format_args!(
            "[QoS 1] order shipped received {what}: {}, made by {}",
            order.id, order.processed_by
        ),
    );
    Ok(())
}

#[handler]
pub(crate) async fn find_order(
    request: FindOrder,
    State(book): State<Book>,
) -> Result<Option<Order>> {
    book.find(request.id).await
}

#[handler]
pub(crate) async fn orders_after(
    request: OrdersAfter,
    State(book): State<Book>,
) -> Result<Vec<Order>> {
    book.page(request.id).await
}
