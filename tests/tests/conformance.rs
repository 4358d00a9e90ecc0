//! The suite against every backend that is at hand: `cargo test -p catga-testkit redelivery`.

use std::process::ExitCode;
use std::sync::OnceLock;

use catga_nats::NatsDriver;
use catga_testkit::server::{Binary, NatsServer, nats_server};
use catga_testkit::site::NatsSite;
use catga_testkit::{Subject, conformance};

/// The server that the table is about, as Debian 12 has it.
const TABLE_IS_ABOUT: &str = "2.9";

fn main() -> ExitCode {
    let memory = Subject::memory()
        .without_a_server()
        .without(&[21, 22, 27, 28, 57], "a bus ends with its process");
    let table = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/guarantees.md");
    match nats_server() {
        Ok(server) => {
            let version = version(&server);
            let run = conformance([memory, nats(&version)]);
            if version == TABLE_IS_ABOUT {
                run.with_table(table).main()
            } else {
                run.main()
            }
        }
        Err(missing) => conformance([memory])
            .without_backend("nats", missing.to_string())
            .main(),
    }
}

/// NATS, on a server that is started when the first scenario asks for a place: a worker is given one.
fn nats(version: &str) -> Subject {
    let server = OnceLock::new();
    let url = move |place: &str| {
        let start = || NatsServer::start().expect("nats-server can be started");
        let url = server.get_or_init(start).url();
        // So that a pull that the server lost is soon seen to be.
        format!("{url}?namespace={place}&pull_heartbeat=1s")
    };
    Subject::new(NatsDriver, url)
        .with_version(version)
        .with_site(|options| NatsSite::start(options, permissions()))
        .with_bug(
            "inbox_prefix=elsewhere",
            &["server_permissions::the_list_is_enough"],
        )
        .without(&[15, 31, 65], "it is Redis that these are about")
}

/// What a user needs, as the backend's README lists it.
fn permissions() -> &'static str {
    let readme = include_str!("../../backends/nats/README.md");
    let (_, list) = readme.split_once("```permissions\n").expect("it is there");
    let (list, _) = list.split_once("```").expect("it ends");
    list
}

/// Major and minor.
fn version(server: &Binary) -> String {
    let mut parts = server.version().split('.');
    let major = parts.next().unwrap_or_default();
    let minor = parts.next().unwrap_or_default();
    format!("{major}.{minor}")
}
