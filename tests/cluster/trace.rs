//! One trace over three processes: HTTP at the first, the handler at the second, the handlers of its events at the third. Read from what
//! each of them writes.

#![allow(
    clippy::unwrap_used,
    reason = "a failure in a helper is a failure of its test"
)]
#![allow(clippy::print_stdout, reason = "a trace is to be seen")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use catga_testkit::server::{NatsServer, Process, RedisServer};
use serde_json::Value;

const LONG: Duration = Duration::from_secs(60);
/// The span of whoever posts.
const CALLER: &str = "00f067aa0ba902b7";

/// A node, in a process of its own.
struct Node {
    _process: Process,
    log: PathBuf,
    address: String,
}

impl Node {
    fn start(name: &str, variable: &str, url: &str, folder: &Path) -> Self {
        let log = folder.join(name);
        let cluster = env!("CARGO_BIN_EXE_cluster-node");
        let url = format!("{variable}={url}");
        let arguments = ["-u", "CATGA_URL", &url, cluster, name, "0", "--trace"];
        let process = Process::start(Path::new("/usr/bin/env"), arguments, &log).unwrap();
        let mut node = Self {
            _process: process,
            log,
            address: String::new(),
        };
        let listening = until("it listens", || {
            let log = node.written();
            let (_, rest) = log.split_once("listening on http://")?;
            Some(rest.split_once(',')?.0.to_owned())
        });
        node.address = listening;
        node
    }

    fn written(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The body of an answer.
    fn ask(&self, request: &str, headers: &str, body: &str) -> Option<Value> {
        let mut connection = TcpStream::connect(&self.address).ok()?;
        connection.set_read_timeout(Some(LONG)).unwrap();
        let length = body.len();
        let text = format!(
            "{request} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
        );
        connection.write_all(text.as_bytes()).ok()?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        serde_json::from_str(body).ok()
    }

    /// Its spans of a trace, by name.
    fn spans(&self, trace: &str) -> BTreeMap<String, Value> {
        let mut spans = BTreeMap::new();
        for line in self.written().lines().filter(|line| line.starts_with('{')) {
            let Ok(span) = serde_json::from_str::<Value>(line) else {
                // Not all of it is there yet.
                continue;
            };
            if span["trace_id"] == trace {
                let name = span["span"].as_str().unwrap().to_owned();
                let again = spans.insert(name, span);
                assert!(again.is_none(), "{again:?}");
            }
        }
        spans
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < LONG, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Posts orders to the first node until the second makes one, whose trace is the answer.
fn order_by_the_second(first: &Node) -> String {
    for number in 1..=30 {
        let trace = format!("4bf92f3577b34da6a3ce929d0e0e{number:04}");
        let headers =
            format!("traceparent: 00-{trace}-{CALLER}-01\r\nbaggage: tenant=lamp%20shop\r\n");
        let body = r#"{"productId":"lamp","quantity":2}"#;
        let answer = first.ask("POST /orders", &headers, body).unwrap();
        assert_eq!(answer["status"], "Created", "{answer}");
        if answer["processedBy"] == "node2" {
            return trace;
        }
    }
    panic!("node2 makes no order");
}

fn one_trace(variable: &str, url: &str, system: &str) {
    let folder = tempfile::tempdir().unwrap();
    let nodes = ["node1", "node2", "node3"];
    let nodes = nodes.map(|name| Node::start(name, variable, url, folder.path()));
    for node in &nodes {
        until("all are seen", || {
            let health = node.ask("GET /health", "", "")?;
            (health["onlineNodes"] == 3).then_some(())
        });
    }
    let trace = order_by_the_second(&nodes[0]);
    let events = ["OrderCreated", "OrderShipped"];
    // What is written last is complete: spans end from the inside out, and events are handled everywhere.
    let spans = until("every span is written", || {
        let spans = nodes.each_ref().map(|node| node.spans(&trace));
        let [first, second, third] = &spans;
        let heard = |name: &str| spans.iter().all(|of| of.contains_key(name));
        let complete = first.contains_key("POST /orders")
            && second.contains_key("process CreateOrder")
            && events
                .iter()
                .all(|event| heard(&format!("process {event}")));
        (complete && !third.is_empty()).then_some(spans)
    });
    println!("one trace over {variable}:");
    for span in spans.iter().flat_map(BTreeMap::values) {
        println!("{span}");
    }
    let [first, second, third] = &spans;
    assert_eq!(first["POST /orders"]["parent_span_id"], CALLER);
    let follows = |child: &Value, parent: &Value| {
        assert!(child["span_id"].is_string(), "{child}");
        assert_eq!(
            child["parent_span_id"], parent["span_id"],
            "{child} {parent}"
        );
    };
    follows(&first["send CreateOrder"], &first["POST /orders"]);
    follows(&second["process CreateOrder"], &first["send CreateOrder"]);
    for event in events {
        let publish = &second[&format!("publish {event}")];
        follows(publish, &second["process CreateOrder"]);
        for of in [first, second, third] {
            follows(&of[&format!("process {event}")], publish);
        }
    }
    for span in spans.iter().flat_map(BTreeMap::values) {
        let of = &span["attributes"];
        // What the caller said beside its trace is known everywhere.
        assert_eq!(of["baggage.tenant"], "lamp shop", "{span}");
        let name = span["span"].as_str().unwrap();
        let Some((operation, message)) = name.split_once(' ').filter(|(name, _)| *name != "POST")
        else {
            continue;
        };
        assert_eq!(of["messaging.system"], system, "{span}");
        assert_eq!(of["messaging.operation.name"], operation, "{span}");
        assert_eq!(of["messaging.destination.name"], message, "{span}");
    }
    let id = |of: &Value| {
        let id = of["attributes"]["messaging.message.id"].as_str();
        id.unwrap_or_else(|| panic!("{of}")).to_owned()
    };
    let [sent, handled] = [&first["send CreateOrder"], &second["process CreateOrder"]];
    assert_eq!(id(sent), id(handled));
    let [told, heard] = [
        &second["publish OrderShipped"],
        &third["process OrderShipped"],
    ];
    assert_eq!(id(told), id(heard));
    // And nothing else.
    let counts = spans.each_ref().map(BTreeMap::len);
    assert_eq!(counts, [4, 5, 2]);
    let node = |of: &Value| of["node"].as_str().unwrap().to_owned();
    let at = [
        &first["POST /orders"],
        &second["process CreateOrder"],
        &third["process OrderShipped"],
    ];
    assert_eq!(at.map(node), ["node1", "node2", "node3"]);
}

#[test]
fn one_trace_over_three_processes_on_nats() {
    let server = NatsServer::start().unwrap();
    one_trace("NATS_URL", &server.url(), "nats");
}

#[test]
fn one_trace_over_three_processes_on_redis() {
    let server = RedisServer::start().unwrap();
    one_trace("REDIS_URL", &server.url(), "redis");
}
