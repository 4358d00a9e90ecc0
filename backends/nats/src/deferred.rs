//! What is put off before its handler began stays with this member meanwhile, its lease extended: the server would count it
//! as delivered once more if it were given back, and what is never begun would look like what kills its consumers. So does
//! what came late, until its lease is renewed.

use std::sync::Arc;
use std::time::Duration;

use catga_core::Envelope;
use tokio::select;
use tokio::time::{Instant, sleep_until};

use crate::receipt::StreamReceipt;
use crate::room::{PutOff, Room};
use crate::time::from_now;

/// The most that wait at a member; what is more goes back to the server, which counts it.
const MOST: usize = 1024;

/// A message that was put off.
#[derive(Debug)]
pub(crate) struct Deferred {
    pub(crate) envelope: Envelope,
    pub(crate) receipt: StreamReceipt,
    _counted: PutOff,
}

impl Deferred {
    pub(crate) fn new(envelope: Envelope, receipt: StreamReceipt, room: &Arc<Room>) -> Self {
        Self {
            envelope,
            receipt,
            _counted: room.defer(),
        }
    }

    /// Whether there is room for one more.
    pub(crate) fn fits(room: &Room) -> bool {
        !room.is_left() && room.deferred() < MOST
    }

    /// Renews its lease, then hands it to the member.
    pub(crate) async fn renew(mut self, room: Arc<Room>) {
        match self.receipt.prolong().await {
            Ok(()) => room.return_deferred(self),
            Err(error) => {
                tracing::debug!(%error, "a message that came late was not kept; it comes again when its lease ends");
            }
        }
    }

    /// Keeps it until it is due or nobody receives any more, then hands it to the member.
    pub(crate) async fn keep(mut self, room: Arc<Room>, after: Duration) {
        let due = from_now(self.receipt.put_off(after));
        while Instant::now() < due {
            let half = self.receipt.until() - self.receipt.ack_wait() / 2;
            select! {
                biased;
                () = room.left() => break,
                () = sleep_until(due.min(half)) => {}
            }
            if Instant::now() >= half && self.receipt.prolong().await.is_err() {
                // Its lease ends, and the server delivers it to somebody.
                return;
            }
        }
        room.return_deferred(self);
    }
}
