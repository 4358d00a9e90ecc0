//! Traces over OpenTelemetry: what is published or sent carries the context of its span, and the span of its handler goes on with it
//! ([W3C Trace Context](https://www.w3.org/TR/trace-context/)), and with its baggage ([W3C Baggage](https://www.w3.org/TR/baggage/)).
//!
//! The spans themselves are those of `tracing`, with the names and kinds of OpenTelemetry's [messaging conventions]; which of
//! them belong to a trace is said by the layer of `tracing-opentelemetry`. Without one there is none, and nothing is carried.
//!
//! [messaging conventions]: https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/

use catga_core::{Error, Headers, MessageId};
use opentelemetry::Context;
use opentelemetry::baggage::{Baggage, BaggageExt, KeyValueMetadata};
use opentelemetry::trace::{
    SpanContext, SpanId, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
};
use percent_encoding::percent_decode_str;
use tracing::field::Empty;
use tracing::{Instrument, Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::guard::Failure;
use crate::origin::BAGGAGE;
use crate::table::Entry;

const TRACESTATE: &str = "tracestate";
/// A layer that has no more to say leaves it out, rather than be refused by the next.
const MAX_STATE_BYTES: usize = 512;

/// The span of one handling.
#[inline]
pub(crate) fn processing(system: &'static str, entry: &Entry, id: Option<MessageId>) -> Span {
    let kind = if entry.is_request() {
        "server"
    } else {
        "consumer"
    };
    tracing::info_span!(
        "process",
        otel.name = format_args!("process {}", entry.message),
        otel.kind = kind,
        messaging.system = system,
        messaging.operation.name = "process",
        messaging.operation.type = "process",
        messaging.destination.name = entry.message.as_str(),
        messaging.consumer.group.name = entry.group.as_str(),
        messaging.message.id = id.map(field::display),
    )
}

/// The span of a publish, of one event or so many `together`.
#[inline]
pub(crate) fn publishing(
    system: &'static str,
    name: &str,
    together: Option<usize>,
    origin: Option<&crate::Context>,
) -> Span {
    let span = tracing::info_span!(
        "publish",
        otel.name = format_args!("publish {name}"),
        otel.kind = "producer",
        messaging.system = system,
        messaging.operation.name = "publish",
        messaging.operation.type = "send",
        messaging.destination.name = name,
        messaging.message.id = Empty,
        messaging.batch.message_count = together,
    );
    go_on(span, origin)
}

/// The span of a request that leaves its node, over all its tries.
#[inline]
pub(crate) fn sending(system: &'static str, name: &str, origin: Option<&crate::Context>) -> Span {
    let span = tracing::info_span!(
        "send",
        otel.name = format_args!("send {name}"),
        otel.kind = "client",
        messaging.system = system,
        messaging.operation.name = "send",
        messaging.operation.type = "send",
        messaging.destination.name = name,
        messaging.message.id = Empty,
    );
    go_on(span, origin)
}

/// Notes in the present span, which is that of one message, which id this has.
#[inline]
pub(crate) fn identified(id: Option<MessageId>) {
    if let Some(id) = id {
        Span::current().record("messaging.message.id", field::display(id));
    }
}

/// What a handler publishes or sends from a task without its span belongs to the same trace as the handler.
fn go_on(span: Span, origin: Option<&crate::Context>) -> Span {
    if let Some(origin) = origin
        && !span.is_disabled()
        && Span::current().is_disabled()
    {
        go_on_from(&span, origin.headers());
    }
    span
}

/// Goes on with the trace of a message, where it has one. Before the span is entered.
#[inline]
pub(crate) fn follow(span: &Span, headers: &Headers) {
    if !span.is_disabled()
        && !headers.is_empty()
        && let Some(parent) = go_on_from(span, headers)
    {
        // Who looks for where a message was made looks for a link: only some have a parent.
        span.add_link(parent);
    }
}

fn go_on_from(span: &Span, headers: &Headers) -> Option<SpanContext> {
    let (parent, baggage) = (read(headers), headers.get(BAGGAGE).map(unpack));
    let mut context = Context::new();
    if let Some(parent) = &parent {
        context = context.with_remote_span_context(parent.clone());
    }
    let has_baggage = baggage.is_some();
    if let Some(baggage) = baggage {
        context = context.with_baggage(baggage);
    }
    if parent.is_some() || has_baggage {
        // Without a layer that knows of traces there is nothing to go on with.
        let _ = span.set_parent(context);
    }
    parent
}

/// Says how a handling ended.
#[inline]
pub(crate) fn ended<T>(span: &Span, outcome: &Result<T, Failure>) {
    if let Err(failure) = outcome
        && !span.is_disabled()
    {
        span.set_attribute("error.type", failure.kind().as_str());
        span.set_status(Status::error(failure.to_string()));
    }
}

/// Waits for a handler within its span, and says how it ended.
pub(crate) async fn finished<T>(
    span: Span,
    run: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let outcome = run.instrument(span.clone()).await;
    ended(&span, &outcome);
    outcome
}

/// Does something within a span.
pub(crate) fn around<F: Future>(span: &Span, work: F) -> impl Future<Output = F::Output> + use<F> {
    work.instrument(span.clone())
}

/// Ends a span.
pub(crate) fn end(span: Span) {
    drop(span);
}

/// Does something within a span, and says how it ended.
pub(crate) async fn within<T>(
    span: Span,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let outcome = work.instrument(span.clone()).await;
    if let Err(error) = &outcome
        && !span.is_disabled()
    {
        span.set_attribute("error.type", error.kind().as_str());
        span.set_status(Status::error(error.to_string()));
    }
    outcome
}

/// Gives the present span and its baggage to a message, unless somebody chose others for it: then the span is linked to that.
#[inline]
pub(crate) fn inject(headers: &mut Headers) -> Result<(), Error> {
    let span = Span::current();
    if span.is_disabled() {
        return Ok(());
    }
    let context = span.context();
    if headers.get(Headers::TRACEPARENT).is_none() {
        let present = context.span();
        let present = present.span_context();
        if present.is_valid() {
            write(present, headers)?;
        }
    } else if let Some(chosen) = read(headers) {
        span.add_link(chosen);
    }
    let baggage = context.baggage();
    if !baggage.is_empty() && headers.get(BAGGAGE).is_none() {
        // What is no header, or too much for one, is left out rather than refused.
        let _ = headers.insert(BAGGAGE, baggage.to_string());
    }
    Ok(())
}

/// Baggage as it was written. What is written wrongly is left out of it, as the standard wants it.
fn unpack(text: &str) -> Baggage {
    let members = text.split(',').filter_map(|member| {
        let (member, properties) = member.split_once(';').unwrap_or((member, ""));
        let (key, value) = member.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        let key = key.trim().to_owned();
        Some(KeyValueMetadata::new(
            key,
            value.into_owned(),
            properties.trim(),
        ))
    });
    members.collect()
}

fn write(context: &SpanContext, headers: &mut Headers) -> Result<(), Error> {
    let (trace, span) = (context.trace_id(), context.span_id());
    let sampled = u8::from(context.is_sampled());
    headers.insert(
        Headers::TRACEPARENT,
        format!("00-{trace:032x}-{span:016x}-{sampled:02x}"),
    )?;
    let state = context.trace_state().header();
    if !state.is_empty() && state.len() <= MAX_STATE_BYTES {
        headers.insert(TRACESTATE, state)?;
    }
    Ok(())
}

/// The span that a message says it follows from. One that is written wrongly counts as none, as the standard wants it.
fn read(headers: &Headers) -> Option<SpanContext> {
    let parent = headers.get(Headers::TRACEPARENT)?;
    let mut parts = parent.split('-');
    let mut part = |digits| {
        let part = parts.next()?;
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (part.len() == digits && part.bytes().all(is_hex)).then_some(part)
    };
    let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    // Later versions may have more parts; this one has none.
    if version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let trace = TraceId::from_hex(trace).ok()?;
    let span = SpanId::from_hex(span).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let state = headers.get(TRACESTATE).map(str::parse::<TraceState>);
    let state = state.and_then(Result::ok).unwrap_or_default();
    let context = SpanContext::new(trace, span, flags, true, state);
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(parent: &str) -> Headers {
        let mut headers = Headers::new();
        headers.insert(Headers::TRACEPARENT, parent).unwrap();
        headers
    }

    #[test]
    fn a_context_is_read_as_it_was_written() {
        // The example of the standard.
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let mut from = headers(text);
        from.insert(TRACESTATE, "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")
            .unwrap();
        let context = read(&from).unwrap();
        assert!(context.is_remote() && context.is_sampled());
        let mut to = Headers::new();
        write(&context, &mut to).unwrap();
        assert_eq!(to, from);
        // Without a state, and not sampled.
        let text = text.replace("-01", "-00");
        let context = read(&headers(&text)).unwrap();
        let mut to = Headers::new();
        write(&context, &mut to).unwrap();
        assert_eq!(to, headers(&text));
    }

    #[test]
    fn baggage_is_read_as_it_was_written_and_what_is_wrong_in_it_is_left_out() {
        let mut packed = Baggage::new();
        packed.insert("tenant", "a, b; c=\u{e9}%");
        packed.insert_with_metadata("user", "7", "ttl=3;private");
        let read = unpack(&packed.to_string());
        assert_eq!(read.len(), 2);
        for (key, value) in &packed {
            assert_eq!(read.get_with_metadata(key), Some(value));
        }
        let text = " a = 1 , b , =2, c d=3, e=%ff, f=x=y;p";
        let read = unpack(text);
        let get = |key| read.get(key).map(|value| value.as_str().to_owned());
        assert_eq!(
            (get("a"), get("f")),
            (Some("1".to_owned()), Some("x=y".to_owned()))
        );
        assert_eq!(read.len(), 2, "{read:?}");
        assert!(unpack("").is_empty() && unpack(&"x=y,".repeat(10_000)).len() == 1);
    }

    #[test]
    fn what_is_written_wrongly_is_no_context() {
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        for wrong in [
            "x".to_owned(),
            format!("00-{trace}-{span}"),
            format!("ff-{trace}-{span}-01"),
            format!("00-{trace}-{span}-01-more"),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{trace}-{span}-1"),
            format!("00-+{}-{span}-01", &trace[1..]),
            format!("00-{trace}-{span}-\u{e9}"),
        ] {
            assert!(read(&headers(&wrong)).is_none(), "{wrong}");
        }
        assert!(read(&Headers::new()).is_none());
        // A later version, of which we know the beginning.
        let later = headers(&format!("01-{trace}-{span}-01-more"));
        assert!(read(&later).is_some());
    }
}
