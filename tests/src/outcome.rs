//! What became of a scenario on a backend.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;

use catga::{Capability, Error, ErrorKind, HandlerError};
use catga_core::Capabilities;

use crate::harness::PLANNED;

/// What became of a scenario on a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The rule holds.
    Passed,
    /// The backend does not claim this ability, and said so by a typed error.
    Refused(Capability),
    /// It could not be run, for this reason.
    NotRun(String),
    /// The rule does not hold.
    Failed(Failure),
}

/// How it was seen that a rule does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The line whose check failed, where a check did.
    pub at: Option<String>,
    /// What went wrong, in words.
    pub text: String,
    /// Whether a check saw it: not where the time was up, or the backend could not be reached as it was asked for.
    pub is_evidence: bool,
}

/// Errors of those who ask for something that is not there, whatever the rule.
fn says_nothing(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Config | ErrorKind::Connect)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Some(at) => write!(f, "{at}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// What a backend lacks that is no ability, so that a scenario means nothing on it.
#[derive(Debug)]
pub(crate) struct Lacking(pub(crate) String);

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Lacking {}

impl Outcome {
    /// Of an error that a scenario ended with. A refusal counts only when it is typed, and names an ability that
    /// the backend does not claim.
    pub(crate) fn of_error(error: &HandlerError, claimed: Capabilities) -> Self {
        if let Some(lacking) = error.cause().downcast_ref::<Lacking>() {
            return Self::NotRun(lacking.0.clone());
        }
        let refused = error
            .as_catga()
            .filter(|error| error.kind() == ErrorKind::Unsupported);
        let missing = refused.and_then(|error| {
            let named = error.context("capability")?;
            let is_it = |capability: &Capability| {
                !claimed.has(*capability) && capability.to_string() == named
            };
            Capability::ALL.iter().copied().find(is_it)
        });
        match missing {
            Some(capability) => Self::Refused(capability),
            None => Self::Failed(Failure {
                at: None,
                text: format!("{error:?}"),
                is_evidence: !error.as_catga().is_some_and(says_nothing),
            }),
        }
    }
}

thread_local! {
    static PRINTS: Cell<bool> = const { Cell::new(true) };
    static PANICKED_AT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Whether panics of this thread are printed.
pub(crate) fn print_panics(print: bool) {
    PRINTS.set(print);
}

/// Notes from now on where threads panic, for the failures of scenarios, and does not print what they planned.
pub(crate) fn note_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if text_of(panic.payload()).is_some_and(|text| text.starts_with(PLANNED)) {
            return;
        }
        let at = panic.location().map(ToString::to_string);
        PANICKED_AT.with_borrow_mut(|last| *last = at);
        if PRINTS.get() {
            print(panic);
        }
    }));
}

fn text_of(payload: &(dyn Any + Send)) -> Option<&str> {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}

impl Failure {
    /// Of the panic that ended this thread's scenario.
    pub(crate) fn of_panic(payload: &(dyn Any + Send)) -> Self {
        Self {
            at: PANICKED_AT.with_borrow_mut(Option::take),
            text: text_of(payload).unwrap_or("it panicked").to_owned(),
            is_evidence: true,
        }
    }
}
