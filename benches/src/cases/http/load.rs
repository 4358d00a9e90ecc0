//! wrk, and as much of an HTTP client as is needed before it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::latency::Latency;

pub const CONNECTIONS: u64 = 100;
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cases/http/orders.lua");
const BODY: &str = r#"{"productId":"lamp","quantity":2}"#;
const LIMIT: Duration = Duration::from_secs(20);

/// What wrk says of a load.
pub struct Posted {
    pub requests: u64,
    pub took: Duration,
    pub latency: Latency,
    /// Connections that were refused or broke, and answers that did not come in time.
    pub broken: u64,
    /// Answers that are neither 2xx nor 3xx.
    pub refused: u64,
    /// What wrk itself took.
    pub cpu: Duration,
}

impl Posted {
    /// # Panics
    /// When an order failed: who refuses is fast.
    pub fn check(&self) {
        assert!(self.requests > 0, "wrk got no answer");
        assert_eq!(self.refused, 0, "answers that are no 2xx");
        assert_eq!(
            self.broken, 0,
            "connections that broke, or answers that did not come"
        );
    }
}

/// Posts orders for so long, a hundred at once.
pub fn wrk(address: SocketAddr, length: Duration) -> Posted {
    let seconds = length.as_secs_f64().ceil().max(1.0);
    let before = children();
    let output = Command::new("wrk")
        .args(["-t2", &format!("-c{CONNECTIONS}"), &format!("-d{seconds}s")])
        .args(["-s", SCRIPT, &format!("http://{address}/orders")])
        .output()
        .expect("wrk is installed: `apt-get install wrk`");
    let cpu = children().saturating_sub(before);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = said.lines().find_map(|line| line.strip_prefix("measured "));
    let numbers: Vec<u64> = line
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect();
    let [requests, took, p50, p90, p99, p999, max, broken, refused] = numbers[..] else {
        let problem = String::from_utf8_lossy(&output.stderr);
        panic!("wrk says {said:?} {problem:?}");
    };
    Posted {
        requests,
        took: Duration::from_micros(took),
        latency: Latency {
            count: requests,
            p50: p50 * 1000,
            p90: p90 * 1000,
            p99: p99 * 1000,
            p999: p999 * 1000,
            max: max * 1000,
        },
        broken,
        refused,
        cpu,
    }
}

/// What processes took that this one started and that have ended.
fn children() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("it is told");
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(micros.unsigned_abs())
}

/// Posts one order and looks at the answer; returns how many were posted.
pub fn post_one(address: SocketAddr) -> u64 {
    let length = BODY.len();
    let request = format!(
        "POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{BODY}"
    );
    let answer = exchange(address, &request).expect("an answer");
    assert!(
        answer.starts_with("HTTP/1.1 201 ") && answer.contains(r#""status":"Created""#),
        "an order was answered with {answer:?}"
    );
    1
}

/// The body of an answer.
pub fn get(address: SocketAddr, path: &str) -> Option<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let answer = exchange(address, &request).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some(body.to_owned())
}

fn exchange(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect_timeout(&address, LIMIT)?;
    connection.set_read_timeout(Some(LIMIT))?;
    connection.write_all(request.as_bytes())?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}
