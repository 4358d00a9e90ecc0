//! The scenarios of every backend, on one real server: `cargo test -p catga-nats --test conformance`.

use std::process::ExitCode;

use catga_nats::NatsDriver;
use catga_testkit::server::{NatsServer, Server};
use catga_testkit::site::NatsSite;
use catga_testkit::{Subject, conformance};

fn main() -> ExitCode {
    let server = NatsServer::start().expect("a nats-server to run on");
    let version: Vec<_> = server.version().split('.').take(2).collect();
    let url = server.url();
    let nats = Subject::new(NatsDriver, move |place| format!("{url}?namespace={place}"))
        .with_version(version.join("."))
        .with_site(|options| NatsSite::start(options, permissions()))
        .with_bug(
            "inbox_prefix=elsewhere",
            &["server_permissions::the_list_is_enough"],
        )
        .without(&[15, 31, 65], "it is Redis that these are about");
    conformance([nats]).main()
}

/// The list of the README.
fn permissions() -> &'static str {
    let readme = include_str!("../README.md");
    let (_, list) = readme.split_once("```permissions\n").expect("it is there");
    let (list, _) = list.split_once("```").expect("it ends");
    list
}
