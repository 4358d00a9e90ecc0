//! The test kit on this backend: `cargo test -p catga-file --test conformance`.

use std::process::ExitCode;
use std::sync::OnceLock;

use catga_file::FileDriver;
use catga_testkit::{Subject, conformance};

fn main() -> ExitCode {
    // Made when the first scenario asks for a place: a worker is given one.
    let folder = OnceLock::new();
    let url = move |place: &str| {
        let folder =
            folder.get_or_init(|| tempfile::tempdir().expect("a folder for all scenarios"));
        // Nobody cuts the power here, so that no publish has to wait for the disk.
        format!("file://{}/{place}?sync=false", folder.path().display())
    };
    let file = Subject::new(FileDriver, url)
        .without_a_server()
        .with_bug("bug=ack_before_handler", &["redelivery::handler_panic"])
        .with_bug("bug=skip_every_100th", &["delivery::members_share"])
        .with_bug(
            "bug=forget_lease",
            &["redelivery::a_lease_that_ran_out_is_another_members"],
        );
    conformance([file]).main()
}
