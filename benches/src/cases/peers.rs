//! Published peers on the same work: an order as JSON, handled by reference, the handler counting.

use std::sync::OnceLock;

use crate::case::Case;
use crate::latency::Tally;

mod omniqueue;
mod ruststream;
mod sea_streamer;

pub fn cases() -> Vec<Case> {
    [
        ruststream::cases(),
        omniqueue::cases(),
        sea_streamer::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What handlers count on: a process runs one case.
static TALLY: OnceLock<Tally> = OnceLock::new();

fn tally() -> &'static Tally {
    TALLY.get().expect("the case has begun")
}
