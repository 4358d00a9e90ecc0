//! The scenarios of every backend, on one real server: `cargo test -p catga-redis --test conformance`.

use std::process::ExitCode;

use catga_redis::RedisDriver;
use catga_testkit::server::{RedisServer, Server};
use catga_testkit::site::RedisSite;
use catga_testkit::{Subject, conformance};

fn main() -> ExitCode {
    let server = RedisServer::start().expect("a redis-server to run on");
    let version: Vec<_> = server.version().split('.').take(2).collect();
    let url = server.url();
    let redis = Subject::new(RedisDriver, move |place| format!("{url}?namespace={place}"))
        .with_version(version.join("."))
        .with_site(|options| RedisSite::start(options, permissions()))
        .without(&[14, 64], "it is JetStream that these are about");
    conformance([redis]).main()
}

/// What a user needs, as the README lists it.
fn permissions() -> &'static str {
    let readme = include_str!("../README.md");
    let (_, line) = readme
        .split_once("ACL SETUSER app on >password ")
        .expect("it is there");
    line.lines().next().expect("it ends")
}
