//! Run with `cargo run --release --example cluster -- node1 5001`, or with `-- --help` behind it.

use std::process::ExitCode;

fn main() -> ExitCode {
    catga_cluster::main()
}
