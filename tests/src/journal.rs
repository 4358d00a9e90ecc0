//! What handlers did, written down as it happens.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use catga::Context;
use catga::prelude::Result;
use tokio::time::Instant;

use crate::harness::wait_until;

/// The notes of all handlers of a scenario. Clones share them.
#[allow(
    clippy::disallowed_types,
    reason = "a test's notebook: no message of the framework passes through it"
)]
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal(Arc<std::sync::Mutex<Vec<Note>>>);

/// One step of one handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) step: Step,
    /// The handler's name.
    pub(crate) handler: &'static str,
    /// The node that it runs on.
    pub(crate) node: String,
    /// The number in the message.
    pub(crate) id: u32,
    /// Which attempt it is.
    pub(crate) attempt: u32,
    pub(crate) at: Instant,
}

/// What a handler came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Started,
    Done,
    Failed,
    /// Panicked, or was dropped half-way.
    Dropped,
}

impl Journal {
    /// A part that always succeeds.
    pub(crate) fn plain(&self) -> Play {
        self.play(|_| async { Ok(()) })
    }

    /// A part that does what `script` says.
    pub(crate) fn play<F>(&self, script: impl Fn(Scene) -> F + Send + Sync + 'static) -> Play
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        Play {
            journal: self.clone(),
            script: Arc::new(move |scene| Box::pin(script(scene))),
        }
    }

    /// The notes so far.
    pub(crate) fn notes(&self) -> Vec<Note> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn write(&self, note: Note) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(note);
    }

    /// The notes of one kind.
    pub(crate) fn all(&self, step: Step) -> Vec<Note> {
        let mut notes = self.notes();
        notes.retain(|note| note.step == step);
        notes
    }

    /// How often the handlers came to this.
    pub(crate) fn count(&self, step: Step) -> usize {
        self.all(step).len()
    }

    /// The starts of one message's handler.
    pub(crate) fn starts(&self, id: u32) -> Vec<Note> {
        let mut notes = self.all(Step::Started);
        notes.retain(|note| note.id == id);
        notes
    }

    /// The messages that were handled, sorted, each as often as it was.
    pub(crate) fn handled(&self) -> Vec<u32> {
        let mut ids: Vec<_> = self
            .all(Step::Done)
            .into_iter()
            .map(|note| note.id)
            .collect();
        ids.sort_unstable();
        ids
    }

    /// The messages that one handler handled, sorted, each as often as it was.
    pub(crate) fn handled_by(&self, handler: &str) -> Vec<u32> {
        let mut notes = self.all(Step::Done);
        notes.retain(|note| note.handler == handler);
        let mut ids: Vec<_> = notes.into_iter().map(|note| note.id).collect();
        ids.sort_unstable();
        ids
    }

    /// How many messages each node handled.
    pub(crate) fn shares(&self) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for note in self.all(Step::Done) {
            *shares.entry(note.node).or_default() += 1;
        }
        shares
    }

    /// How many handlers run now.
    pub(crate) fn running(&self) -> usize {
        let notes = self.notes();
        let started = notes
            .iter()
            .filter(|note| note.step == Step::Started)
            .count();
        2 * started - notes.len()
    }

    /// Waits until so many handlers came to this.
    #[track_caller]
    pub(crate) fn wait(
        &self,
        step: Step,
        count: usize,
        limit: Duration,
    ) -> impl Future<Output = ()> {
        let what = format!("{count} times {step:?}");
        wait_until(what, limit, move || self.count(step) >= count)
    }
}

/// The part of a handler: what it does, and where it is written down. Given to nodes as state.
#[derive(Clone)]
pub(crate) struct Play {
    journal: Journal,
    script: Arc<Script>,
}

type Script = dyn Fn(Scene) -> Pin<Box<dyn Future<Output = Result<()>> + Send>> + Send + Sync;

/// What a script sees.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) id: u32,
    pub(crate) attempt: u32,
    pub(crate) context: Context,
}

impl Play {
    /// Plays the part for one message.
    pub(crate) async fn act(
        &self,
        handler: &'static str,
        id: u32,
        context: &Context,
    ) -> Result<()> {
        let attempt = context.attempt().number();
        let mut act = Act {
            journal: &self.journal,
            note: Note {
                step: Step::Started,
                handler,
                node: context.node().to_string(),
                id,
                attempt,
                at: Instant::now(),
            },
        };
        self.journal.write(act.note.clone());
        act.note.step = Step::Dropped;
        let outcome = (self.script)(Scene {
            id,
            attempt,
            context: context.clone(),
        })
        .await;
        act.note.step = if outcome.is_ok() {
            Step::Done
        } else {
            Step::Failed
        };
        outcome
    }
}

/// Writes the end of a handler, however it comes.
struct Act<'a> {
    journal: &'a Journal,
    note: Note,
}

impl Drop for Act<'_> {
    fn drop(&mut self) {
        let note = Note {
            at: Instant::now(),
            ..self.note.clone()
        };
        self.journal.write(note);
    }
}
