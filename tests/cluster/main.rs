//! The example `cluster`, with all backends.

use std::process::ExitCode;

fn main() -> ExitCode {
    catga_cluster::main()
}
