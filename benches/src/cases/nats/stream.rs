//! At least once over JetStream: publishing until stored, consuming until acknowledged, and both at once.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, PushConsumer, pull, push};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, StorageType, Stream};
use async_nats::jetstream::{self, AckKind, Context};
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::connect;
use crate::bench::{Bench, Measured, two_cores};
use crate::case::{Case, Needs, Terms};
use crate::cases::work::{RAW_PAYLOAD, number, payload};
use crate::latency::Tally;
use crate::pace::Pace;

const WINDOW: usize = 256;
const BATCH: usize = 500;

async fn orders(client: &Client, storage: StorageType) -> (Context, Stream) {
    let context = jetstream::new(client.clone());
    let config = Config {
        name: "ORDERS".to_owned(),
        subjects: vec!["orders".to_owned()],
        storage,
        ..Default::default()
    };
    let stream = context.create_stream(config).await.expect("created");
    (context, stream)
}

/// Publishes all, with so many acknowledgements outstanding, awaited in order.
async fn publish_all(
    context: &Context,
    tally: Option<&Tally>,
    count: u64,
    window: usize,
    ids: bool,
    size: usize,
) {
    let mut outstanding = VecDeque::with_capacity(window);
    for i in 0..count {
        if outstanding.len() == window {
            let (first, ack) = outstanding.pop_front().expect("it is full");
            stored(first, ack, tally).await;
        }
        if let Some(tally) = tally {
            tally.sent(i);
        }
        let message = numbered(i, ids, size);
        let ack = context.send_publish("orders", message).await;
        outstanding.push_back((i, ack.expect("connected")));
    }
    for (i, ack) in outstanding {
        stored(i, ack, tally).await;
    }
}

fn numbered(i: u64, with_id: bool, size: usize) -> PublishMessage {
    let message = PublishMessage::build().payload(payload(i, size));
    if with_id {
        message.message_id(format!("018f3d6e-7c1a-7000-8000-{i:012x}"))
    } else {
        message
    }
}

async fn stored(i: u64, ack: jetstream::context::PublishAckFuture, tally: Option<&Tally>) {
    let ack = ack.await.expect("stored");
    assert!(!ack.duplicate, "message {i} is new");
    if let Some(tally) = tally {
        tally.one(i);
    }
}

fn publish(bench: Bench, storage: StorageType, window: usize, ids: bool, size: usize) -> Measured {
    two_cores(async move {
        let client = connect(&bench.url).await;
        let (context, mut stream) = orders(&client, storage).await;
        let tally = bench.tally(1);
        let clock = bench.begin();
        publish_all(&context, Some(&tally), bench.operations, window, ids, size).await;
        let measured = clock.end_with(&tally);
        let state = &stream.info().await.expect("an answer").state;
        assert_eq!(state.messages, bench.operations, "stored");
        measured
    })
}

/// An inbox by hand for the acknowledgements: without a timer, a boxed future and a map entry for each.
fn publish_own_inbox(bench: Bench) -> Measured {
    two_cores(async move {
        let client = connect(&bench.url).await;
        let (_, mut stream) = orders(&client, StorageType::File).await;
        let inbox = client.new_inbox();
        let acks = client.subscribe(format!("{inbox}.*")).await;
        let mut acks = acks.expect("subscribed");
        let tally = bench.tally(1);
        let clock = bench.begin();
        let mut sent = 0;
        for received in 0..bench.operations {
            while sent < bench.operations.min(received + WINDOW as u64) {
                tally.sent(sent);
                let reply = format!("{inbox}.{sent}");
                let publish = client.publish_with_reply("orders", reply, payload(sent, 100));
                publish.await.expect("connected");
                sent += 1;
            }
            let ack = acks.next().await.expect("connected");
            assert!(ack.payload.starts_with(b"{\"stream\":"), "stored: {ack:?}");
            let (_, number) = ack.subject.rsplit_once('.').expect("an inbox of ours");
            tally.one(number.parse().expect("a number of ours"));
        }
        let measured = clock.end_with(&tally);
        let state = &stream.info().await.expect("an answer").state;
        assert_eq!(state.messages, bench.operations, "stored");
        measured
    })
}

async fn puller(stream: &Stream, ack_policy: AckPolicy) -> PullConsumer {
    let config = pull::Config {
        durable_name: Some("billing".to_owned()),
        ack_policy,
        max_ack_pending: 20_000,
        ..Default::default()
    };
    stream.create_consumer(config).await.expect("created")
}

async fn messages(consumer: &PullConsumer) -> pull::Stream {
    let messages = consumer.stream().max_messages_per_batch(BATCH);
    messages.messages().await.expect("subscribed")
}

/// A stream that holds all messages, each with its id or without, on a connection that did not write them.
async fn filled(bench: &Bench, ids: bool) -> (Client, Stream) {
    let writer = connect(&bench.url).await;
    let (context, _) = orders(&writer, StorageType::File).await;
    publish_all(&context, None, bench.operations, WINDOW, ids, 100).await;
    let client = connect(&bench.url).await;
    let stream = jetstream::new(client.clone()).get_stream("ORDERS").await;
    (client, stream.expect("it is there"))
}

/// Waits until the server has every acknowledgement: one that is fire and forget may be on its way.
async fn acknowledged(consumer: &mut PullConsumer, count: u64) {
    loop {
        let info = consumer.info().await.expect("an answer");
        if info.ack_floor.stream_sequence == count && info.num_ack_pending == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Pulls, and acknowledges every so many.
fn pull(bench: Bench, ids: bool, ack_policy: AckPolicy, each: u64) -> Measured {
    two_cores(async move {
        let (_client, stream) = filled(&bench, ids).await;
        let mut consumer = puller(&stream, ack_policy).await;
        let mut inbox = messages(&consumer).await;
        let tally = bench.tally(1);
        let clock = bench.begin();
        for received in 1..=bench.operations {
            let message = inbox.next().await.expect("open").expect("a message");
            tally.one(number(&message.payload));
            if received % each == 0 || received == bench.operations {
                message.ack().await.expect("connected");
            }
        }
        let measured = clock.end_with(&tally);
        acknowledged(&mut consumer, bench.operations).await;
        measured
    })
}

/// Each acknowledgement is confirmed by the server, by a request over the shared inbox.
fn pull_confirmed(bench: Bench) -> Measured {
    two_cores(async move {
        let (client, stream) = filled(&bench, false).await;
        let mut consumer = puller(&stream, AckPolicy::Explicit).await;
        let inbox = messages(&consumer).await;
        let tally = bench.tally(1);
        let clock = bench.begin();
        let confirmed = inbox.take(bench.operations as usize).map(|message| {
            let message = message.expect("a message");
            let client = &client;
            async move {
                let reply = message.reply.clone().expect("JetStream names one");
                let ack = client.request(reply, Bytes::from(AckKind::Ack));
                ack.await.expect("confirmed");
                number(&message.payload)
            }
        });
        let counted = confirmed.buffer_unordered(WINDOW).for_each(|i| {
            tally.one(i);
            std::future::ready(())
        });
        counted.await;
        let measured = clock.end_with(&tally);
        acknowledged(&mut consumer, bench.operations).await;
        measured
    })
}

fn push(bench: Bench) -> Measured {
    two_cores(async move {
        let (client, stream) = filled(&bench, false).await;
        let config = push::Config {
            durable_name: Some("billing".to_owned()),
            deliver_subject: client.new_inbox(),
            max_ack_pending: 20_000,
            ..Default::default()
        };
        let consumer: PushConsumer = stream.create_consumer(config).await.expect("created");
        let mut inbox = consumer.messages().await.expect("subscribed");
        let tally = bench.tally(1);
        let clock = bench.begin();
        for _ in 0..bench.operations {
            let message = inbox.next().await.expect("open").expect("a message");
            tally.one(number(&message.payload));
            message.ack().await.expect("connected");
        }
        clock.end_with(&tally)
    })
}

/// What `end_to_end` reaches with ids, in messages a second.
pub(super) fn rate(bench: &Bench) -> f64 {
    let measured = end_to_end(bench.rehearsal(20_000), true, 100, None);
    measured.operations as f64 / measured.wall.as_secs_f64()
}

/// At half of that.
fn half(bench: Bench) -> Measured {
    let half = rate(&bench) / 2.0;
    end_to_end(bench, true, 100, Some(half))
}

/// One connection publishes, at a rate if one is given, while another consumes.
fn end_to_end(bench: Bench, ids: bool, size: usize, rate: Option<f64>) -> Measured {
    two_cores(async move {
        let (writer, reader) = (connect(&bench.url).await, connect(&bench.url).await);
        let (context, _) = orders(&writer, StorageType::File).await;
        let stream = jetstream::new(reader.clone()).get_stream("ORDERS").await;
        let stream = stream.expect("it is there");
        let mut consumer = puller(&stream, AckPolicy::Explicit).await;
        let mut inbox = messages(&consumer).await;
        let (tally, count) = (bench.tally(1), bench.operations);
        let counter = tally.clone();
        tokio::spawn(async move {
            while let Some(message) = inbox.next().await {
                let message = message.expect("a message");
                counter.one(number(&message.payload));
                message.ack().await.expect("connected");
            }
        });
        let clock = bench.begin();
        let numbers = match rate {
            Some(rate) => Pace::per_second(rate, count).numbers().boxed(),
            None => stream::iter(0..count).boxed(),
        };
        let published = numbers.map(|i| {
            let (context, tally) = (&context, &tally);
            async move {
                tally.sent(i);
                let ack = context.send_publish("orders", numbered(i, ids, size)).await;
                ack.expect("connected").await.expect("stored");
            }
        });
        published.buffered(WINDOW).for_each(|()| async {}).await;
        tally.reach_all().await;
        let measured = clock.end_with(&tally);
        acknowledged(&mut consumer, count).await;
        // Who rehearses leaves nothing behind.
        let context = jetstream::new(reader);
        context.delete_stream("ORDERS").await.expect("deleted");
        measured
    })
}

pub fn cases() -> Vec<Case> {
    const MANY: u64 = 100_000;
    const WINDOWS: &str = "256 unacknowledged; batches of 500";
    const PUBLISH: Terms =
        Terms::new("at least once", "file, 1 replica", "PubAck of each").payload(RAW_PAYLOAD);
    const CONSUME: Terms =
        Terms::new("at least once", "file, 1 replica", "each, not confirmed").payload(RAW_PAYLOAD);
    let publishing = |name, does, operations, run| {
        Case::new(name, does, operations, run)
            .terms(PUBLISH.settings("256 unacknowledged"))
            .needs(Needs::Nats)
            .with_latency()
    };
    let consuming = |name, does, run| {
        Case::new(name, does, MANY, run)
            .terms(CONSUME.settings("batches of 500"))
            .needs(Needs::Nats)
    };
    vec![
        publishing(
            "nats/publish/alone",
            "publish until stored, one after the other",
            5_000,
            |bench| publish(bench, StorageType::File, 1, false, 100),
        )
        .settings(""),
        publishing("nats/publish/256", "publish until stored", MANY, |bench| {
            publish(bench, StorageType::File, WINDOW, false, 100)
        }),
        publishing(
            "nats/publish/256-id",
            "the same with `Nats-Msg-Id`",
            MANY,
            |bench| publish(bench, StorageType::File, WINDOW, true, 100),
        )
        .against("nats/publish/256"),
        publishing(
            "nats/publish/256-id-512",
            "the same with 512 bytes",
            MANY,
            |bench| publish(bench, StorageType::File, WINDOW, true, 512),
        )
        .terms(PUBLISH.payload("512 B, a number first"))
        .settings("256 unacknowledged")
        .against("nats/publish/256-id"),
        publishing(
            "nats/publish/256-memory",
            "the same, stored in memory",
            MANY,
            |bench| publish(bench, StorageType::Memory, WINDOW, false, 100),
        )
        .terms(
            Terms::new("at least once", "the server's memory", "PubAck of each")
                .payload(RAW_PAYLOAD)
                .settings("256 unacknowledged"),
        )
        .against("nats/publish/256"),
        publishing(
            "nats/publish/256-own-inbox",
            "the same with an inbox by hand",
            MANY,
            publish_own_inbox,
        )
        .against("nats/publish/256"),
        consuming("nats/consume/pull", "pull and ack", |bench| {
            pull(bench, false, AckPolicy::Explicit, 1)
        }),
        consuming(
            "nats/consume/pull-id",
            "the same, of messages with `Nats-Msg-Id`",
            |bench| pull(bench, true, AckPolicy::Explicit, 1),
        )
        .against("nats/consume/pull"),
        consuming(
            "nats/consume/pull-ack-all",
            "pull, one ack for 128",
            |bench| pull(bench, false, AckPolicy::All, 128),
        )
        .terms(
            Terms::new(
                "at least once",
                "file, 1 replica",
                "one for 128, not confirmed",
            )
            .payload(RAW_PAYLOAD)
            .settings("batches of 500"),
        )
        .against("nats/consume/pull"),
        consuming("nats/consume/push", "push and ack", push)
            .settings("at most 20,000 unacknowledged")
            .against("nats/consume/pull"),
        consuming(
            "nats/consume/pull-confirmed",
            "pull, each ack confirmed by a request",
            pull_confirmed,
        )
        .terms(
            Terms::new("at least once", "file, 1 replica", "each, confirmed")
                .payload(RAW_PAYLOAD)
                .settings("batches of 500; 256 acks in flight"),
        )
        .against("nats/consume/pull"),
        consuming(
            "nats/end-to-end",
            "publish until stored, pull and ack, at once",
            |bench| end_to_end(bench, false, 100, None),
        )
        .settings(WINDOWS)
        .with_latency(),
        consuming(
            "nats/end-to-end/id",
            "the same with `Nats-Msg-Id`",
            |bench| end_to_end(bench, true, 100, None),
        )
        .settings(WINDOWS)
        .with_latency()
        .against("nats/end-to-end"),
        consuming(
            "nats/end-to-end/id-512",
            "the same with 512 bytes",
            |bench| end_to_end(bench, true, 512, None),
        )
        .terms(CONSUME.payload("512 B, a number first"))
        .settings(WINDOWS)
        .against("nats/end-to-end/id"),
        consuming(
            "nats/end-to-end/half",
            "with `Nats-Msg-Id`, at half of what that reaches",
            half,
        )
        .settings("half of the rate of `nats/end-to-end/id`, found out first")
        .with_latency()
        .against("nats/end-to-end/id"),
    ]
}
