//! Bills.

use std::time::Duration;

use messaging::prelude::*;

use crate::{Handled, OrderShipped};

/// Sends the bill.
///
/// # Errors
/// When the id has no number.
#[handler(
    group = "billing",
    concurrency = 16,
    attempts = 5,
    timeout = "30s",
    backoff = "200ms..30s",
    rate = "100/s",
    breaker(failures = 5, open = "30s"),
    ordered,
    start = "new"
)]
pub async fn bill(
    shipped: OrderShipped,
    context: Context,
    State(handled): State<Handled>,
    attempt: Attempt,
    headers: Headers,
) -> Result<()> {
    let number: u32 = shipped
        .order_id
        .trim_start_matches("o-")
        .parse()
        .terminal()?;
    if number > 1000 && !attempt.is_last() {
        return Err("so many orders").retry_after(Duration::from_secs(1));
    }
    if headers.is_empty() && context.time_left().is_none() {
        handled.one();
    }
    Ok(())
}
