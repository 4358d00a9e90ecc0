//! The cases: each loop of ours stands in one file with the one by hand.

use crate::case::Case;

mod calls;
pub mod discovery;
mod events;
mod http;
mod limits;
mod nats;
mod ours;
mod peers;
mod redis;
mod routed;
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
        routed::cases(),
        peers::cases(),
        discovery::cases(),
        http::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
