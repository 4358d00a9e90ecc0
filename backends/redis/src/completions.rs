//! Completions of claims, collected while the ones before are on their way: one script for many.

use std::sync::Arc;

use catga_core::Error;
use tokio::sync::{mpsc, oneshot};

use crate::error;
use crate::pending::{Pending, Underway};
use crate::receipt::Held;
use crate::script;
use crate::server::Server;
use crate::source::Source;
use crate::value;
use crate::wire::EntryId;

/// The most claims of one script: the server does nothing else meanwhile, for less than a millisecond.
const BATCH: usize = 128;

/// The completions of one member.
#[derive(Debug)]
pub(crate) struct Completions {
    /// Bounded by the places of the member.
    queue: mpsc::UnboundedSender<Handled>,
    pending: Arc<Pending>,
}

/// A message that was handled, to be acked with its claim.
#[derive(Debug)]
struct Handled {
    source: Arc<Source>,
    id: EntryId,
    held: Held,
    told: oneshot::Sender<Result<(), Error>>,
    _underway: Underway,
}

impl Completions {
    /// Starts the task that tells the server. It ends when this is dropped.
    pub(crate) fn spawn(server: &Arc<Server>, group: &str) -> Self {
        let (queue, handled) = mpsc::unbounded_channel();
        tokio::spawn(tell_all(Arc::clone(server), group.to_owned(), handled));
        Self {
            queue,
            pending: Arc::clone(&server.pending),
        }
    }

    /// Completes a claim and acks its entry. Begun when this returns; the future says how it ended.
    pub(crate) fn complete(
        &self,
        source: &Arc<Source>,
        id: EntryId,
        held: Held,
    ) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let (told, end) = oneshot::channel();
        // Where nobody takes it any more the sender goes with it, and the future says so.
        let _ = self.queue.send(Handled {
            source: Arc::clone(source),
            id,
            held,
            told,
            _underway: self.pending.begin(),
        });
        async move {
            end.await
                .unwrap_or_else(|_| Err(error::closed_meanwhile("settle")))
        }
    }
}

async fn tell_all(
    server: Arc<Server>,
    group: String,
    mut handled: mpsc::UnboundedReceiver<Handled>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while handled.recv_many(&mut batch, BATCH).await > 0 {
        while let Some(first) = batch.first() {
            let source = Arc::clone(&first.source);
            let (same, others) = batch
                .drain(..)
                .partition(|handled: &Handled| Arc::ptr_eq(&handled.source, &source));
            batch = others;
            tell(&server, &group, &source, same).await;
        }
    }
}

/// One script for one stream; every claim has an outcome of its own.
async fn tell(server: &Server, group: &str, source: &Source, batch: Vec<Handled>) {
    let mut call = script::COMPLETE_ALL.call(1 + batch.len());
    call.arg(&source.stream);
    for handled in &batch {
        call.arg(&handled.held.key);
    }
    call.arg(group);
    for handled in &batch {
        call.arg(handled.id).arg(&handled.held.owner);
    }
    let ran = server.run("settle", &source.stream, &script::COMPLETE_ALL, &call);
    let ran = ran.await.map(value::list);
    for (number, handled) in batch.into_iter().enumerate() {
        let outcome = match &ran {
            Ok(told) if told.get(number).and_then(value::int) == Some(1) => Ok(()),
            Ok(_) => Err(error::lost_ownership("settle")),
            Err(error) => Err(error::once_more(error)),
        };
        // Who settled it may be gone.
        let _ = handled.told.send(outcome);
    }
}
