//! `--trace`: each span is a line of JSON on standard output, so that a trace over several nodes can be read from what they write.
//!
//! A real service has an exporter in the place of [`Lines`], `opentelemetry-otlp` for one; the rest stays as it is.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName};
use opentelemetry::baggage::BaggageExt;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Span as _, SpanId, SpanKind, Status, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};
use opentelemetry_sdk::trace::{SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor};
use serde::Serialize;
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;

/// Writes spans from here on, until the process ends.
pub(crate) fn install(node: &str) -> Result<(), String> {
    let lines = Lines {
        node: node.to_owned(),
    };
    let provider = SdkTracerProvider::builder()
        .with_span_processor(Labels)
        .with_simple_exporter(lines);
    // The layer keeps it.
    let tracer = provider.build().tracer("cluster");
    let layer = tracing_opentelemetry::layer().with_tracer(tracer);
    let spans = tracing_subscriber::registry()
        .with(LevelFilter::INFO)
        .with(layer);
    tracing::subscriber::set_global_default(spans).map_err(|error| error.to_string())
}

/// Answers an HTTP request within a span, which goes on with the trace of whoever asks.
pub(crate) async fn within<T>(
    route: &'static str,
    headers: &HeaderMap,
    work: impl Future<Output = T>,
) -> T {
    let span = tracing::info_span!("http", otel.name = route, otel.kind = "server");
    if !span.is_disabled() {
        let carrier = Carrier(headers);
        let caller = TraceContextPropagator::new().extract(&carrier);
        let caller = BaggagePropagator::new().extract_with_context(&caller, &carrier);
        // It was made just now, and not entered.
        let _ = span.set_parent(caller);
    }
    work.instrument(span).await
}

struct Carrier<'a>(&'a HeaderMap);

impl Extractor for Carrier<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

/// Labels each span with the baggage that it goes on with.
#[derive(Debug)]
struct Labels;

impl SpanProcessor for Labels {
    fn on_start(&self, span: &mut Span, context: &Context) {
        for (key, (value, _)) in context.baggage() {
            span.set_attribute(KeyValue::new(format!("baggage.{key}"), value.clone()));
        }
    }

    fn on_end(&self, _: SpanData) {}

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

#[derive(Debug)]
struct Lines {
    node: String,
}

/// What is written of a span.
#[derive(Serialize)]
struct Line<'a> {
    node: &'a str,
    span: &'a str,
    kind: &'static str,
    trace_id: String,
    span_id: String,
    /// Of the first of a trace there is none.
    parent_span_id: Option<String>,
    micros: u128,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    attributes: BTreeMap<&'a str, String>,
}

impl SpanExporter for Lines {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        for span in &batch {
            let line = serde_json::to_string(&self.line(span));
            let line = line.expect("a span can be written as JSON");
            crate::print(format!("{line}\n"));
        }
        Ok(())
    }
}

impl Lines {
    fn line<'a>(&'a self, span: &'a SpanData) -> Line<'a> {
        let parent = span.parent_span_id;
        let took = span.end_time.duration_since(span.start_time);
        let shown = ["messaging.", "baggage."];
        let attributes = span.attributes.iter().filter_map(|attribute| {
            let name = attribute.key.as_str();
            let is_shown = shown.iter().any(|begins| name.starts_with(begins));
            is_shown.then(|| (name, attribute.value.to_string()))
        });
        Line {
            node: &self.node,
            span: &span.name,
            kind: match span.span_kind {
                SpanKind::Client => "client",
                SpanKind::Server => "server",
                SpanKind::Producer => "producer",
                SpanKind::Consumer => "consumer",
                SpanKind::Internal => "internal",
            },
            trace_id: span.span_context.trace_id().to_string(),
            span_id: span.span_context.span_id().to_string(),
            parent_span_id: (parent != SpanId::INVALID).then(|| parent.to_string()),
            micros: took.map_or(0, |took| took.as_micros()),
            error: match &span.status {
                Status::Error { description } => Some(description),
                _ => None,
            },
            attributes: attributes.collect(),
        }
    }
}
