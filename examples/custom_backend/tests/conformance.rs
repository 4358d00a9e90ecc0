//! The test kit on this backend: `cargo test -p catga-file --test conformance`.

use std::process::ExitCode;

use catga_file::FileDriver;
use catga_testkit::{Subject, conformance};

fn main() -> ExitCode {
    let folder = tempfile::tempdir().expect("a folder for all scenarios");
    let root = folder.path().to_owned();
    // Nobody cuts the power here, so that no publish has to wait for the disk.
    let file = Subject::new(FileDriver, move |place| {
        format!("file://{}/{place}?sync=false", root.display())
    });
    conformance([file]).main()
}
