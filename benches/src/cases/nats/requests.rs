//! Requests over NATS core, to a responder on another connection, by hand and to a handler of ours.

use async_nats::Client;
use futures_util::StreamExt;
use futures_util::stream;

use super::{connect, settled};
use crate::bench::{Bench, Measured, two_cores};
use crate::case::{Bar, Case, Needs, Terms};
use crate::cases::ours::requests::{Price, SafePrice, send as ours};
use crate::cases::work::{RAW_PAYLOAD, number, payload};

/// Answers each request with what it carried.
pub(crate) async fn respond(url: &str) {
    respond_in(url, None).await;
}

/// The same, sharing the requests with others of a queue group.
async fn respond_in(url: &str, group: Option<&str>) {
    let responder = connect(url).await;
    let subscribed = match group {
        None => responder.subscribe("prices").await,
        Some(group) => responder.queue_subscribe("prices", group.to_owned()).await,
    };
    let mut requests = subscribed.expect("subscribed");
    settled(&responder).await;
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let reply = request.reply.expect("a request names its inbox");
            let sent = responder.publish(reply, request.payload).await;
            sent.expect("connected");
        }
    });
}

async fn caller(bench: &Bench) -> Client {
    respond(&bench.url).await;
    connect(&bench.url).await
}

/// `Client::request`, so many at once from one task.
fn request(bench: Bench, window: usize, size: usize) -> Measured {
    two_cores(async move {
        let client = caller(&bench).await;
        asked(&bench, &client, window, size).await
    })
}

/// The same to one of so many responders, each on a connection of its own.
pub(in crate::cases) fn request_to_one_of(
    bench: Bench,
    responders: usize,
    window: usize,
) -> Measured {
    two_cores(async move {
        for _ in 0..responders {
            respond_in(&bench.url, Some("nodes")).await;
        }
        let client = connect(&bench.url).await;
        asked(&bench, &client, window, 100).await
    })
}

async fn asked(bench: &Bench, client: &Client, window: usize, size: usize) -> Measured {
    let tally = bench.tally(1);
    let clock = bench.begin();
    let each = stream::iter(0..bench.operations).map(|i| {
        let tally = &tally;
        async move {
            tally.sent(i);
            let answer = client.request("prices", payload(i, size)).await;
            tally.one(number(&answer.expect("an answer").payload));
        }
    });
    each.buffer_unordered(window).for_each(|()| async {}).await;
    clock.end_with(&tally)
}

/// The same with an inbox by hand: one subscription, and no timer, channel and map entry for each request.
fn own_inbox(bench: Bench, window: u64) -> Measured {
    two_cores(async move {
        let client = caller(&bench).await;
        let inbox = client.new_inbox();
        let answers = client.subscribe(inbox.clone()).await;
        let mut answers = answers.expect("subscribed");
        let tally = bench.tally(1);
        let clock = bench.begin();
        let mut sent = 0;
        for received in 0..bench.operations {
            while sent < bench.operations.min(received + window) {
                tally.sent(sent);
                let request =
                    client.publish_with_reply("prices", inbox.clone(), payload(sent, 100));
                request.await.expect("connected");
                sent += 1;
            }
            let answer = answers.next().await.expect("connected");
            tally.one(number(&answer.payload));
        }
        clock.end_with(&tally)
    })
}

pub fn cases() -> Vec<Case> {
    const REQUEST: Terms =
        Terms::new("an answer, or none in time", "nowhere", "the answer").payload(RAW_PAYLOAD);
    const ONCE: Terms = Terms::new(
        "at least once, run once",
        "claim and answer in a KV bucket on file",
        "the answer",
    )
    .payload(RAW_PAYLOAD);
    const SEND: &str = "`send` to a handler of another node";
    let case = |name, does, operations, run| {
        Case::new(name, does, operations, run)
            .terms(REQUEST)
            .needs(Needs::Nats)
            .with_latency()
    };
    vec![
        case(
            "nats/request/alone",
            "one after the other",
            10_000,
            |bench| request(bench, 1, 100),
        ),
        case("nats/request/64", "`Client::request`", 100_000, |bench| {
            request(bench, 64, 100)
        })
        .settings("64 in flight"),
        case("nats/request/256", "`Client::request`", 150_000, |bench| {
            request(bench, 256, 100)
        })
        .settings("256 in flight"),
        case(
            "nats/request/64-own-inbox",
            "an inbox by hand",
            100_000,
            |bench| own_inbox(bench, 64),
        )
        .settings("64 in flight")
        .against("nats/request/64"),
        case(
            "nats/request/64-512",
            "`Client::request`, 512 bytes",
            100_000,
            |bench| request(bench, 64, 512),
        )
        .terms(REQUEST.payload("512 B, a number first"))
        .settings("64 in flight")
        .against("nats/request/64"),
        case("nats/request/ours-alone", SEND, 10_000, |bench| {
            ours::<Price>(bench, 1, 100)
        })
        .against("nats/request/alone")
        .asked(Bar::RatioAtLeast(0.95)),
        case("nats/request/ours-64", SEND, 100_000, |bench| {
            ours::<Price>(bench, 64, 100)
        })
        .settings("64 in flight")
        .against("nats/request/64")
        .asked(Bar::RatioAtLeast(0.95)),
        case("nats/request/ours-64-512", SEND, 100_000, |bench| {
            ours::<Price>(bench, 64, 512)
        })
        .terms(REQUEST.payload("512 B, a number first"))
        .settings("64 in flight")
        .against("nats/request/64-512")
        .asked(Bar::RatioAtLeast(0.95)),
        case("nats/request/ours-256", SEND, 150_000, |bench| {
            ours::<Price>(bench, 256, 100)
        })
        .settings("256 in flight")
        .against("nats/request/256")
        .asked(Bar::RatioAtLeast(0.95)),
        case("nats/request/ours-alone-once", SEND, 2_000, |bench| {
            ours::<SafePrice>(bench, 1, 100)
        })
        .terms(ONCE)
        .against("nats/request/ours-alone"),
        case("nats/request/ours-64-once", SEND, 20_000, |bench| {
            ours::<SafePrice>(bench, 64, 100)
        })
        .terms(ONCE.settings("64 in flight"))
        .against("nats/request/ours-64"),
        case("nats/request/ours-256-once", SEND, 20_000, |bench| {
            ours::<SafePrice>(bench, 256, 100)
        })
        .terms(ONCE.settings("256 in flight"))
        .against("nats/request/ours-256"),
    ]
}
