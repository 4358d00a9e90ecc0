//! What is logged on one thread.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::sync::OnceLock;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

thread_local! {
    /// What this thread logs, while somebody wants to know.
    static LINES: RefCell<Option<Vec<(Level, String)>>> = const { RefCell::new(None) };
}

/// Takes down all that this thread logs, at every level, until it is dropped.
///
/// The subscriber is that of the whole process: one of a thread alone is not asked where another thread was the first to log the
/// same.
pub(crate) struct Captured(());

impl Captured {
    /// From now on.
    pub(crate) fn start() -> Self {
        static INSTALLED: OnceLock<bool> = OnceLock::new();
        let install = || tracing::subscriber::set_global_default(Taker).is_ok();
        let installed = *INSTALLED.get_or_init(install);
        assert!(
            installed,
            "somebody else takes down the log of this process"
        );
        LINES.set(Some(Vec::new()));
        Self(())
    }

    /// The lines so far.
    #[expect(clippy::unused_self, reason = "without one there are none")]
    pub(crate) fn lines(&self) -> Vec<(Level, String)> {
        LINES.with_borrow(|lines| lines.clone().unwrap_or_default())
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        LINES.set(None);
    }
}

fn add(level: Level, text: String) {
    LINES.with_borrow_mut(|lines| {
        if let Some(lines) = lines {
            lines.push((level, text));
        }
    });
}

struct Taker;

/// The fields of an event or span, in words.
#[derive(Default)]
struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, " {field}={value:?}").expect("a string takes all");
    }
}

impl Subscriber for Taker {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        LINES.with_borrow(Option::is_some)
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields::default();
        span.record(&mut fields);
        let name = span.metadata().name();
        add(*span.metadata().level(), format!("{name}{}", fields.0));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        add(Level::TRACE, fields.0);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let about = event.metadata();
        let (target, fields) = (about.target(), fields.0);
        add(*about.level(), format!("{target}{fields}"));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
