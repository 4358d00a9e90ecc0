//! Nodes die and are restarted under load, and nobody notices.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::*;
use crate::audit::{Audit, Findings};
use crate::load::{Load, post_until};
use crate::verdict::Verdict;

/// A load that goes on until it is told to end.
struct Posting {
    enough: Arc<Notify>,
    posting: tokio::task::JoinHandle<Verdict>,
}

impl Posting {
    fn at(rig: &Rig) -> Self {
        Self::orders(rig, 100_000)
    }

    fn orders(rig: &Rig, orders: u64) -> Self {
        let load = Load {
            orders,
            per_second: 100,
            at_once: 8,
            answers: false,
            nodes: NODES.iter().map(|node| rig.address(node)).collect(),
        };
        let enough = Arc::new(Notify::new());
        let told = Arc::clone(&enough);
        let posting = tokio::spawn(async move {
            let enough = async {
                told.notified().await;
                Ok(())
            };
            post_until(&load, enough).await.unwrap()
        });
        Self { enough, posting }
    }

    async fn end(self) -> Verdict {
        self.enough.notify_one();
        self.posting.await.unwrap()
    }
}

/// Looks whether an order was made twice, by what nodes wrote down and clients were answered.
fn audit(rig: &mut Rig, verdict: &Verdict) {
    assert!(verdict.is_good(), "{verdict}");
    while let Ok(line) = rig.lines.try_recv() {
        rig.seen.push(line);
    }
    let good = findings(&rig.seen, verdict);
    assert!(good.is_good(), "{good}");

    // One more run of an order that was made would be found.
    let made = |line: &&String| line.contains("] Processed order");
    let once_more = rig.seen.iter().rfind(made).expect("an order was made");
    let (_, rest) = once_more.split_once(']').expect("begun with a node");
    let bad = [rig.seen.clone(), vec![format!("[node4]{rest}")]].concat();
    let bad = findings(&bad, verdict).to_string();
    assert!(bad.contains("was made 2 times"), "{bad}");
}

fn findings(seen: &[String], verdict: &Verdict) -> Findings {
    let mut audit = Audit::default();
    audit.read(seen.iter().map(String::as_str));
    let answers: Vec<_> = verdict.answers().map(|told| told.to_string()).collect();
    audit.read(answers.iter().map(String::as_str));
    audit.end()
}

/// Waits until so many more orders were made.
async fn made(rig: &mut Rig, count: u64) {
    let more = AtomicU64::new(0);
    let waited = timeout(LONG, async {
        while more.load(Ordering::Relaxed) < count {
            let line = rig.lines.recv().await.expect("the log is open");
            if line.contains("Processing order") {
                more.fetch_add(1, Ordering::Relaxed);
            }
            rig.seen.push(line);
        }
    });
    assert!(waited.await.is_ok(), "only {more:?} more orders were made");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_order_is_lost_or_made_twice_when_a_node_dies() {
    let mut rig = Rig::start(&NODES).await;
    let posting = Posting::at(&rig);
    made(&mut rig, 50).await;
    rig.house.kill("node2").await.unwrap();
    rig.sees("node1", 2).await;
    made(&mut rig, 50).await;
    rig.house.restart("node2").await.unwrap();
    rig.sees("node1", 3).await;
    made(&mut rig, 50).await;
    let verdict = posting.end().await;
    audit(&mut rig, &verdict);
    rig.house.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_a_dead_node_had_begun_is_made_by_another() {
    let mut rig = Rig::start(&NODES).await;
    rig.hold.begin("Processing order");
    // One order, which is posted once more when it is made.
    let posting = Posting::orders(&rig, 1);
    let begun = timeout(LONG, async {
        loop {
            let line = rig.lines.recv().await.expect("the log is open");
            rig.seen.push(line.clone());
            if let Some((node, order)) = line.split_once("] Processing order ") {
                break (node.replace('[', ""), order.to_owned());
            }
        }
    });
    let (node, order) = begun.await.unwrap();
    rig.house.kill(&node).await.unwrap();
    rig.hold.end();
    let verdict = posting.posting.await.unwrap();

    // Begun twice, by two nodes, as one order.
    let (id, _) = order.split_once(':').unwrap();
    let maker = verdict.answers().next().unwrap().by;
    assert_ne!(maker, node);
    for other in NODES.into_iter().filter(|name| *name != node) {
        let shipped = "[QoS 1] order shipped received (guaranteed)";
        rig.says(&format!("[{other}] {shipped}: {id}, made by {maker}"))
            .await;
    }
    let begun = format!("Processing order {order}");
    let begun = rig.seen.iter().filter(|line| line.ends_with(&begun));
    assert_eq!(begun.count(), 2);
    audit(&mut rig, &verdict);
    rig.house.close().await.unwrap();
}

/// A node that dies when it has made an order and told of it, and has not answered: another runs, and makes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_a_dead_node_had_made_is_not_made_again() {
    let mut rig = Rig::start(&NODES).await;
    rig.hold.begin("Processed order");
    let posting = Posting::orders(&rig, 1);
    let (node, id) = timeout(LONG, async {
        loop {
            let line = rig.lines.recv().await.expect("the log is open");
            rig.seen.push(line.clone());
            if let Some((node, order)) = line.split_once("] Processed order ") {
                let (id, _) = order.split_once(':').unwrap();
                break (node.replace('[', ""), id.to_owned());
            }
        }
    })
    .await
    .unwrap();
    let shipped = "[QoS 1] order shipped received (guaranteed)";
    for other in NODES.into_iter().filter(|name| *name != node) {
        rig.says(&format!("[{other}] {shipped}: {id}, made by {node}"))
            .await;
    }
    rig.house.kill(&node).await.unwrap();
    // As long as it stands still it cannot answer after all.
    let begun = format!("] Processing order {id}");
    rig.says_times(&begun, 2, |line| line.contains(&begun))
        .await;
    rig.hold.end();
    let verdict = posting.posting.await.unwrap();
    audit(&mut rig, &verdict);
    assert_eq!(verdict.answers().next().unwrap().by, node);
    let runs = rig.seen.iter().filter(|line| line.contains(&begun));
    assert_eq!(runs.count(), 2, "{:#?}", rig.seen);
    // The second told of it as well, without effect.
    let effects = rig.seen.iter().filter(|line| line.contains(shipped));
    assert!(effects.count() <= 3, "{:#?}", rig.seen);
    rig.house.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_fails_nobody_and_loses_no_order() {
    let mut rig = Rig::start(&NODES).await;
    let before = rig.order("node1", None, "lamp").await;
    let posting = Posting::at(&rig);
    for node in NODES {
        made(&mut rig, 20).await;
        rig.house.stop(node).await.unwrap();
        made(&mut rig, 20).await;
        rig.house.restart(node).await.unwrap();
        rig.sees(node, 3).await;
    }
    made(&mut rig, 20).await;
    let verdict = posting.end().await;
    audit(&mut rig, &verdict);
    // Each node has another book than the one that it had entered it in.
    for node in NODES {
        let answer = rig.get(node, &format!("/orders/{before}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    rig.house.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_answers_who_waits() {
    let mut rig = Rig::start(&["node1"]).await;
    let connection = TcpStream::connect(rig.address("node1")).await.unwrap();
    let mut connection = BufReader::new(connection);
    let body = r#"{"productId":"lamp","quantity":2}"#;
    let head = format!(
        "POST /orders HTTP/1.1\r\nhost: node1\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    // Its handler waits for the body.
    let mut line = String::new();
    connection.read_line(&mut line).await.unwrap();
    assert!(line.starts_with("HTTP/1.1 100"), "{line}");

    let house = rig.house;
    let mut stopping = tokio::spawn(house.close());
    let stopped = timeout(LONG, async {
        while rig.lines.recv().await.expect("the log is open") != "[node1] stopping" {}
    });
    stopped.await.unwrap();
    // That it waits can only be seen by listening for a while.
    let ended = timeout(Duration::from_millis(500), &mut stopping).await;
    assert!(ended.is_err(), "it did not wait: {ended:?}");
    connection.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = timeout(LONG, connection.read_to_string(&mut answer)).await;
    read.unwrap().unwrap();
    assert!(answer.contains("HTTP/1.1 201"), "{answer}");
    assert!(answer.contains("\"status\":\"Created\""), "{answer}");
    stopping.await.unwrap().unwrap();
}
