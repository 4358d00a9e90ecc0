//! A subscription at QoS 1 or 2, and the settling of its deliveries.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use catga_core::{
    Capability, Delivery, Envelope, Error, Receipt, Settlement, StatsReader, Subscribe,
    Subscription, SubscriptionStats, async_trait,
};
use tokio::select;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::bus::Connection;
use crate::error;
use crate::group::Counts;
use crate::handover::{Claim, Token};
use crate::log::{MemberId, Verdict};
use crate::store;
use crate::stream::{Batch, Command, Control, Fetch, Stream};

/// A member of a group.
#[derive(Debug)]
pub(crate) struct LogSubscription {
    connection: Arc<Connection>,
    stream: Arc<Stream>,
    member: MemberId,
    counts: Counts,
    max_in_flight: usize,
    /// A fetch that was sent. It outlives the `recv` that began it: the next one goes on with it.
    pending: Option<oneshot::Receiver<Batch>>,
    left: bool,
}

impl LogSubscription {
    /// Joins the group: when this returns, the group exists.
    pub(crate) async fn join(
        connection: Arc<Connection>,
        stream: Arc<Stream>,
        subscribe: &Subscribe,
    ) -> Result<Self, Error> {
        let member = stream.new_member();
        let (reply, answer) = oneshot::channel();
        let join = Control::Join {
            member,
            subscribe: subscribe.clone(),
            reply,
        };
        // Made before the reply, so that a caller who gives up half-way leaves the group.
        let mut this = Self {
            member,
            connection,
            stream,
            counts: Counts::default(),
            max_in_flight: subscribe.max_in_flight,
            pending: None,
            left: false,
        };
        let sent = this.stream.control.send(join);
        sent.map_err(|_| error::gone("subscribe"))?;
        this.counts = answer.await.map_err(|_| error::gone("subscribe"))??;
        Ok(this)
    }

    /// Waits for the answer to a fetch, which is sent unless one is on its way.
    async fn fetch(&mut self, max: usize) -> Result<Batch, Error> {
        let gone = || error::gone("receive");
        if self.pending.is_none() {
            let permit = self.stream.commands.reserve().await.map_err(|_| gone())?;
            let (reply, answer) = oneshot::channel();
            permit.send(Command::Fetch(Fetch {
                member: self.member,
                max,
                closed: self.connection.closed.clone(),
                reply,
            }));
            self.pending = Some(answer);
        }
        let answer = self.pending.as_mut().expect("set above");
        let batch = answer.await;
        self.pending = None;
        batch.map_err(|_| gone())
    }

    /// Turns a batch into deliveries; what is above `max` goes back.
    fn hand_out(&self, batch: Batch, max: usize, into: &mut Vec<Delivery>) {
        let mut entries = batch.entries.into_iter();
        into.extend(entries.by_ref().take(max).map(|entry| {
            let claimed = entry.claim.is_some();
            let receipt = LogReceipt {
                stream: Arc::clone(&self.stream),
                token: entry.token,
                claim: entry.claim,
            };
            let delivery = Delivery::new(entry.envelope, Box::new(receipt))
                .with_count(entry.count)
                .with_generation(entry.generation)
                .with_may_have_run(entry.may_have_run);
            if claimed {
                delivery.with_claim_held()
            } else {
                delivery
            }
        }));
        let rest: Vec<Token> = entries.map(|entry| entry.token).collect();
        if !rest.is_empty() {
            // A stream that is gone has nobody to give it to.
            let _ = self.stream.control.send(Control::GiveBack(rest));
        }
    }

    fn leave(&mut self) {
        if std::mem::replace(&mut self.left, true) {
            return;
        }
        let mut unseen = Vec::new();
        if let Some(mut pending) = self.pending.take() {
            // From here on nothing more is sent; what was sent before is taken out.
            pending.close();
            if let Ok(batch) = pending.try_recv()
                && batch.handover.take()
            {
                unseen.extend(batch.entries.iter().map(|entry| entry.token));
            }
        }
        let member = self.member;
        let _ = self.stream.control.send(Control::Leave { member, unseen });
    }
}

#[async_trait]
impl Subscription for LogSubscription {
    async fn recv(&mut self, max: usize, into: &mut Vec<Delivery>) -> Result<(), Error> {
        let max = max.max(1);
        let closed = self.connection.closed.clone();
        loop {
            if self.left || closed.is_raised() {
                self.leave();
                return Err(error::closed("receive"));
            }
            let batch = select! {
                biased;
                () = closed.raised() => continue,
                batch = self.fetch(max) => batch?,
            };
            if batch.handover.take() {
                self.hand_out(batch, max, into);
                return Ok(());
            }
        }
    }

    async fn close(&mut self) -> Result<(), Error> {
        self.leave();
        Ok(())
    }

    fn set_max_in_flight(&mut self, max_in_flight: usize) {
        if std::mem::replace(&mut self.max_in_flight, max_in_flight) == max_in_flight {
            return;
        }
        let member = self.member;
        // A stream that is gone hands out nothing anyway.
        let _ = self.stream.control.send(Control::Limit {
            member,
            max_in_flight,
        });
    }

    fn stats_reader(&self) -> StatsReader {
        let counts = self.counts.clone();
        StatsReader::new(move || {
            let waiting = counts.waiting.load(Ordering::Relaxed);
            let duplicates = counts.duplicates.load(Ordering::Relaxed);
            SubscriptionStats::new(0, Some(waiting)).with_duplicates(duplicates)
        })
    }
}

impl Drop for LogSubscription {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The right to settle one delivery. Dropping it leaves the message to the end of its lease.
#[derive(Debug)]
struct LogReceipt {
    stream: Arc<Stream>,
    token: Token,
    /// The claim that settling ends, where there is one.
    claim: Option<Claim>,
}

impl LogReceipt {
    /// Whether a settlement says that the message was handled, and needs no answer of the log.
    fn is_handled(&self, settlement: &Settlement) -> bool {
        match settlement {
            Settlement::Ack => self.claim.is_none(),
            Settlement::Complete(completion) => self.claim.is_some() && completion.claim.is_none(),
            _ => false,
        }
    }

    /// Completes the claim, if there is one, and tells the log.
    fn handled(
        &self,
        settlement: &Settlement,
        permit: mpsc::Permit<'_, Command>,
    ) -> Result<(), Error> {
        if let (Some(claim), Settlement::Complete(completion)) = (&self.claim, settlement) {
            let effects = completion.effects.as_ref();
            store::check("settle", effects)?;
            // A claim is lost with its lease, whoever looks first.
            if claim.lease_end <= Instant::now() || !claim.end.decide() {
                return Err(error::lost_ownership("settle"));
            }
            // On their way to the store before anybody can know of the completion.
            if let Some(effects) = effects {
                self.stream.memory.apply(effects.clone());
            }
        }
        permit.send(Command::Settle {
            token: self.token,
            verdict: Verdict::Done,
            reply: None,
        });
        Ok(())
    }

    async fn ask(&self, operation: &'static str, verdict: Verdict) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Settle {
            token: self.token,
            verdict,
            reply: Some(reply),
        };
        let sent = self.stream.commands.send(command).await;
        sent.map_err(|_| error::gone(operation))?;
        answer.await.map_err(|_| error::gone(operation))?
    }
}

#[async_trait]
impl Receipt for LogReceipt {
    async fn settle(
        self: Box<Self>,
        _envelope: Envelope,
        settlement: Settlement,
    ) -> Result<(), Error> {
        if self.is_handled(&settlement) {
            let permit = self.stream.commands.reserve().await;
            return self.handled(&settlement, permit.map_err(|_| error::gone("settle"))?);
        }
        let verdict = match settlement {
            // A claim that is passed in is one of an inbox elsewhere.
            Settlement::Complete(completion) if completion.claim.is_some() => {
                return Err(error::unsupported("settle", Capability::FusedCompletion));
            }
            Settlement::Complete(completion) if completion.effects.is_some() => {
                return Err(error::effects_without_claim());
            }
            Settlement::Ack | Settlement::Complete(_) | Settlement::Term => Verdict::Done,
            Settlement::Nak { after } => Verdict::Retry(after),
            Settlement::Defer { after } => Verdict::Defer(after),
            Settlement::Release { began } => Verdict::Release { began },
            Settlement::DeadLetter { claim: Some(_), .. } => {
                return Err(error::unsupported("settle", Capability::FusedCompletion));
            }
            Settlement::DeadLetter { reason, .. } => Verdict::DeadLetter(reason),
            _ => return Err(error::unknown_settlement()),
        };
        self.ask("settle", verdict).await
    }

    fn try_settle(&mut self, settlement: &Settlement) -> Option<Result<(), Error>> {
        if !self.is_handled(settlement) {
            return None;
        }
        match self.stream.commands.try_reserve() {
            Ok(permit) => Some(self.handled(settlement, permit)),
            Err(TrySendError::Full(())) => None,
            Err(TrySendError::Closed(())) => Some(Err(error::gone("settle"))),
        }
    }

    async fn extend(&mut self) -> Result<(), Error> {
        // That of the log may be another by a moment: who comes first decides in any case.
        let asked = Instant::now();
        self.ask("extend", Verdict::Extend).await?;
        if let Some(claim) = &mut self.claim {
            claim.lease_end = asked + claim.ack_wait;
        }
        Ok(())
    }
}
