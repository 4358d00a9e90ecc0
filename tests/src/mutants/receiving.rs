//! Bugs in what comes in, and in how it is settled.

use std::any::Any;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use catga::{Envelope, Error, ErrorKind, InboxStore};
use catga_core::{
    Claim, ClaimEnd, ClaimOutcome, ConnectionState, Delivery, Effects, InboxKey, Owner, Receipt,
    Reply, Settlement, StatsReader, Subscription, Transport, async_trait,
};

use tokio::time::Instant;

use super::Mutant;

/// A subscription with a bug.
#[derive(Debug)]
pub(super) struct MutatedSubscription {
    mutant: Mutant,
    /// None once it is left.
    subscription: Option<Box<dyn Subscription>>,
    transport: Arc<dyn Transport>,
    /// Whether there was no connection since something came.
    was_away: bool,
    /// Until when what comes is what waited.
    skips_until: Option<Instant>,
}

/// What waited comes without such a pause.
const PAUSE: Duration = Duration::from_millis(100);

impl MutatedSubscription {
    pub(super) fn new(
        mutant: Mutant,
        subscription: Box<dyn Subscription>,
        transport: Arc<dyn Transport>,
    ) -> Self {
        Self {
            mutant,
            subscription: Some(subscription),
            transport,
            was_away: false,
            skips_until: None,
        }
    }

    /// What waits when there is a connection again is acked, and nobody gets it.
    async fn skip(&mut self, max: usize, into: &mut Vec<Delivery>) -> Result<(), Error> {
        loop {
            self.was_away |= self.transport.state() != ConnectionState::Connected;
            let mut received = Vec::new();
            let recv = self.subscription()?.recv(max, &mut received);
            let Ok(outcome) = tokio::time::timeout(Duration::from_millis(5), recv).await else {
                into.append(&mut received);
                continue;
            };
            // A connection may be made again before anybody sees that there was none.
            self.was_away |= outcome.is_err();
            let now = Instant::now();
            if !received.is_empty() && mem::take(&mut self.was_away) {
                self.skips_until = Some(now + PAUSE);
            }
            if received.is_empty() || self.skips_until.is_none_or(|until| until < now) {
                into.append(&mut received);
                return outcome;
            }
            self.skips_until = Some(now + PAUSE);
            for delivery in received {
                delivery.settle(Settlement::Ack).await?;
            }
        }
    }

    fn subscription(&mut self) -> Result<&mut Box<dyn Subscription>, Error> {
        let left = || Error::new(ErrorKind::Closed, "recv", "this member has left");
        self.subscription.as_mut().ok_or_else(left)
    }
}

#[async_trait]
impl Subscription for MutatedSubscription {
    async fn recv(&mut self, max: usize, into: &mut Vec<Delivery>) -> Result<(), Error> {
        let max = match self.mutant {
            Mutant::BuffersWithoutBound => usize::MAX,
            _ => max,
        };
        if self.mutant == Mutant::SkipsToNow {
            return self.skip(max, into).await;
        }
        let mut received = Vec::new();
        let outcome = self.subscription()?.recv(max, &mut received).await;
        for delivery in received {
            match self.mutant {
                Mutant::AcksBeforeTheHandler => {
                    into.push(copy(&delivery, Some(Box::new(Nothing))));
                    delivery.settle(Settlement::Ack).await?;
                }
                Mutant::CompletesBeforeTheEffect if delivery.is_claimed() => {
                    into.push(copy(&delivery, Some(Box::new(Nothing))));
                    delivery.settle(Settlement::Ack).await?;
                }
                Mutant::HandsOutTwice => {
                    let receipt = delivery.is_acknowledged();
                    into.push(copy(&delivery, receipt.then(|| Box::new(Nothing) as _)));
                    into.push(delivery);
                }
                Mutant::ForgetsTheCount => into.push(around(self.mutant, delivery).with_count(1)),
                mutant => into.push(around(mutant, delivery)),
            }
        }
        outcome
    }

    async fn close(&mut self) -> Result<(), Error> {
        match self.mutant {
            Mutant::LeavesWithoutAWord => {
                // What it holds stays out.
                mem::forget(self.subscription.take());
                Ok(())
            }
            _ => self.subscription()?.close().await,
        }
    }

    fn set_max_in_flight(&mut self, max_in_flight: usize) {
        if self.mutant != Mutant::BuffersWithoutBound
            && let Some(subscription) = &mut self.subscription
        {
            subscription.set_max_in_flight(max_in_flight);
        }
    }

    fn stats_reader(&self) -> StatsReader {
        match (self.mutant, &self.subscription) {
            (Mutant::CountsNothing, _) | (_, None) => StatsReader::new(Default::default),
            (_, Some(subscription)) => subscription.stats_reader(),
        }
    }
}

/// A delivery of the same message, with another receipt.
pub(crate) fn copy(delivery: &Delivery, receipt: Option<Box<dyn Receipt>>) -> Delivery {
    let envelope = delivery.envelope().clone();
    let mut copy = match receipt {
        Some(receipt) => Delivery::new(envelope, receipt),
        None => Delivery::unacknowledged(envelope),
    };
    copy = copy
        .with_count(delivery.count())
        .with_generation(delivery.generation())
        .with_may_have_run(delivery.may_have_run());
    if delivery.is_claimed() {
        copy = copy.with_claim_held();
    }
    match delivery.time_left() {
        Some(left) => copy.with_time_left(left),
        None => copy,
    }
}

/// The delivery, with a receipt that has the bug.
fn around(mutant: Mutant, delivery: Delivery) -> Delivery {
    if !delivery.is_acknowledged() {
        return delivery;
    }
    let shell = copy(&delivery, None);
    copy(&shell, Some(Box::new(MutatedReceipt { mutant, delivery })))
}

/// The receipt of a delivery that was settled before.
#[derive(Debug)]
struct Nothing;

#[async_trait]
impl Receipt for Nothing {
    async fn settle(self: Box<Self>, _: Envelope, _: Settlement) -> Result<(), Error> {
        Ok(())
    }

    async fn extend(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// A receipt with a bug.
#[derive(Debug)]
struct MutatedReceipt {
    mutant: Mutant,
    delivery: Delivery,
}

#[async_trait]
impl Receipt for MutatedReceipt {
    async fn settle(self: Box<Self>, _: Envelope, settlement: Settlement) -> Result<(), Error> {
        if self.mutant == Mutant::LosesAcks
            && matches!(settlement, Settlement::Ack | Settlement::Complete(_))
        {
            return Ok(());
        }
        let settlement = match (self.mutant, settlement) {
            (Mutant::NaksWithoutDelay, Settlement::Nak { .. })
            | (Mutant::CountsReleases, Settlement::Release { .. }) => Settlement::Nak {
                after: Duration::ZERO,
            },
            (Mutant::LosesDeadLetters, Settlement::DeadLetter { .. }) => Settlement::Term,
            (Mutant::AcksWhateverFails, Settlement::Nak { .. }) => Settlement::Ack,
            (_, settlement) => settlement,
        };
        match self.delivery.settle(settlement).await {
            Err(_) if self.mutant == Mutant::IgnoresLostOwnership => Ok(()),
            outcome => outcome,
        }
    }

    async fn extend(&mut self) -> Result<(), Error> {
        match self.mutant {
            Mutant::NeverExtends => Ok(()),
            Mutant::IgnoresLostOwnership => {
                // It is kept on as if it were still its own.
                let _ = self.delivery.extend().await;
                Ok(())
            }
            _ => self.delivery.extend().await,
        }
    }
}

/// An inbox with a bug.
#[derive(Debug)]
pub(super) struct MutatedInbox {
    pub(super) mutant: Mutant,
    pub(super) inbox: Arc<dyn InboxStore>,
}

impl MutatedInbox {
    /// Whether whoever holds a claim is told so, whatever became of it.
    fn forgets_owners(&self) -> bool {
        matches!(
            self.mutant,
            Mutant::GrantsEveryClaim | Mutant::CompletesBeforeTheEffect
        )
    }
}

#[async_trait]
impl InboxStore for MutatedInbox {
    async fn claim(
        &self,
        key: &InboxKey,
        owner: Owner,
        lease: Duration,
        generation: u32,
    ) -> Result<ClaimOutcome, Error> {
        let outcome = self.inbox.claim(key, owner, lease, generation).await;
        if self.mutant == Mutant::CompletesBeforeTheEffect
            && let Ok(ClaimOutcome::Granted(claim)) = &outcome
        {
            self.inbox.complete(claim, None, None).await?;
        }
        if self.mutant != Mutant::GrantsEveryClaim {
            return outcome;
        }
        match outcome? {
            ClaimOutcome::Granted(claim) => Ok(ClaimOutcome::Granted(claim)),
            _ => Ok(ClaimOutcome::Granted(Claim::new(key.clone(), owner, 0))),
        }
    }

    async fn renew(&self, claim: &mut Claim, lease: Duration) -> Result<(), Error> {
        match self.inbox.renew(claim, lease).await {
            Err(_) if self.forgets_owners() => Ok(()),
            outcome => outcome,
        }
    }

    async fn complete(
        &self,
        claim: &Claim,
        response: Option<&Reply>,
        effects: Option<&Effects>,
    ) -> Result<(), Error> {
        match self.inbox.complete(claim, response, effects).await {
            Err(_) if self.forgets_owners() => Ok(()),
            outcome => outcome,
        }
    }

    async fn release(&self, claim: &Claim, end: ClaimEnd) -> Result<(), Error> {
        if self.mutant == Mutant::KeepsFailedClaims {
            return self.inbox.complete(claim, None, None).await;
        }
        match self.inbox.release(claim, end).await {
            Err(_) if self.mutant == Mutant::CompletesBeforeTheEffect => Ok(()),
            outcome => outcome,
        }
    }

    fn commit_store(&self) -> Option<&(dyn Any + Send + Sync)> {
        self.inbox.commit_store()
    }
}
