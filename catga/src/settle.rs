//! The last word on a delivery, and what is counted and said of it.

use std::sync::atomic::AtomicU64;

use catga_core::{Delivery, Error, ErrorKind, MessageId, Settlement};

use crate::guard::Failure;
use crate::table::{Counters, Entry};

/// Gives a delivery back whose handler was not begun.
pub(crate) async fn give_back(entry: &Entry, delivery: Delivery) {
    settle(entry, delivery, Settlement::Release { began: false }).await;
}

/// Settles, and counts what comes of it.
pub(crate) fn settle(
    entry: &Entry,
    delivery: Delivery,
    settlement: Settlement,
) -> impl Future<Output = ()> + Send {
    let settling = Settling::new(entry, &delivery, &settlement);
    // Made here, so that the future below keeps no copy of what it is made of.
    let settled = delivery.settle(settlement);
    async move { settling.ended(settled.await) }
}

/// As [`settle`], where nothing has to be waited for. Whether it was so.
pub(crate) fn try_settle(entry: &Entry, delivery: &mut Delivery, settlement: &Settlement) -> bool {
    let settling = Settling::new(entry, delivery, settlement);
    let settled = delivery.try_settle(settlement);
    settled.map(|settled| settling.ended(settled)).is_some()
}

/// What is known of a delivery that is being settled.
struct Settling<'a> {
    entry: &'a Entry,
    id: Option<MessageId>,
    count: u32,
    claimed: bool,
    counter: Option<&'a AtomicU64>,
}

impl<'a> Settling<'a> {
    fn new(entry: &'a Entry, delivery: &Delivery, settlement: &Settlement) -> Self {
        let counters = &entry.counters;
        Self {
            entry,
            id: delivery.envelope().id(),
            count: delivery.count(),
            claimed: delivery.is_claimed(),
            counter: match settlement {
                Settlement::Nak { .. } => Some(&counters.retried),
                Settlement::DeadLetter { .. } => Some(&counters.dead_lettered),
                // Nobody takes it back.
                Settlement::Release { .. } if !delivery.is_acknowledged() => {
                    Some(&counters.dropped)
                }
                _ => None,
            },
        }
    }

    fn ended(self, settled: Result<(), Error>) {
        // The broker still has the message, and delivers it again when the lease runs out.
        if let Err(error) = settled {
            if self.claimed && error.kind() == ErrorKind::LostOwnership {
                Counters::add(&self.entry.counters.lost);
            }
            tracing::warn!(
                messaging.destination.name = %self.entry.message,
                messaging.consumer.group.name = %self.entry.group,
                messaging.message.id = self.id.map(display),
                count = self.count,
                %error,
                "a delivery could not be settled"
            );
        } else if let Some(counter) = self.counter {
            Counters::add(counter);
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
