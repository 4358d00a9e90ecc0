//! Programs that show Catga at work; there is nothing to use from here.
//!
//! - `cargo run --example quickstart`: an event, a request and their handlers.
//! - `cargo run --release --example orders`: three nodes take 100,000 orders, and every count adds up;
//!   over a server with `--features nats -- --url nats://localhost:4222`.
//! - `cargo run --release --example cluster -- node1 5001`: an HTTP node of a cluster; `examples/cluster.sh memory` shows three.
