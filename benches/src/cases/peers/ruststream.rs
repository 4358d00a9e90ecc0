//! RustStream: in memory, over NATS and over Redis.

use std::time::Duration;

use async_nats::jetstream;
use futures_util::{StreamExt, stream};
use ruststream::memory::prelude::*;
use ruststream::runtime::{Outgoing, PublishContext, RunningApp};
use ruststream::{Broker, OutgoingMessage};
use ruststream_fred::stream::prelude::{RedisBroker, RedisPipelineSteps, RedisStream};
use ruststream_nats::{
    JetStreamPublish, JetStreamSubject, NatsBroker, NatsPublish, NonZeroDuration,
};
use serde::{Deserialize, Serialize};

use super::{TALLY, tally};
use crate::bench::{Bench, Measured, one_core, two_cores};
use crate::case::{Case, Needs, Terms};
use crate::cases::nats::respond;
use crate::cases::work::{Order, RAW_PAYLOAD, handle, number, payload};

#[subscriber("orders")]
async fn count(order: &Order) -> HandlerOutcome {
    handle(order, tally());
    HandlerOutcome::ack()
}

#[subscriber("orders")]
async fn count_batch(orders: &[Order]) -> HandlerOutcome {
    orders.iter().for_each(|order| handle(order, tally()));
    HandlerOutcome::ack()
}

#[subscriber(JetStreamSubject::new("orders", "ORDERS").durable("billing"))]
async fn count_stored(order: &Order) -> HandlerOutcome {
    handle(order, tally());
    HandlerOutcome::ack()
}

#[subscriber(
    JetStreamSubject::new("orders", "ORDERS")
        .durable("billing")
        .pull_expires(NonZeroDuration::from_millis(nonzero!(300)))
)]
async fn count_stored_batch(orders: &[Order]) -> HandlerOutcome {
    orders.iter().for_each(|order| handle(order, tally()));
    HandlerOutcome::ack()
}

#[subscriber(RedisStream::new("orders").group("billing"))]
async fn count_entry(order: &Order) -> HandlerOutcome {
    handle(order, tally());
    HandlerOutcome::ack()
}

#[subscriber(RedisStream::new("orders").group("billing"))]
async fn count_entries(orders: &[Order]) -> HandlerOutcome {
    orders.iter().for_each(|order| handle(order, tally()));
    HandlerOutcome::ack()
}

fn info() -> AppInfo {
    AppInfo::new("orders", "0.1.0")
}

async fn begin(bench: &Bench, app: impl App) -> RunningApp {
    assert!(TALLY.set(bench.tally(1)).is_ok(), "a process runs one case");
    app.start().await.expect("it starts")
}

/// At most one window ahead of the handler, as our own cases are.
async fn publish_paced<P: Publisher>(bench: &Bench, orders: &P, window: u64) {
    for i in 0..bench.operations {
        tally().sent(i);
        let published = orders.message(&Order::new(i)).to("orders").publish().await;
        assert!(published.is_ok(), "published");
        tally().pace(i, window).await;
    }
    tally().reach_all().await;
}

fn memory(bench: Bench, batches: bool) -> Measured {
    two_cores(async move {
        let broker = MemoryBroker::new();
        let orders = broker.publisher();
        let app = RustStream::new(info()).with_broker(broker, |b| {
            if batches {
                b.include(count_batch.batch(nonzero!(100)));
            } else {
                b.include(count);
            }
        });
        let _running = begin(&bench, app).await;
        let clock = bench.begin();
        publish_paced(&bench, &orders, 1024).await;
        clock.end_with(tally())
    })
}

#[derive(Debug, Deserialize, Serialize, Outgoing)]
struct Ask {
    quantity: u64,
    unit_price: u64,
}

#[derive(Debug, Deserialize, Serialize, Outgoing)]
struct Quote {
    price: u64,
}

/// Answers on the inbox that the request names.
struct ToInbox;

impl<C, Options> PublishTransform<ForReply<C>, Options> for ToInbox {
    type Destination = Names;

    fn apply(&self, out: &mut Outgoing<'_>, _: &mut Option<Options>, cx: &PublishContext<'_, C>) {
        if let Some(inbox) = cx.headers().get_shared("reply-to")
            && let Ok(name) = Str::try_from(inbox)
        {
            out.set_name(name);
        }
    }
}

#[subscriber("quotes.ask", reply("quotes.answers"))]
async fn quote_price(ask: &Ask) -> Quote {
    Quote {
        price: ask.quantity * ask.unit_price,
    }
}

/// One request after the other, on one thread, as our own.
fn request(bench: Bench) -> Measured {
    one_core().block_on(async move {
        let broker = MemoryBroker::new();
        let requester = broker.requester();
        let app = RustStream::new(info()).with_broker(broker, |b| {
            b.include(quote_price).out_reply(Publish).transform(ToInbox);
        });
        let _running = begin(&bench, app).await;
        let clock = bench.begin();
        for i in 0..bench.operations {
            tally().sent(i);
            let ask = Ask {
                quantity: i,
                unit_price: 3,
            };
            let ask = serde_json::to_vec(&ask).expect("it is JSON");
            let request = OutgoingMessage::new("quotes.ask", ask.as_slice());
            let answer = requester.request(request, Duration::from_secs(10)).await;
            let answer = answer.expect("an answer");
            let quote: Quote = serde_json::from_slice(answer.payload()).expect("a quote");
            tally().one(quote.price / 3);
        }
        clock.end_with(tally())
    })
}

fn nats_core(bench: Bench) -> Measured {
    two_cores(async move {
        let app = RustStream::new(info()).with_broker(NatsBroker::new(bench.url.as_str()), |b| {
            b.include(count);
        });
        let _running = begin(&bench, app).await;
        let connected = NatsBroker::new(bench.url.as_str()).connect().await;
        let orders = connected.expect("the server runs").publisher(NatsPublish);
        let clock = bench.begin();
        publish_paced(&bench, &orders, 16_384).await;
        clock.end_with(tally())
    })
}

/// Requests of a publisher of theirs, to a responder that is none of theirs.
fn nats_request(bench: Bench) -> Measured {
    two_cores(async move {
        assert!(TALLY.set(bench.tally(1)).is_ok(), "a process runs one case");
        respond(&bench.url).await;
        let connected = NatsBroker::new(bench.url.as_str()).connect().await;
        let requester = connected.expect("the server runs").publisher(NatsPublish);
        let clock = bench.begin();
        let each = stream::iter(0..bench.operations).map(|i| {
            let requester = &requester;
            async move {
                tally().sent(i);
                let payload = payload(i, 100);
                let request = OutgoingMessage::new("prices", &*payload);
                let answer = requester.request(request, Duration::from_secs(10)).await;
                tally().one(number(answer.expect("an answer").payload()));
            }
        });
        each.buffer_unordered(64).for_each(|()| async {}).await;
        clock.end_with(tally())
    })
}

/// A stream, and a publisher on it.
async fn stored_orders(bench: &Bench) -> impl Publisher {
    let client = async_nats::connect(&bench.url).await;
    let config = jetstream::stream::Config {
        name: "ORDERS".to_owned(),
        subjects: vec!["orders".to_owned()],
        ..Default::default()
    };
    let context = jetstream::new(client.expect("the server runs"));
    context.create_stream(config).await.expect("created");
    let connected = NatsBroker::new(bench.url.as_str()).connect().await;
    let connected = connected.expect("the server runs");
    connected.publisher(JetStreamPublish::default())
}

fn jetstream_publish(bench: Bench) -> Measured {
    two_cores(async move {
        assert!(TALLY.set(bench.tally(1)).is_ok(), "a process runs one case");
        let orders = stored_orders(&bench).await;
        let clock = bench.begin();
        publish_at_once(&bench, &orders, |i| tally().one(i)).await;
        clock.end_with(tally())
    })
}

/// What is stored already is handled by an application that starts meanwhile.
fn jetstream_consume(bench: Bench) -> Measured {
    two_cores(async move {
        assert!(TALLY.set(bench.tally(1)).is_ok(), "a process runs one case");
        let orders = stored_orders(&bench).await;
        publish_at_once(&bench, &orders, |_| ()).await;
        let app = RustStream::new(info()).with_broker(NatsBroker::new(bench.url.as_str()), |b| {
            b.include(count_stored);
        });
        let clock = bench.begin();
        let _running = app.start().await.expect("it starts");
        tally().reach_all().await;
        clock.end_with(tally())
    })
}

fn jetstream(bench: Bench, batches: bool) -> Measured {
    two_cores(async move {
        let orders = stored_orders(&bench).await;
        let app = RustStream::new(info()).with_broker(NatsBroker::new(bench.url.as_str()), |b| {
            if batches {
                b.include(count_stored_batch.batch(nonzero!(100)));
            } else {
                b.include(count_stored);
            }
        });
        let _running = begin(&bench, app).await;
        let clock = bench.begin();
        publish_at_once(&bench, &orders, |_| ()).await;
        tally().reach_all().await;
        clock.end_with(tally())
    })
}

fn redis(bench: Bench, tuned: bool) -> Measured {
    two_cores(async move {
        let app =
            RustStream::new(info()).with_broker(RedisBroker::standalone(bench.url.as_str()), |b| {
                if tuned {
                    b.include(count_entries.pipeline().batch(nonzero!(100)));
                } else {
                    b.include(count_entry);
                }
            });
        let _running = begin(&bench, app).await;
        let connected = RedisBroker::standalone(bench.url.as_str()).connect().await;
        let orders = connected.expect("the server runs").publisher();
        let clock = bench.begin();
        publish_at_once(&bench, &orders, |_| ()).await;
        tally().reach_all().await;
        clock.end_with(tally())
    })
}

/// 256 at once, each until it is stored.
async fn publish_at_once<P: Publisher>(bench: &Bench, orders: &P, done: fn(u64)) {
    let each = stream::iter(0..bench.operations).map(|i| async move {
        tally().sent(i);
        let published = orders.message(&Order::new(i)).to("orders").publish().await;
        assert!(published.is_ok(), "stored");
        done(i);
    });
    each.buffer_unordered(256).for_each(|()| async {}).await;
}

pub fn cases() -> Vec<Case> {
    const MANY: u64 = 50_000;
    const MEMORY: Terms = Terms::new(
        "at least once while it runs; an error drops",
        "in the process",
        "each, after its handler",
    )
    .settings("as it comes; at most 2048 ahead of the handler");
    const CORE: Terms = Terms::new("at most once", "nowhere", "none").settings("as it comes");
    const FILE: Terms = Terms::new("at least once", "file, 1 replica", "each, not confirmed");
    const REDIS: Terms = Terms::new(
        "at least once",
        "the server's memory",
        "each, by its own XACK",
    );
    let case = |name, does, operations, run| Case::new(name, does, operations, run).with_latency();
    vec![
        case(
            "peers/ruststream/memory",
            "publish to one handler",
            500_000,
            |bench| memory(bench, false),
        )
        .terms(MEMORY)
        .against("events/reference"),
        case(
            "peers/ruststream/memory-batch",
            "the same, handled in batches",
            500_000,
            |bench| memory(bench, true),
        )
        .terms(MEMORY)
        .settings("tuned: batches of up to 100")
        .against("events/reference"),
        case(
            "peers/ruststream/request",
            "request in memory, one after the other",
            200_000,
            request,
        )
        .terms(
            Terms::new("an answer, or none in time", "in the process", "the answer")
                .payload("two integers, as JSON")
                .settings("as it comes"),
        )
        .against("calls/send-deadline"),
        case(
            "peers/ruststream/nats-core",
            "publish to one handler over NATS core",
            200_000,
            nats_core,
        )
        .terms(CORE)
        .needs(Needs::Nats)
        .against("nats/core/ours-order"),
        case(
            "peers/ruststream/nats-request",
            "request over NATS core, answered with what it carried",
            50_000,
            nats_request,
        )
        .terms(
            Terms::new("an answer, or none in time", "nowhere", "the answer")
                .payload(RAW_PAYLOAD)
                .settings("as it comes; 64 in flight; a responder by hand"),
        )
        .needs(Needs::Nats)
        .against("nats/request/ours-64"),
        case(
            "peers/ruststream/jetstream-publish",
            "publish until stored",
            MANY,
            jetstream_publish,
        )
        .terms(
            Terms::new("at least once", "file, 1 replica", "PubAck of each")
                .settings("as it comes; 256 publishes at once, without ids"),
        )
        .needs(Needs::Nats)
        .against("nats/publish/ours"),
        Case::new(
            "peers/ruststream/jetstream-consume",
            "what is stored, to handler and ack",
            MANY,
            jetstream_consume,
        )
        .terms(FILE.settings("as it comes; the start is in it"))
        .needs(Needs::Nats)
        .against("nats/consume/ours"),
        case(
            "peers/ruststream/jetstream",
            "publish until stored, handled and acknowledged",
            MANY,
            |bench| jetstream(bench, false),
        )
        .terms(FILE.settings("as it comes; 256 publishes at once, without ids"))
        .needs(Needs::Nats)
        .against("nats/end-to-end/ours-json"),
        case(
            "peers/ruststream/jetstream-batch",
            "the same, handled in batches",
            // Runs with nats-server 2.9 stall now and then; of more, more of them.
            5_000,
            |bench| jetstream(bench, true),
        )
        .terms(
            FILE.settings(
                "tuned: batches of up to 100, closed after 300 ms; 256 publishes at once",
            ),
        )
        .needs(Needs::Nats)
        .against("nats/end-to-end/ours-json"),
        case(
            "peers/ruststream/redis",
            "XADD, handled and acknowledged",
            MANY,
            |bench| redis(bench, false),
        )
        .terms(REDIS.settings("as it comes; 256 publishes at once"))
        .needs(Needs::Redis)
        .against("redis/end-to-end/ours-json"),
        case(
            "peers/ruststream/redis-pipeline",
            "the same in batches, their XACKs in one pipeline",
            MANY,
            |bench| redis(bench, true),
        )
        .terms(
            Terms::new(
                "at least once",
                "the server's memory",
                "each, in one pipeline for a batch",
            )
            .settings("tuned: `.pipeline()`, batches of up to 100; 256 publishes at once"),
        )
        .needs(Needs::Redis)
        .against("redis/end-to-end/ours-json"),
    ]
}
