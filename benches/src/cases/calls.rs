//! A request to a handler of this process, one after the other, on one thread.

use std::hint::black_box;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use catga::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tower::timeout::TimeoutLayer;
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tracing::{Instrument, info_span};
use tracing_subscriber::layer::SubscriberExt;

use crate::bench::{Bench, Handled, Measured, one_core};
use crate::case::{Bar, Case, Terms};
use crate::recorder::Recorder;

const UNIT_PRICE: u64 = 3;

#[derive(Request, Serialize, Deserialize)]
#[response(u64)]
#[request(idempotent = false)]
struct Quote {
    quantity: u64,
    unit_price: u64,
}

#[handler]
async fn price(request: Quote) -> Result<u64> {
    Ok(request.quantity * request.unit_price)
}

/// A [`Quote`] that is remembered by its id, wherever somebody may send it again.
#[derive(Request, Serialize, Deserialize)]
#[response(u64)]
struct SafeQuote {
    quantity: u64,
    unit_price: u64,
}

#[handler]
async fn price_once(request: SafeQuote) -> Result<u64> {
    Ok(request.quantity * request.unit_price)
}

trait Priced: catga::Request<Response = u64> {
    fn of(quantity: u64) -> Self;
}

impl Priced for Quote {
    fn of(quantity: u64) -> Self {
        Self {
            quantity,
            unit_price: UNIT_PRICE,
        }
    }
}

impl Priced for SafeQuote {
    fn of(quantity: u64) -> Self {
        Self {
            quantity,
            unit_price: UNIT_PRICE,
        }
    }
}

/// Adds up answers, which are prices.
#[derive(Default)]
struct Answers {
    count: u64,
    total: u64,
}

impl Answers {
    #[inline]
    fn add(&mut self, price: u64) {
        self.count += 1;
        self.total += black_box(price);
    }

    fn handled(&self) -> Handled {
        assert_eq!(self.total % UNIT_PRICE, 0, "a price of none of the quotes");
        Handled {
            count: self.count,
            sum: self.total / UNIT_PRICE,
        }
    }
}

/// One call after the other.
fn each(bench: Bench, call: impl AsyncFn(u64) -> u64) -> Measured {
    one_core().block_on(async {
        let mut answers = Answers::default();
        let clock = bench.begin();
        for i in 0..bench.operations {
            answers.add(call(i).await);
        }
        clock.end(answers.handled())
    })
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

trait Handler: Send + Sync {
    fn call(&self, request: Quote) -> BoxFuture<u64>;
}

struct Price;

impl Handler for Price {
    fn call(&self, request: Quote) -> BoxFuture<u64> {
        Box::pin(async move { request.quantity * request.unit_price })
    }
}

fn boxed() -> Arc<dyn Handler> {
    black_box(Arc::new(Price))
}

/// The same behind tower's own time-out.
fn boxed_in_time(bench: Bench) -> Measured {
    let handler = boxed();
    let service = service_fn(move |request| {
        let answer = handler.call(request);
        Box::pin(async move { Ok(answer.await) }) as BoxFuture<Result<u64, BoxError>>
    });
    let mut service = TimeoutLayer::new(Duration::from_secs(30)).layer(service);
    one_core().block_on(async {
        let mut answers = Answers::default();
        let clock = bench.begin();
        for i in 0..bench.operations {
            let service = service.ready().await.expect("always ready");
            answers.add(service.call(Quote::of(i)).await.expect("in time"));
        }
        clock.end(answers.handled())
    })
}

/// A request over a channel with a channel for its reply.
fn channel(bench: Bench) -> Measured {
    one_core().block_on(async {
        let (requests, mut inbox) = mpsc::channel::<(Quote, oneshot::Sender<u64>)>(1024);
        tokio::spawn(async move {
            while let Some((request, reply)) = inbox.recv().await {
                let _ = reply.send(request.quantity * request.unit_price);
            }
        });
        let tally = bench.tally(1);
        let clock = bench.begin();
        for i in 0..bench.operations {
            let (reply, answer) = oneshot::channel();
            tally.sent(i);
            let sent = requests.send((Quote::of(i), reply)).await;
            sent.expect("the server lives");
            tally.one(answer.await.expect("the server answers") / UNIT_PRICE);
        }
        clock.end_with(&tally)
    })
}

/// With a subscriber that keeps spans, as a program that exports them does.
fn subscribed(run: impl FnOnce() -> Measured) -> Measured {
    tracing::subscriber::with_default(tracing_subscriber::registry(), run)
}

/// With a subscriber that also formats each span's fields, for log lines that nobody writes.
fn logging(run: impl FnOnce() -> Measured) -> Measured {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::sink);
    tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), run)
}

/// With a recorder that keeps what it is told, which has to be all of it.
fn recorded(bench: Bench) -> Measured {
    let recorder = Recorder::install();
    let operations = bench.operations;
    let measured = send::<Quote>(bench, prices("memory://"));
    let told = recorder.recorded("messaging.client.operation.duration");
    assert_eq!(told, operations, "durations that were told");
    measured
}

/// The span by hand, with the fields of ours: made before the call, entered while it runs.
async fn in_span(handler: &dyn Handler, request: Quote) -> u64 {
    let span = info_span!(
        "process",
        messaging.operation.type = "process",
        messaging.destination.name = "Quote",
        messaging.consumer.group.name = "price",
        messaging.message.id = tracing::field::Empty,
    );
    handler.call(request).instrument(span).await
}

fn by_hand_in_span(bench: Bench) -> Measured {
    let handler = boxed();
    each(bench, async |i| in_span(&*handler, Quote::of(i)).await)
}

/// `send` to a handler of this node.
fn send<R: Priced>(bench: Bench, builder: catga::CatgaBuilder) -> Measured {
    one_core().block_on(async {
        let catga = builder.start().await.expect("it starts");
        let mut answers = Answers::default();
        let clock = bench.begin();
        for i in 0..bench.operations {
            answers.add(catga.send(R::of(i)).await.expect("an answer"));
        }
        clock.end(answers.handled())
    })
}

fn prices(url: &str) -> catga::CatgaBuilder {
    let handlers = handlers![price, price_once];
    Catga::builder().connect(url).handlers(handlers)
}

/// A request to another node on the same bus, one after the other.
fn send_over_bus<R: Priced>(bench: Bench) -> Measured {
    one_core().block_on(async {
        let server = prices("memory://bench").node("server");
        let _server = server.start().await.expect("it starts");
        let client = Catga::builder().connect("memory://bench");
        let client = client.handlers(handlers![]).start().await;
        let client = client.expect("it starts");
        while client.nodes().len() < 2 {
            tokio::task::yield_now().await;
        }
        let tally = bench.tally(1);
        let clock = bench.begin();
        for i in 0..bench.operations {
            tally.sent(i);
            let answer = client.send_to("server", R::of(i)).await;
            tally.one(answer.expect("an answer") / UNIT_PRICE);
        }
        clock.end_with(&tally)
    })
}

const NO_DEADLINE: &str = "memory://?request_deadline=none";

pub fn cases() -> Vec<Case> {
    const MANY: u64 = 2_000_000;
    const CALL: Terms = Terms::new("a call: an answer or an error", "nowhere", "the answer")
        .payload("two integers, as a value");
    const REQUEST: Terms = Terms::new(
        "at least once, run once where idempotent",
        "in the process",
        "the answer",
    )
    .payload("two integers, as JSON");
    let call = |name, does, run| Case::new(name, does, MANY, run).terms(CALL);
    vec![
        call("calls/direct", "async function", |bench| {
            each(bench, async |i| {
                let price = price(black_box(Quote::of(i))).await;
                price.expect("a price")
            })
        }),
        call("calls/boxed", "boxed future through `Arc<dyn>`", |bench| {
            let handler = boxed();
            each(bench, async |i| handler.call(Quote::of(i)).await)
        }),
        call("calls/send", "`send`, no deadline", |bench| {
            send::<Quote>(bench, prices(NO_DEADLINE))
        })
        .against("calls/boxed")
        .asked(Bar::NanosAtMost(100.0))
        .asked(Bar::AllocationsAtMost(1.0)),
        call("calls/send-deadline", "`send`, deadline 10 s", |bench| {
            send::<Quote>(bench, prices("memory://"))
        })
        .against("calls/boxed")
        .asked(Bar::NanosAtMost(200.0)),
        call(
            "calls/send-recorded",
            "`send`, deadline 10 s, with a recorder of metrics",
            recorded,
        )
        .settings("counters and histograms of atomics; a duration for each")
        .against("calls/send-deadline")
        .asked(Bar::NanosAtMost(200.0)),
        call(
            "calls/send-idempotent",
            "`send`, idempotent, first try on this node",
            |bench| send::<SafeQuote>(bench, prices("memory://")),
        )
        .against("calls/send-deadline"),
        call(
            "calls/boxed-span",
            "boxed future in a hand-written `info_span!`",
            |bench| subscribed(|| by_hand_in_span(bench)),
        )
        .settings("`tracing_subscriber::registry()`"),
        call(
            "calls/send-span",
            "`send`, no deadline, in the span it makes",
            |bench| subscribed(|| send::<Quote>(bench, prices(NO_DEADLINE))),
        )
        .settings("`tracing_subscriber::registry()`")
        .against("calls/boxed-span")
        .asked(Bar::RatioAtLeast(1.0 / 1.3)),
        Case::new(
            "calls/boxed-logged",
            "boxed future in a hand-written `info_span!`",
            MANY / 4,
            |bench| logging(|| by_hand_in_span(bench)),
        )
        .terms(CALL)
        .settings("`fmt` layer into a sink"),
        Case::new(
            "calls/send-logged",
            "`send`, no deadline, in the span it makes",
            MANY / 4,
            |bench| logging(|| send::<Quote>(bench, prices(NO_DEADLINE))),
        )
        .terms(CALL)
        .settings("`fmt` layer into a sink")
        .against("calls/boxed-logged")
        .asked(Bar::RatioAtLeast(1.0 / 1.3)),
        call(
            "calls/boxed-timeout",
            "boxed future behind a tower `TimeoutLayer`",
            boxed_in_time,
        )
        .against("calls/boxed"),
        call(
            "calls/send-timeout",
            "`send`, deadline 10 s, behind a tower `TimeoutLayer`",
            |bench| {
                let layer = TimeoutLayer::new(Duration::from_secs(30));
                send::<Quote>(bench, prices("memory://").layer(layer))
            },
        )
        .against("calls/send-deadline")
        .asked(Bar::NanosAtMost(400.0)),
        Case::new(
            "calls/channel",
            "request over mpsc, reply over oneshot",
            MANY / 4,
            channel,
        )
        .terms(CALL)
        .with_latency(),
        Case::new(
            "calls/send-to",
            "`send_to` another node",
            100_000,
            send_over_bus::<Quote>,
        )
        .terms(REQUEST)
        .against("calls/channel")
        .with_latency(),
        Case::new(
            "calls/send-to-idempotent",
            "`send_to` another node, idempotent",
            100_000,
            send_over_bus::<SafeQuote>,
        )
        .terms(REQUEST)
        .against("calls/send-to")
        .with_latency(),
    ]
}
