//! Three HTTP nodes that take orders together.
//!
//! - `cargo run --release --example cluster -- node1 5001`: one node on the embedded backend.
//! - With `NATS_URL`, `REDIS_URL` or `CATGA_URL` in the environment, and `--features nats` or `redis` before the `--`, each such
//!   process is a node of one cluster.
//! - `examples/cluster.sh memory`, `nats` or `redis` shows three of them: one is killed under load, all are restarted under load, and no order
//!   fails or is made twice.
//!
//! `POST /orders` becomes `CreateOrder`, a request that `catga.send` takes to one of the nodes, in turn. Who answers it publishes
//! `OrderCreated` (QoS 0) and `OrderShipped` (QoS 1) to every node. Begin with `messages.rs` and `handlers.rs`; `api.rs` is what
//! HTTP clients see, `node.rs` how a node starts and stops.

mod api;
mod args;
mod audit;
mod book;
mod catch_up;
mod client;
mod find;
mod handlers;
mod health;
mod load;
mod log;
mod memory;
mod messages;
mod metrics;
mod node;
mod reply;
mod roster;
mod signal;
#[cfg(test)]
mod tests;
#[cfg(feature = "trace")]
mod trace;
#[cfg(not(feature = "trace"))]
#[path = "no_trace.rs"]
mod trace;
mod verdict;
mod watch;

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use args::{Args, USAGE};

/// What the program does, as its command line and its environment say.
#[must_use]
pub fn main() -> ExitCode {
    let args = std::env::args_os().skip(1);
    let outcome = match args::parse(args, &|variable| std::env::var(variable).ok()) {
        Ok(Args::Help) => {
            print(USAGE);
            return ExitCode::SUCCESS;
        }
        Ok(Args::Node(settings)) => node::run(&settings),
        Ok(Args::Memory(ports)) => memory::run(ports, log::Log::Stdout),
        Ok(Args::QuietMemory(ports)) => memory::run(ports, log::Log::Quiet),
        Ok(Args::Load(load)) => load::run(&load),
        Ok(Args::Audit(files)) => audit::run(&files),
        Err(problem) => {
            complain(&format!("{problem}\n\n{USAGE}"));
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            complain(&problem);
            ExitCode::FAILURE
        }
    }
}

// Whoever reads may have gone, as with `| head`: that is no reason to panic.

fn print(text: impl Display) {
    let _ = write!(std::io::stdout().lock(), "{text}");
}

fn complain(problem: &str) {
    let _ = writeln!(std::io::stderr(), "cluster: {}", problem.trim_end());
}
