//! The last word on a delivery, and what is counted and said of it.

use catga_core::{Delivery, ErrorKind, Settlement};

use crate::guard::Failure;
use crate::table::{Counters, Entry};

/// Gives a delivery back whose handler was not begun.
pub(crate) async fn give_back(entry: &Entry, delivery: Delivery) {
    settle(entry, delivery, Settlement::Release { began: false }).await;
}

/// Settles, and counts what comes of it.
pub(crate) async fn settle(entry: &Entry, delivery: Delivery, settlement: Settlement) {
    let (id, count) = (delivery.envelope().id(), delivery.count());
    let claimed = delivery.is_claimed();
    let counter = match &settlement {
        Settlement::Nak { .. } => Some(&entry.counters.retried),
        Settlement::DeadLetter { .. } => Some(&entry.counters.dead_lettered),
        // Nobody takes it back.
        Settlement::Release { .. } if !delivery.is_acknowledged() => Some(&entry.counters.dropped),
        _ => None,
    };
    match delivery.settle(settlement).await {
        Ok(()) => counter.into_iter().for_each(Counters::add),
        // The broker still has the message, and delivers it again when the lease runs out.
        Err(error) => {
            if claimed && error.kind() == ErrorKind::LostOwnership {
                Counters::add(&entry.counters.lost);
            }
            tracing::warn!(
                messaging.destination.name = %entry.message,
                messaging.consumer.group.name = %entry.group,
                messaging.message.id = id.map(display),
                count,
                %error,
                "a delivery could not be settled"
            );
        }
    }
}

/// Whether a handler came to an end, if a bad one: what was given back or never begun did not fail.
pub(crate) fn was_begun(failure: &Failure) -> bool {
    !matches!(
        failure,
        Failure::Stopped | Failure::Expired | Failure::Refused { .. }
    )
}

/// Counts an outcome.
pub(crate) fn counted<T>(entry: &Entry, outcome: &Result<T, Failure>) {
    match outcome {
        Ok(_) => Counters::add(&entry.counters.handled),
        Err(failure) if !was_begun(failure) => {}
        Err(_) => Counters::add(&entry.counters.failed),
    }
}

pub(crate) fn report(
    entry: &Entry,
    delivery: &Delivery,
    attempt: u32,
    failure: &Failure,
    fate: &'static str,
) {
    tracing::warn!(
        handler = entry.def.site.name,
        messaging.destination.name = %entry.message,
        messaging.consumer.group.name = %entry.group,
        messaging.message.id = delivery.envelope().id().map(display),
        attempt,
        attempts = entry.attempts,
        error = %failure,
        "handler failed; the message {fate}"
    );
}
