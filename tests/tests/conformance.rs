//! The suite against every backend that is at hand: `cargo test -p catga-testkit redelivery`.

use std::process::ExitCode;

use catga_testkit::{Subject, conformance};

fn main() -> ExitCode {
    let memory = Subject::memory()
        .without_a_server()
        .without(&[21, 22, 27, 28, 57], "a bus ends with its process");
    let table = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/guarantees.md");
    conformance([memory]).with_table(table).main()
}
