//! A member of a group, and the settling of its deliveries.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use catga_core::{
    Delivery, Envelope, Error, Receipt, Settlement, StatsReader, Subscribe, Subscription,
    SubscriptionStats, async_trait,
};
use tokio::task::consume_budget;
use tokio::time::sleep;

use crate::disk::{after, now};
use crate::entry::Entry;
use crate::error;
use crate::group::Group;
use crate::letters;
use crate::options::Bug;
use crate::store::{Store, on_disk};

/// A member of a group. Nothing tells that it is there but the leases that it has, so that it can be gone at any time.
#[derive(Debug)]
pub(crate) struct FileSubscription {
    group: Group,
    ack_wait: Duration,
    max_in_flight: usize,
    in_flight: Arc<AtomicUsize>,
    left: bool,
}

impl FileSubscription {
    pub(crate) fn new(group: Group, subscribe: &Subscribe) -> Self {
        Self {
            group,
            ack_wait: subscribe.ack_wait,
            max_in_flight: subscribe.max_in_flight,
            in_flight: Arc::default(),
            left: false,
        }
    }
}

#[async_trait]
impl Subscription for FileSubscription {
    async fn recv(&mut self, max: usize, into: &mut Vec<Delivery>) -> Result<(), Error> {
        let store = Arc::clone(&self.group.topic.store);
        // Nothing below waits while there are messages: others on this thread get their turn here.
        consume_budget().await;
        loop {
            if self.left || store.is_closed() {
                return Err(error::closed("receive"));
            }
            let free = self.max_in_flight.max(1);
            let free = free.saturating_sub(self.in_flight.load(Ordering::Relaxed));
            // Taken and handed over without a wait between, so that no message is lost with a future that is
            // dropped. These are short calls of the system, which the page cache answers.
            let taken = self.group.take(free.min(max.max(1)), self.ack_wait);
            let taken = taken.map_err(store.failed("receive"))?;
            if !taken.is_empty() {
                into.extend(taken.into_iter().map(|(entry, envelope)| {
                    let receipt = FileReceipt::new(self, entry);
                    Delivery::new(envelope, Box::new(receipt))
                        .with_count(entry.count)
                        .with_generation(entry.generation)
                        .with_may_have_run(entry.ran)
                }));
                return Ok(());
            }
            sleep(store.options.poll).await;
        }
    }

    async fn close(&mut self) -> Result<(), Error> {
        self.left = true;
        Ok(())
    }

    fn set_max_in_flight(&mut self, max_in_flight: usize) {
        self.max_in_flight = max_in_flight;
    }

    fn stats_reader(&self) -> StatsReader {
        let group = self.group.clone();
        StatsReader::new(move || {
            let waiting = group.waiting().ok().and_then(|n| n.try_into().ok());
            SubscriptionStats::new(0, waiting)
        })
    }
}

/// The right to settle one delivery: the name that its file got when it was taken. Dropping it leaves the message to
/// the end of its lease.
#[derive(Debug)]
struct FileReceipt {
    group: Group,
    entry: Entry,
    ack_wait: Duration,
    in_flight: Arc<AtomicUsize>,
}

impl FileReceipt {
    fn new(member: &FileSubscription, entry: Entry) -> Self {
        member.in_flight.fetch_add(1, Ordering::Relaxed);
        Self {
            group: member.group.clone(),
            entry,
            ack_wait: member.ack_wait,
            in_flight: Arc::clone(&member.in_flight),
        }
    }

    fn store(&self) -> &Store {
        &self.group.topic.store
    }

    /// Puts the message into its next state, which only the one who has it can.
    fn change(&mut self, operation: &'static str, to: Entry) -> Result<(), Error> {
        let changed = self.group.change(self.entry, to);
        ours(operation, changed.map_err(self.store().failed(operation))?)?;
        self.entry = to;
        Ok(())
    }

    fn finish(&self) -> Result<(), Error> {
        let finished = self.group.finish(self.entry);
        ours("settle", finished.map_err(self.store().failed("settle"))?)
    }

    /// Where nobody took it over a lease that is over is lost too, except for an ack: what was handled was handled.
    fn check_lease(&self, operation: &'static str) -> Result<(), Error> {
        ours(operation, now() < self.entry.due)
    }

    /// Planted bug: settles what another member has by now.
    fn forget_lease(&mut self) {
        if self.group.has(Bug::ForgetLease) {
            self.entry = self.group.whoever_has(self.entry);
        }
    }
}

/// Says so when a message is another's by now.
fn ours(operation: &'static str, ours: bool) -> Result<(), Error> {
    if ours {
        Ok(())
    } else {
        Err(error::lost_ownership(operation))
    }
}

#[async_trait]
impl Receipt for FileReceipt {
    async fn settle(
        mut self: Box<Self>,
        _envelope: Envelope,
        settlement: Settlement,
    ) -> Result<(), Error> {
        self.forget_lease();
        let entry = self.entry;
        match &settlement {
            Settlement::Complete(done) if done.claim.is_some() || done.effects.is_some() => {
                return Err(error::foreign_claim());
            }
            Settlement::DeadLetter { claim: Some(_), .. } => return Err(error::foreign_claim()),
            // Planted bug: it was acked before.
            _ if self.group.has(Bug::AckBeforeHandler) => return Ok(()),
            Settlement::Ack | Settlement::Complete(_) => return self.finish(),
            _ => self.check_lease("settle")?,
        }
        let next = match settlement {
            Settlement::Term => return self.finish(),
            Settlement::Nak { after: delay } => entry.due_at(after(delay)),
            Settlement::Defer { after: delay } => entry.due_at(after(delay)).uncounted(),
            // To where it was, in front of those that are newer.
            Settlement::Release { began } => Entry {
                ran: entry.ran || began,
                ..entry.due_at(entry.number).uncounted()
            },
            Settlement::DeadLetter { reason, .. } => {
                let group = self.group.clone();
                let bury = move || {
                    let buried = letters::bury(&group, entry, &reason);
                    buried.map_err(group.topic.store.failed("settle"))
                };
                return ours("settle", on_disk("settle", bury).await?);
            }
            _ => return Err(error::unknown_settlement()),
        };
        self.change("settle", next)
    }

    async fn extend(&mut self) -> Result<(), Error> {
        self.forget_lease();
        self.check_lease("extend")?;
        self.change("extend", self.entry.due_at(after(self.ack_wait)))
    }
}

impl Drop for FileReceipt {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
