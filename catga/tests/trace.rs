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
use opentelemetry::KeyValue;
use opentelemetry::baggage::BaggageExt;
use opentelemetry::trace::{SpanKind, Status, TracerProvider};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tracing::{Instrument, Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
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

#[derive(Request, Serialize, Deserialize)]
#[response((String, String))]
struct Tenant;

/// The baggage of the handler's span, and that of what it sends on its way.
#[handler]
async fn tenant(_: Tenant, ctx: Context) -> Result<(String, String)> {
    let here = Span::current().context().baggage().to_string();
    let further = ctx.send_to("caller", Baggage).await?;
    Ok((here, further))
}

#[derive(Request, Serialize, Deserialize)]
#[response(String)]
struct Baggage;

#[handler]
async fn baggage(_: Baggage, headers: Headers) -> Result<String> {
    Ok(headers.get("baggage").unwrap_or_default().to_owned())
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

/// What stands under a name of OpenTelemetry's; nothing where the span has none.
fn attribute(span: &SpanData, name: &str) -> String {
    let found = span.attributes.iter().find(|a| a.key.as_str() == name);
    found.map_or(String::new(), |found| found.value.to_string())
}

/// The operation, its type, and the destination, of one system.
fn operation(span: &SpanData) -> [String; 3] {
    assert_eq!(attribute(span, "messaging.system"), "memory");
    let names = ["operation.name", "operation.type", "destination.name"];
    names.map(|name| attribute(span, &format!("messaging.{name}")))
}

async fn node(id: &str, handlers: catga::Handlers) -> Catga {
    let node = Catga::builder()
        .connect("memory://trace")
        .service("shop")
        .node(id);
    node.handlers(handlers).start().await.unwrap()
}

fn baggage_goes_along(runtime: &Runtime, caller: &Catga, told: &Receiver<SpanData>) {
    let root = info_span!("root");
    let tenant = KeyValue::new("tenant", "a, b");
    let packed = opentelemetry::Context::new().with_baggage([tenant]);
    root.set_parent(packed).unwrap();
    let sent = async { caller.send(Tenant).await };
    let answer = runtime.block_on(sent.instrument(root)).unwrap();
    let written = "tenant=a%2C%20b".to_owned();
    assert_eq!(answer, (written.clone(), written));
    let spans = trace(told, 5);
    follows(&spans, "process Baggage", "send Baggage");
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
    let runtime = Runtime::new().unwrap();

    let caller = runtime.block_on(node("caller", handlers![baggage]));
    let handlers = handlers![order, created, shipped, tenant];
    let _other = runtime.block_on(node("other", handlers));
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

    let id = |name: &str| attribute(&spans[name], "messaging.message.id");
    for (out, arrived) in [
        ("send Order", "process Order"),
        ("publish Shipped", "process Shipped"),
    ] {
        assert!(!id(out).is_empty());
        assert_eq!(id(out), id(arrived));
        let (operation_out, destination) = out.split_once(' ').unwrap();
        assert_eq!(operation(&spans[out]), [operation_out, "send", destination]);
        assert_eq!(
            operation(&spans[arrived]),
            ["process", "process", destination]
        );
        // It is linked to where the message was made.
        let [link] = &spans[arrived].links.links[..] else {
            panic!("{:?}", spans[arrived].links);
        };
        let made = &spans[out].span_context;
        assert_eq!(link.span_context.span_id(), made.span_id());
        assert!(spans[out].links.links.is_empty());
    }
    let group = attribute(failed, "messaging.consumer.group.name");
    assert_eq!(group, "shop.Shipped");

    // Without a span around it a publish begins a trace; each of these is one of its own.
    let published = async { caller.publish_many([Created(3)]).await };
    assert!(runtime.block_on(published).iter().all(Result::is_ok));
    let spans = trace(&told, 2);
    follows(&spans, "process Created", "publish Created");
    let count = "messaging.batch.message_count";
    assert_eq!(attribute(&spans["publish Created"], count), "1");
    assert_eq!(attribute(&spans["process Created"], count), "");

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
    let [link] = &spans["publish Shipped"].links.links[..] else {
        panic!("a publish is linked to the parent that was chosen for its message");
    };
    assert_eq!(link.span_context.span_id().to_string(), "00f067aa0ba902b7");

    baggage_goes_along(&runtime, &caller, &told);
    drop(provider);
}
