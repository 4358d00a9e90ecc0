//! The suite against every backend that is at hand: `cargo test -p catga-testkit redelivery`.

use std::process::ExitCode;

use catga_testkit::{Subject, conformance};

/// What needs a server, a network, or a life after the process.
const NO_SERVER: &[u8] = &[
    8, 9, 10, 11, 14, 15, 16, 19, 21, 22, 27, 28, 29, 31, 32, 47, 54, 57, 58, 59, 60, 61, 62, 63,
    64, 65, 66, 67, 68, 69, 70, 71, 73, 75, 76, 77, 78, 79, 80, 83, 91, 92, 93, 94, 95, 96,
];

fn main() -> ExitCode {
    let memory = Subject::memory().without(
        NO_SERVER,
        "there is no server and no life after the process",
    );
    let table = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/guarantees.md");
    conformance([memory]).with_table(table).main()
}
