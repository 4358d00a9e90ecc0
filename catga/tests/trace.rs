//! One trace over nodes of one bus in this process: who is whose parent. Over processes and brokers: the example `cluster`.

#![allow(
    clippy::unwrap_used,
    reason = "a failure in a helper is a failure of its test"
)]

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use catga::prelude::*;
use catga::{Headers, MessageId};
use opentelemetry::trace::{SpanKind, Status, TracerProvider};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use serde::{Deserialize, Serialize};
use tracing::{Instrument, info_span};
use tracing_subscriber::layer::SubscriberExt;

#[derive(Request, Serialize, Deserialize)]
#[response(String)]
struct Order(u32);

#[derive(Event, Serialize, Deserialize)]
struct Created(u32);

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct Shipped(u32);

#[handler]
async fn order(order: Order, ctx: Context) -> Result<String> {
    ctx.publish(Created(order.0)).await?;
    ctx.publish(Shipped(order.0)).await?;
    Ok(ctx.node().to_string())
}

#[handler]
async fn created(_: &Created) {}

/// Fails for odd numbers, and passes on what it heard outside of any span for the others.
#[handler]
async fn shipped(event: Shipped, ctx: Context) -> Result<()> {
    if event.0 % 2 == 1 {
        return Err("odd").terminal();
    }
    let passed_on = async move { ctx.publish(Created(event.0)).await };
    tokio::spawn(passed_on).await??;
    Ok(())
}

#[derive(Debug)]
struct Told(Sender<SpanData>);

impl SpanExporter for Told {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        for span in batch {
            let _ = self.0.send(span);
        }
        Ok(())
    }
}

/// The spans of a trace by name, once there are so many.
fn trace(told: &Receiver<SpanData>, count: usize) -> HashMap<String, SpanData> {
    let mut spans = HashMap::new();
    for _ in 0..count {
        let span = told.recv_timeout(Duration::from_secs(30)).unwrap();
        let again = spans.insert(span.name.to_string(), span);
        assert!(again.is_none(), "{again:?}");
    }
    spans
}

#[track_caller]
fn follows(spans: &HashMap<String, SpanData>, child: &str, parent: &str) {
    let (child, parent) = (&spans[child], &spans[parent]);
    assert_eq!(child.parent_span_id, parent.span_context.span_id());
    let (one, other) = (&child.span_context, &parent.span_context);
    assert_eq!(one.trace_id(), other.trace_id());
}

async fn node(id: &str, handlers: catga::Handlers) -> Catga {
    let node = Catga::builder()
        .connect("memory://trace")
        .service("shop")
        .node(id);
    node.handlers(handlers).start().await.unwrap()
}

// One test: the subscriber is the process's.
#[test]
fn a_trace_goes_from_node_to_node() {
    let (tell, told) = channel();
    let provider = SdkTracerProvider::builder().with_simple_exporter(Told(tell));
    let provider = provider.build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();

    let caller = runtime.block_on(node("caller", handlers![]));
    let _other = runtime.block_on(node("other", handlers![order, created, shipped]));
    runtime.block_on(async {
        while caller.nodes().len() < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });

    // A request to another node, whose handler publishes; one that fails says so.
    let sent = async { caller.send(Order(1)).await };
    let answer = runtime.block_on(sent.instrument(info_span!("root")));
    assert_eq!(answer.unwrap(), "other");
    let spans = trace(&told, 7);
    follows(&spans, "send Order", "root");
    follows(&spans, "process Order", "send Order");
    for event in ["Created", "Shipped"] {
        follows(&spans, &format!("publish {event}"), "process Order");
        follows(
            &spans,
            &format!("process {event}"),
            &format!("publish {event}"),
        );
    }
    let kinds = [
        "send Order",
        "process Order",
        "publish Shipped",
        "process Shipped",
    ];
    let kinds = kinds.map(|name| spans[name].span_kind.clone());
    let expected = [
        SpanKind::Client,
        SpanKind::Server,
        SpanKind::Producer,
        SpanKind::Consumer,
    ];
    assert_eq!(kinds, expected);
    let failed = &spans["process Shipped"];
    assert!(matches!(failed.status, Status::Error { .. }), "{failed:?}");
    assert!(matches!(spans["process Order"].status, Status::Unset));

    // Without a span around it a publish begins a trace; each of these is one of its own.
    let published = async { caller.publish_many([Created(3)]).await };
    assert!(runtime.block_on(published).iter().all(Result::is_ok));
    let spans = trace(&told, 2);
    follows(&spans, "process Created", "publish Created");

    // Where a handler publishes in a task without its span, and where others say whose child a message is, that counts.
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let message = caller.message(Shipped(2)).id(MessageId::new());
    let message = message.header(Headers::TRACEPARENT, parent);
    runtime.block_on(message.publish()).unwrap();
    let spans = trace(&told, 4);
    let process = &spans["process Shipped"];
    assert_eq!(process.parent_span_id.to_string(), "00f067aa0ba902b7");
    for name in ["process Shipped", "publish Created", "process Created"] {
        let id = spans[name].span_context.trace_id().to_string();
        assert_eq!(id, "4bf92f3577b34da6a3ce929d0e0e4736", "{name}");
    }
    drop(provider);
}
