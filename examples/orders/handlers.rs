//! What the nodes do with the messages.

use std::fmt::Arguments;
use std::io::Write;
use std::sync::Arc;

use catga::prelude::{Attempt, Context, FailWith, Result, State, handler};

use crate::ledger::{Ledger, NodeLog, hash};
use crate::messages::{CreateOrder, OrderAccepted, OrderCreated, OrderShipped};

/// One order in so many meets a payment service that is down, and is billed at the second attempt.
const HICCUP_ONE_IN: u64 = 100;
/// One order in so many has a card that is declined for good.
const DECLINED_ONE_IN: u64 = 10_000;

/// Takes an order: whichever node's turn it is.
#[handler]
pub(crate) async fn create_order(
    order: CreateOrder,
    ctx: Context,
    State(ledger): State<Arc<Ledger>>,
) -> Result<OrderAccepted> {
    let order_id = order.order_id;
    let tracking_number = format!("TRK-{:016X}", hash(&order_id));
    let total_cents = u64::from(order.unit_price_cents) * u64::from(order.quantity);

    let created = OrderCreated {
        order_id: order_id.clone(),
        product_id: order.product_id,
        quantity: order.quantity,
    };
    ctx.publish(created).await?;
    ledger.created.add(&order_id);

    let shipped = OrderShipped {
        order_id: order_id.clone(),
        tracking_number: tracking_number.clone(),
        total_cents,
        shipped_at_us: ledger.now_us(),
    };
    ctx.publish(shipped).await?;
    ledger.shipped.add(&order_id);

    Ok(OrderAccepted {
        tracking_number,
        total_cents,
    })
}

/// Bills an order: one node of the group, again when it fails, until it is done or given up.
#[handler(
    group = "billing",
    concurrency = 16,
    attempts = 5,
    backoff = "5ms..50ms"
)]
pub(crate) async fn bill(
    order: OrderShipped,
    attempt: Attempt,
    State(ledger): State<Arc<Ledger>>,
) -> Result<()> {
    let chance = hash(&order.order_id);
    if chance.is_multiple_of(DECLINED_ONE_IN) {
        ledger.declined.add(&order.order_id);
        Err("the card was declined").terminal()?;
    }
    if chance % HICCUP_ONE_IN == 1 && attempt.number() == 1 {
        ledger.hiccups.add(&order.order_id);
        Err("the payment service did not answer").retry()?;
    }
    ledger
        .billing_latency
        .record(ledger.since(order.shipped_at_us));
    ledger.billed.add(&order.order_id);
    Ok(())
}

/// Every node sees every new order, as far as QoS 0 carries it.
#[handler(each_node)]
pub(crate) async fn log_created(
    order: &OrderCreated,
    ctx: Context,
    State(log): State<Arc<NodeLog>>,
) {
    let (id, quantity, product) = (&order.order_id, order.quantity, &order.product_id);
    print_if(
        &log,
        format_args!("{} created {id}: {quantity} x {product}", ctx.node()),
    );
    log.created.add(id);
}

/// Every node sees every shipped order.
#[handler(each_node)]
pub(crate) async fn log_shipped(
    order: &OrderShipped,
    ctx: Context,
    State(log): State<Arc<NodeLog>>,
) {
    let (id, tracking, cents) = (&order.order_id, &order.tracking_number, order.total_cents);
    let (whole, part) = (cents / 100, cents % 100);
    print_if(
        &log,
        format_args!("{} shipped {id}: {tracking}, {whole}.{part:02}", ctx.node()),
    );
    log.shipped.add(id);
}

fn print_if(log: &NodeLog, line: Arguments<'_>) {
    if log.verbose {
        // Whoever reads may have gone, as with `| head`: the orders go on.
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}
