//! Requests over Redis: by lists, and by a stream for the request and a channel for the answer.

use futures_util::StreamExt;
use redis::aio::MultiplexedConnection;
use redis::{Client, Value, cmd, pipe};
use tokio::task::JoinHandle;

use super::{connect, entries};
use crate::bench::{Bench, Measured, two_cores};
use crate::case::{Case, Needs, Terms};
use crate::cases::work::{RAW_PAYLOAD, number, payload};
use crate::latency::Tally;

const WINDOW: u64 = 64;

/// Up to so many elements of a list, once it has one.
async fn pop(connection: &mut MultiplexedConnection, list: &str) -> Vec<Vec<u8>> {
    let mut command = cmd("BLMPOP");
    command
        .arg(1)
        .arg(1)
        .arg(list)
        .arg("LEFT")
        .arg("COUNT")
        .arg(WINDOW);
    type Popped = Option<(String, Vec<Vec<u8>>)>;
    let popped: Popped = command.query_async(connection).await.expect("connected");
    popped.map_or(Vec::new(), |(_, elements)| elements)
}

async fn push(connection: &mut MultiplexedConnection, list: &str, elements: &[Vec<u8>]) {
    let mut command = cmd("RPUSH");
    command.arg(list).arg(elements);
    let length = command.query_async::<u64>(connection).await;
    assert!(length.expect("connected") > 0, "pushed");
}

/// Sends numbers as others are answered, never more than a window of them.
struct Window<'a> {
    tally: &'a Tally,
    operations: u64,
    most: u64,
    sent: u64,
    answered: u64,
}

impl Window<'_> {
    /// Those that may go now.
    fn next(&mut self) -> Vec<Vec<u8>> {
        let until = self.operations.min(self.answered + self.most);
        let numbers = self.sent..until;
        self.sent = until;
        numbers
            .map(|i| {
                self.tally.sent(i);
                payload(i, 100).to_vec()
            })
            .collect()
    }

    fn answer(&mut self, payload: &[u8]) {
        self.answered += 1;
        self.tally.one(number(payload));
    }
}

fn by_lists(bench: Bench, most: u64) -> Measured {
    two_cores(async move {
        let (mut requests, mut answers) = (connect(&bench.url).await, connect(&bench.url).await);
        let server = tokio::spawn(async move {
            loop {
                let batch = pop(&mut requests, "requests").await;
                if !batch.is_empty() {
                    push(&mut answers, "answers", &batch).await;
                }
            }
        });
        let (mut writer, mut reader) = (connect(&bench.url).await, connect(&bench.url).await);
        let tally = bench.tally(1);
        let mut window = window(&bench, &tally, most);
        let clock = bench.begin();
        while window.answered < bench.operations {
            let requests = window.next();
            if !requests.is_empty() {
                push(&mut writer, "requests", &requests).await;
            }
            for answer in pop(&mut reader, "answers").await {
                window.answer(&answer);
            }
        }
        let measured = clock.end_with(&tally);
        server.abort();
        measured
    })
}

fn window<'a>(bench: &Bench, tally: &'a Tally, most: u64) -> Window<'a> {
    Window {
        tally,
        operations: bench.operations,
        most,
        sent: 0,
        answered: 0,
    }
}

/// The request is kept until it is answered; the answer and the ack go in one pipeline.
fn by_stream(bench: Bench, most: u64) -> Measured {
    by_stream_to_one_of(bench, 1, most)
}

/// Answers the requests that this member of the group reads, on connections of its own.
async fn respond(url: &str, member: String) -> JoinHandle<()> {
    let (mut requests, mut answers) = (connect(url).await, connect(url).await);
    tokio::spawn(async move {
        loop {
            let mut read = cmd("XREADGROUP");
            read.arg("GROUP").arg("prices").arg(&member);
            read.arg("COUNT").arg(WINDOW).arg("BLOCK").arg(1000);
            read.arg("STREAMS").arg("requests").arg(">");
            let reply: Value = read.query_async(&mut requests).await.expect("connected");
            let batch = entries(reply);
            if batch.is_empty() {
                continue;
            }
            let mut pipeline = pipe();
            for entry in &batch {
                let answer = pipeline.cmd("PUBLISH").arg("answers");
                answer.arg(&entry.payload).ignore();
            }
            let ack = pipeline.cmd("XACK").arg("requests").arg("prices");
            batch.iter().for_each(|entry| {
                ack.arg(&entry.id);
            });
            let acked: (usize,) = pipeline.query_async(&mut answers).await.expect("connected");
            assert_eq!(acked.0, batch.len(), "acknowledged");
        }
    })
}

/// The same with so many members in the group of those who answer.
pub(in crate::cases) fn by_stream_to_one_of(
    bench: Bench,
    responders: usize,
    most: u64,
) -> Measured {
    two_cores(async move {
        let mut writer = connect(&bench.url).await;
        let mut create = cmd("XGROUP");
        create
            .arg("CREATE")
            .arg("requests")
            .arg("prices")
            .arg("0")
            .arg("MKSTREAM");
        create
            .query_async::<()>(&mut writer)
            .await
            .expect("created");
        let mut servers = Vec::new();
        for n in 1..=responders {
            servers.push(respond(&bench.url, format!("node{n}")).await);
        }
        let client = Client::open(bench.url.as_str()).expect("a URL of ours");
        let mut inbox = client.get_async_pubsub().await.expect("the server runs");
        inbox.subscribe("answers").await.expect("subscribed");
        let mut answers = inbox.into_on_message().ready_chunks(WINDOW as usize);
        let tally = bench.tally(1);
        let mut window = window(&bench, &tally, most);
        let clock = bench.begin();
        while window.answered < bench.operations {
            let requests = window.next();
            if !requests.is_empty() {
                let mut pipeline = pipe();
                for request in &requests {
                    let add = pipeline.cmd("XADD").arg("requests").arg("*");
                    add.arg("p").arg(request).ignore();
                }
                let added = pipeline.query_async::<()>(&mut writer).await;
                added.expect("stored");
            }
            for answer in answers.next().await.expect("connected") {
                window.answer(answer.get_payload_bytes());
            }
        }
        let measured = clock.end_with(&tally);
        servers.iter().for_each(JoinHandle::abort);
        measured
    })
}

pub fn cases() -> Vec<Case> {
    let case = |name, does, guarantee, operations, run| {
        Case::new(name, does, operations, run)
            .terms(
                Terms::new(guarantee, "the server's memory", "the answer")
                    .payload(RAW_PAYLOAD)
                    .settings("64 in flight, one task"),
            )
            .needs(Needs::Redis)
            .with_latency()
    };
    vec![
        case(
            "redis/request/lists",
            "RPUSH and BLMPOP, both ways",
            "at most once",
            100_000,
            |bench| by_lists(bench, WINDOW),
        ),
        case(
            "redis/request/stream",
            "XADD and XREADGROUP, answered by PUBLISH",
            "at least once",
            100_000,
            |bench| by_stream(bench, WINDOW),
        )
        .against("redis/request/lists"),
        case(
            "redis/request/stream-alone",
            "the same, one after the other",
            "at least once",
            10_000,
            |bench| by_stream(bench, 1),
        )
        .settings(""),
    ]
}
