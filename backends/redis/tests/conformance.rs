//! The scenarios of every backend, on one real server: `cargo test -p catga-redis --test conformance`.

use std::process::ExitCode;

use catga_redis::RedisDriver;
use catga_testkit::server::{RedisServer, Server};
use catga_testkit::{Subject, conformance};

fn main() -> ExitCode {
    let server = RedisServer::start().expect("a redis-server to run on");
    let version: Vec<_> = server.version().split('.').take(2).collect();
    let url = server.url();
    let redis = Subject::new(RedisDriver, move |place| format!("{url}?namespace={place}"))
        .with_version(version.join("."))
        .without(&[14, 64], "it is JetStream that these are about");
    conformance([redis]).main()
}
