//! What this backend does beyond the scenarios that all backends share.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are tests, which the lint cannot see"
)]

mod common;
mod edges;
mod kills;
