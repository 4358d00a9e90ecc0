//! What the nodes do with the messages.

use std::fmt::Arguments;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use catga::memory::Memory;
use catga::prelude::{Attempt, Commit, Context, FailWith, Result, State, handler};

use crate::books;
use crate::desk::Desk;
use crate::fate::Fate;
use crate::ledger::{Ledger, NodeLog, hash};
use crate::messages::{
    CreateOrder, OldPaymentTaken, OrderAccepted, OrderCreated, OrderShipped, PaymentTaken,
};

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
        customer: order.customer,
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
    ctx: Context,
    attempt: Attempt,
    State(ledger): State<Arc<Ledger>>,
) -> Result<()> {
    let (order_id, cents) = (order.order_id, order.total_cents);
    let fate = Fate::of(&order_id);
    if fate == Fate::Declined {
        ledger.declined.add(&order_id);
        Err("the card was declined").terminal()?;
    }
    let fails = attempt.number() == 1;
    if fate == Fate::Unreachable && fails {
        ledger.hiccups.add(&order_id);
        Err("the payment service did not answer").retry()?;
    }
    let payment = PaymentTaken {
        order_id: order_id.clone(),
        customer: order.customer,
        cents,
    };
    if fate == Fate::Repeated {
        publish_thrice(payment, &ctx, &ledger).await?;
    } else {
        // Its id is derived from the order's: what the next attempt publishes is a duplicate of it.
        let published = ctx.message(payment).publish().await?;
        ledger.published(&order_id, published);
    }
    if fate == Fate::Interrupted && fails {
        ledger.repeated.add(&order_id);
        ledger.hiccups.add(&order_id);
        Err("the node was interrupted after it published").retry()?;
    }
    ledger
        .billing_latency
        .record(ledger.since(order.shipped_at_us));
    ledger.billed_cents.fetch_add(cents, Ordering::Relaxed);
    ledger.billed.add(&order_id);
    Ok(())
}

/// Publishes one payment three times, under one id.
async fn publish_thrice(payment: PaymentTaken, ctx: &Context, ledger: &Ledger) -> Result<()> {
    let order_id = payment.order_id.clone();
    // It follows from what is handled, so that the next attempt would choose the same.
    let id = ctx.id().derive(b"payment");
    for _ in 0..2 {
        let copy = ctx.message(payment.clone()).id(id);
        ledger.published(&order_id, copy.publish().await?);
    }
    ledger.repeated.add(&order_id);
    // At QoS 1 a broker may store this one: that it is no new payment is then for the inbox of the group to know.
    let old = OldPaymentTaken::from(payment);
    let published = ctx.message(old).id(id).publish().await?;
    if published.duplicate {
        ledger.suppressed.add(&order_id);
        ledger.repeated.add(&order_id);
    } else {
        ledger.copied.add(&order_id);
    }
    Ok(())
}

/// Books a payment, once. What it writes is committed together with the record that the payment was handled:
/// both, or neither. `ordered`, so that nobody else touches the customer's account meanwhile.
#[handler(group = "books", ordered, attempts = 5, backoff = "5ms..50ms")]
pub(crate) async fn book(
    payment: PaymentTaken,
    ctx: Context,
    attempt: Attempt,
    mut tx: Commit<Memory>,
    State(ledger): State<Arc<Ledger>>,
) -> Result<()> {
    let (order_id, account) = (payment.order_id, books::account(&payment.customer));
    let books: &Memory = ctx.commit_store().expect("`start()` saw to it");
    let before = books::cents(books, &account).await?.unwrap_or(0);
    tx.put(account, (before + payment.cents).to_string());
    tx.put(ctx.id().to_string(), payment.cents.to_string());
    if Fate::of(&order_id) == Fate::Spilled && attempt.number() == 1 {
        ledger.spilled.add(&order_id);
        Err("ink was spilled over the page").retry()?; // and what is written above was never written
    }
    ledger.booked.add(&order_id);
    Ok(())
}

/// Books a payment, once, where the backend cannot commit with the claim: a node that dies between the entry and the
/// completion lets another one begin again, whose entry has the same key and so counts once.
#[handler(group = "books", ordered, attempts = 5, backoff = "5ms..50ms")]
pub(crate) async fn book_by_key(
    payment: PaymentTaken,
    ctx: Context,
    attempt: Attempt,
    State(desk): State<Desk>,
    State(ledger): State<Arc<Ledger>>,
) -> Result<()> {
    let (order_id, account) = (payment.order_id, books::account(&payment.customer));
    let key = ctx.idempotency_key().clone();
    desk.book(key, account, payment.cents).await?;
    if Fate::of(&order_id) == Fate::Spilled && attempt.number() == 1 {
        ledger.spilled.add(&order_id);
        Err("ink was spilled over the page").retry()?;
    }
    ledger.booked.add(&order_id);
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
