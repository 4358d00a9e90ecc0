//! Acks that the client's queue had no room for, in the order in which they came: nobody waits for them one by one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_nats::{Client, Subject};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::room::Place;

/// The most that are taken from the queue at once.
const BATCH: usize = 256;

/// The words of the server for "handled".
pub(crate) const ACK: &str = "+ACK";

/// Bound by the places that wait in it: each is one of a member, which receives no more while it has none free.
#[derive(Debug)]
pub(crate) struct Acks {
    queue: mpsc::UnboundedSender<Queued>,
    waiting: Arc<AtomicUsize>,
    flusher: AbortHandle,
}

#[derive(Debug)]
enum Queued {
    /// The delivery is settled, and its places are free, when the client has it.
    Ack(Subject, (Place, Place)),
    /// All before it were handed over.
    Flush(oneshot::Sender<()>),
}

impl Acks {
    pub(crate) fn of(client: Client) -> Self {
        let (queue, queued) = mpsc::unbounded_channel();
        let waiting = Arc::default();
        let flusher = tokio::spawn(hand_over(client, queued, Arc::clone(&waiting)));
        Self {
            queue,
            waiting,
            flusher: flusher.abort_handle(),
        }
    }

    /// Whether some wait: what comes now is not to overtake them, and would find no room.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn push(&self, ack: Subject, places: (Place, Place)) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // Refused after the end of the connection, as any ack is then: the lease ends.
        let _ = self.queue.send(Queued::Ack(ack, places));
    }

    /// Waits until all that came before is the client's.
    pub(crate) async fn flushed(&self) {
        if !self.is_waiting() {
            return;
        }
        let (done, flushed) = oneshot::channel();
        if self.queue.send(Queued::Flush(done)).is_ok() {
            let _ = flushed.await;
        }
    }
}

impl Drop for Acks {
    fn drop(&mut self) {
        self.flusher.abort();
    }
}

async fn hand_over(
    client: Client,
    mut queued: mpsc::UnboundedReceiver<Queued>,
    waiting: Arc<AtomicUsize>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while queued.recv_many(&mut batch, BATCH).await > 0 {
        for queued in batch.drain(..) {
            match queued {
                Queued::Ack(to, _places) => {
                    // Fails only when the client has ended.
                    let _ = client.publish(to, ACK.into()).await;
                    waiting.fetch_sub(1, Ordering::Relaxed);
                }
                Queued::Flush(done) => drop(done.send(())),
            }
        }
    }
}
