//! Nodes on the embedded backend, over HTTP.

mod bad_input;
mod cluster;
mod events;
mod orders;
mod reports;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Answer, Ask, ask};
use crate::log::{Hold, Lines, Log};
use crate::memory::House;

const NODES: [&str; 3] = ["node1", "node2", "node3"];
/// A node that was killed is noticed by then.
const LONG: Duration = Duration::from_secs(30);

/// Some nodes, and what they write down.
struct Rig {
    house: House,
    lines: UnboundedReceiver<String>,
    /// Where a node stands still.
    hold: Arc<Hold>,
    /// The lines that were read.
    seen: Vec<String>,
}

impl Rig {
    /// On a bus of its own.
    async fn start(nodes: &[&str]) -> Self {
        let (tell, lines) = mpsc::unbounded_channel();
        let hold = Arc::default();
        let log = Log::Lines(Lines {
            tell,
            hold: Arc::clone(&hold),
        });
        let bus = format!("test-{}", catga::MessageId::new());
        let mut house = House::open(&bus, log).await.unwrap();
        for node in nodes {
            house.start(node, 0).await.unwrap();
        }
        let rig = Self {
            house,
            lines,
            hold,
            seen: Vec::new(),
        };
        for node in nodes {
            rig.sees(node, nodes.len()).await;
        }
        rig
    }

    fn address(&self, node: &str) -> String {
        self.house.node(node).address.to_string()
    }

    async fn get(&self, node: &str, path: &str) -> Answer {
        ask(&self.address(node), Ask::Get(path)).await.unwrap()
    }

    async fn post(&self, node: &str, key: Option<&str>, body: &str) -> Answer {
        let path = "/orders";
        let post = Ask::Post { path, key, body };
        ask(&self.address(node), post).await.unwrap()
    }

    async fn order(&self, node: &str, key: Option<&str>, product: &str) -> String {
        let body = format!(r#"{{"productId":"{product}","quantity":2}}"#);
        let answer = self.post(node, key, &body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        text(&json(&answer)["orderId"])
    }

    /// Waits until a node sees so many others and itself.
    async fn sees(&self, node: &str, count: usize) {
        let began = Instant::now();
        loop {
            let health = json(&self.get(node, "/health").await);
            if health["onlineNodes"] == count {
                return;
            }
            assert!(began.elapsed() < LONG, "{node} sees {health}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for a line.
    async fn says(&mut self, line: &str) {
        self.says_times(line, 1, |seen| seen == line).await;
    }

    /// Waits for a line that begins so.
    async fn says_of(&mut self, begin: &str) {
        self.says_times(begin, 1, |seen| seen.starts_with(begin))
            .await;
    }

    /// Waits for so many lines.
    async fn says_times(&mut self, what: &str, times: usize, is_it: impl Fn(&str) -> bool) {
        let waited = timeout(LONG, async {
            while self.seen.iter().filter(|seen| is_it(seen)).count() < times {
                let next = self.lines.recv().await;
                self.seen.push(next.expect("the log is open"));
            }
        });
        let waited = waited.await;
        assert!(waited.is_ok(), "{what:?} is not among {:#?}", self.seen);
    }
}

fn json(answer: &Answer) -> Value {
    assert!(
        answer.head.contains("\r\ncontent-type: application/json"),
        "{answer:?}"
    );
    serde_json::from_str(&answer.body).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// The keys of an object, in the order in which they were written.
fn keys(value: &str, of: &str) -> Vec<String> {
    let object: Value = serde_json::from_str(value).unwrap();
    let object = if of.is_empty() {
        &object
    } else {
        object.pointer(of).unwrap()
    };
    let mut keys: Vec<_> = object.as_object().unwrap().keys().cloned().collect();
    keys.sort();
    keys
}
