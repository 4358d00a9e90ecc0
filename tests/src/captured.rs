//! What is logged on one thread.

use std::fmt::{self, Write as _};
use std::sync::{Arc, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Level, Metadata, Subscriber};

/// Takes down all that this thread logs, at every level, until it is dropped.
pub(crate) struct Captured {
    lines: Lines,
    _guard: DefaultGuard,
}

#[allow(
    clippy::disallowed_types,
    reason = "a test's notebook: no message of the framework passes through it"
)]
#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<(Level, String)>>>);

impl Captured {
    /// From now on.
    pub(crate) fn start() -> Self {
        let lines = Lines::default();
        let guard = tracing::subscriber::set_default(Taker(lines.clone()));
        Self {
            lines,
            _guard: guard,
        }
    }

    /// The lines so far.
    pub(crate) fn lines(&self) -> Vec<(Level, String)> {
        let lines = self.lines.0.lock();
        lines.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Lines {
    fn add(&self, level: Level, text: String) {
        let lines = self.0.lock();
        lines
            .unwrap_or_else(PoisonError::into_inner)
            .push((level, text));
    }
}

struct Taker(Lines);

/// The fields of an event or span, in words.
#[derive(Default)]
struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, " {field}={value:?}").expect("a string takes all");
    }
}

impl Subscriber for Taker {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields::default();
        span.record(&mut fields);
        let name = span.metadata().name();
        self.0
            .add(*span.metadata().level(), format!("{name}{}", fields.0));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        self.0.add(Level::TRACE, fields.0);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let about = event.metadata();
        self.0
            .add(*about.level(), format!("{}{}", about.target(), fields.0));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
