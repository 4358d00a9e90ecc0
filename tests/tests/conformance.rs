//! The suite against every backend that is at hand: `cargo test -p catga-testkit redelivery`.

use std::process::ExitCode;
use std::sync::OnceLock;

use catga_nats::NatsDriver;
use catga_redis::RedisDriver;
use catga_testkit::server::{
    Binary, NatsServer, RedisServer, ServerError, nats_server, redis_server,
};
use catga_testkit::site::{Discovery, NatsSite, RedisSite};
use catga_testkit::{Conformance, Subject, conformance};

/// The servers that the table is about, as Debian 12 has them.
const TABLE_IS_ABOUT: [(&str, &str); 2] = [("nats", "2.9"), ("redis", "7.0")];

/// The rows that show how nodes are known, and what becomes of the requests that go by it.
const NODES: &[u8] = &[
    51, 72, 73, 74, 75, 76, 77, 78, 79, 80, 81, 82, 83, 84, 85, 86, 87, 88, 89, 93,
];

fn main() -> ExitCode {
    let memory = Subject::memory()
        .without_a_server()
        .without(&[21, 22, 27, 28, 57], "a bus ends with its process");
    let table = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/guarantees.md");
    let (mut subjects, mut missing, mut is_about_these) = (vec![memory], Vec::new(), true);
    let servers = [
        (nats_server(), nats as fn(&str) -> Subject),
        (redis_server(), redis),
    ];
    for ((name, about), (found, subject)) in TABLE_IS_ABOUT.into_iter().zip(servers) {
        match found.map(|server| version(&server)) {
            Ok(version) => {
                is_about_these &= version == about;
                subjects.push(subject(&version));
                subjects.push(match name {
                    "nats" => nats_pubsub(&version),
                    _ => redis_keys(&version),
                });
            }
            Err(reason) => missing.push((name, reason)),
        }
    }
    is_about_these &= missing.is_empty();
    let run = without(conformance(subjects), missing);
    if is_about_these {
        run.with_table(table).main()
    } else {
        run.main()
    }
}

fn without(run: Conformance, missing: Vec<(&'static str, ServerError)>) -> Conformance {
    missing.into_iter().fold(run, |run, (name, reason)| {
        run.without_backend(name, reason.to_string())
    })
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
    let readme = include_str!("../../backends/nats/README.md");
    let permissions = between(readme, "```permissions\n", "```");
    Subject::new(NatsDriver, url)
        .with_version(version)
        .with_site(|options| NatsSite::start(options, permissions))
        .with_bug(
            "inbox_prefix=elsewhere",
            &["server_permissions::the_list_is_enough"],
        )
        .without(&[15, 31, 65], "it is Redis that these are about")
}

/// NATS, where nothing is kept of nodes: what shows how nodes are known, and nothing else.
fn nats_pubsub(version: &str) -> Subject {
    let server = OnceLock::new();
    let url = move |place: &str| {
        let start = || NatsServer::start().expect("nats-server can be started");
        let url = server.get_or_init(start).url();
        format!("{url}?namespace={place}&pull_heartbeat=1s&discovery=pubsub")
    };
    Subject::new(NatsDriver, url)
        .named("nats-pubsub")
        .with_version(version)
        .with_site(|options| Ok(NatsSite::start(options, "")?.with_discovery(Discovery::PubSub)))
        .only(NODES, "it differs from nats in how nodes are known")
}

/// Redis, likewise.
fn redis(version: &str) -> Subject {
    let server = OnceLock::new();
    let url = move |place: &str| {
        let start = || RedisServer::start().expect("redis-server can be started");
        let url = server.get_or_init(start).url();
        format!("{url}?namespace={place}")
    };
    let readme = include_str!("../../backends/redis/README.md");
    let permissions = between(readme, "ACL SETUSER app on >password ", "\n");
    let acks = between(readme, "after a crash of a member at most ", " messages");
    let acks = acks.replace(',', "").parse().expect("a number of messages");
    Subject::new(RedisDriver, url)
        .with_version(version)
        .with_site(|options| RedisSite::start(options, permissions))
        .with_cluster(RedisSite::cluster)
        .with_acks_on_their_way(acks)
        .with_bug("wait_replicas=1", &["server_permissions::the_list_is_enough"])
        .without(&[14, 64], "it is JetStream that these are about")
        .without_scenario(
            "server_publishing::a_full_server_rejects",
            "what bounds it is its memory, which `server_room` fills",
        )
        .without_scenario(
            "server_resources::a_store_that_differs_is_refused",
            "how long a stream keeps its messages is said by each process that trims it, and not by the stream",
        )
}

/// Redis, where each node is a key: what shows how nodes are known, and nothing else.
fn redis_keys(version: &str) -> Subject {
    let server = OnceLock::new();
    let url = move |place: &str| {
        let start = || RedisServer::start().expect("redis-server can be started");
        let url = server.get_or_init(start).url();
        format!("{url}?namespace={place}&discovery=keys")
    };
    Subject::new(RedisDriver, url)
        .named("redis-keys")
        .with_version(version)
        .with_site(|options| Ok(RedisSite::start(options, "")?.with_discovery(Discovery::Keys)))
        .only(NODES, "it differs from redis in how nodes are known")
}

/// What a user needs, as a backend's README lists it.
fn between<'a>(readme: &'a str, before: &str, behind: &str) -> &'a str {
    let (_, list) = readme.split_once(before).expect("it is there");
    let (list, _) = list.split_once(behind).expect("it ends");
    list
}

/// Major and minor.
fn version(server: &Binary) -> String {
    let mut parts = server.version().split('.');
    let major = parts.next().unwrap_or_default();
    let minor = parts.next().unwrap_or_default();
    format!("{major}.{minor}")
}
