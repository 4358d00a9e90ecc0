//! The test kit on this backend: `cargo test -p catga-file --test conformance`.

use std::process::ExitCode;

use catga_file::FileDriver;
use catga_testkit::{Subject, conformance};

fn main() -> ExitCode {
    let folder = tempfile::tempdir().expect("a folder for all scenarios");
    let root = folder.path().to_owned();
    // Nobody cuts the power here, so that no publish has to wait for the disk.
    let url = move |place: &str| format!("file://{}/{place}?sync=false", root.display());
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
