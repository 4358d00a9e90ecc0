//! The cases: each loop of ours stands in one file with the one by hand.

use crate::case::Case;

mod calls;
mod events;
mod limits;
mod nats;
mod ours;
mod peers;
mod redis;
mod routing;
mod stored;
mod work;

/// Every case, those by hand before those that are held against them.
pub fn all() -> Vec<Case> {
    [
        calls::cases(),
        routing::cases(),
        events::cases(),
        stored::cases(),
        limits::cases(),
        nats::cases(),
        redis::cases(),
        peers::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
