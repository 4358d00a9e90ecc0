//! What goes wrong on purpose.

use crate::ledger::hash;

/// What an order meets on its way: by its id alone, so that it is the same in every run and on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing.
    Smooth,
    /// Its card is declined for good: it is dead-lettered.
    Declined,
    /// The first attempt at its bill fails before the payment was published.
    Unreachable,
    /// The first attempt at its bill fails after the payment was published, and the next publishes it again.
    Interrupted,
    /// Its payment is published three times, as publishers do that do not know whether the first was stored.
    Repeated,
    /// The first attempt at booking its payment fails after it wrote to the books.
    Spilled,
    /// It is sent once more after it was answered, as callers do that lost the answer.
    Resent,
}

impl Fate {
    pub(crate) fn of(order_id: &str) -> Self {
        match hash(order_id) % 10_000 {
            0 => Self::Declined,
            1..=50 => Self::Unreachable,
            51..=100 => Self::Interrupted,
            101..=200 => Self::Repeated,
            201..=300 => Self::Spilled,
            301..=400 => Self::Resent,
            _ => Self::Smooth,
        }
    }
}
