//! In the place of `trace.rs` where the feature is off: a handler has its span, and nothing is said of it to other nodes.

use catga_core::{Error, Headers, MessageId};
use tracing::{Instrument, Span, field};

use crate::Context;
use crate::guard::Failure;
use crate::table::Entry;

/// What is published and sent has no span.
pub(crate) struct NoSpan;

#[allow(
    clippy::unused_self,
    reason = "a span has the same form where the feature is on"
)]
impl NoSpan {
    #[inline]
    pub(crate) fn in_scope<T>(&self, work: impl FnOnce() -> T) -> T {
        work()
    }
}

/// The span of one handling ([OpenTelemetry, messaging spans](https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/)).
#[inline]
pub(crate) fn processing(system: &'static str, entry: &Entry, id: Option<MessageId>) -> Span {
    tracing::info_span!(
        "process",
        messaging.system = system,
        messaging.operation.name = "process",
        messaging.operation.type = "process",
        messaging.destination.name = entry.message.as_str(),
        messaging.consumer.group.name = entry.group.as_str(),
        messaging.message.id = id.map(field::display),
    )
}

#[inline]
pub(crate) fn publishing(
    _: &'static str,
    _: &str,
    _: Option<usize>,
    _: Option<&Context>,
) -> NoSpan {
    NoSpan
}

#[inline]
pub(crate) fn sending(_: &'static str, _: &str, _: Option<&Context>) -> NoSpan {
    NoSpan
}

#[inline]
pub(crate) fn identified(_: Option<MessageId>) {}

#[inline]
pub(crate) fn follow(_: &Span, _: &Headers) {}

#[inline]
pub(crate) fn ended<T>(_: &Span, _: &Result<T, Failure>) {}

#[inline]
pub(crate) fn finished<T>(
    span: Span,
    run: impl Future<Output = Result<T, Failure>>,
) -> impl Future<Output = Result<T, Failure>> {
    run.instrument(span)
}

#[inline]
pub(crate) fn around<F: Future>(_: &NoSpan, work: F) -> F {
    work
}

#[inline]
pub(crate) fn end(_: NoSpan) {}

#[inline]
pub(crate) fn within<T>(
    _: NoSpan,
    work: impl Future<Output = Result<T, Error>>,
) -> impl Future<Output = Result<T, Error>> {
    work
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "where the feature is on it can fail"
)]
#[inline]
pub(crate) fn inject(_: &mut Headers) -> Result<(), Error> {
    Ok(())
}
