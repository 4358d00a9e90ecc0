//! What a worker hears of leases that it lost. On a machine that lets it wait for longer than a lease another takes over what it handles;
//! its handler has ended when it is told, so that the runtime tells its log.

use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;

use catga::{ErrorKind, MessageId};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::evidence::{Evidence, What};
use crate::worker::CREW;

static NOTES: OnceLock<UnboundedSender<Note>> = OnceLock::new();

enum Note {
    /// A run of a message began.
    Began { message: String, id: u64, run: u64 },
    /// A message could not be settled, since it is another's.
    Lost { message: String },
}

/// Listens to the log of this process, and writes down what is lost.
pub(crate) fn listen(evidence: Evidence) {
    let (notes, heard) = unbounded_channel();
    let first = NOTES.set(notes).is_ok() && tracing::subscriber::set_global_default(Ears).is_ok();
    assert!(first, "somebody else hears the log of this process");
    tokio::spawn(write_down(evidence, heard));
}

/// Notes that a run began, where somebody listens.
pub(crate) fn began(message: MessageId, id: u64, run: u64) {
    let message = message.to_string();
    note(Note::Began { message, id, run });
}

fn note(note: Note) {
    if let Some(notes) = NOTES.get() {
        // Who listens ends with the process.
        let _ = notes.send(note);
    }
}

async fn write_down(evidence: Evidence, mut heard: UnboundedReceiver<Note>) {
    let mut runs = HashMap::new();
    while let Some(note) = heard.recv().await {
        match note {
            Note::Began { message, id, run } => {
                runs.insert(message, (id, run));
            }
            Note::Lost { message } => {
                if let Some((id, run)) = runs.remove(&message) {
                    let written = evidence.write((CREW, id), What::LeaseLost { run });
                    written.expect("the evidence can be written");
                }
            }
        }
    }
}

struct Ears;

#[derive(Default)]
struct Unsettled {
    message: Option<String>,
    kind: Option<String>,
}

impl Visit for Unsettled {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "messaging.message.id" => self.message = Some(format!("{value:?}")),
            "kind" => self.kind = Some(format!("{value:?}")),
            _ => {}
        }
    }
}

impl Subscriber for Ears {
    fn enabled(&self, about: &Metadata<'_>) -> bool {
        about.is_event() && *about.level() == Level::WARN && about.target() == "catga::settle"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut unsettled = Unsettled::default();
        event.record(&mut unsettled);
        if let (Some(message), Some(kind)) = (unsettled.message, unsettled.kind)
            && kind == ErrorKind::LostOwnership.to_string()
        {
            note(Note::Lost { message });
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
