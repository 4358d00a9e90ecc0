//! What a subscription hands over, and how it is settled.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::{
    Claim, Effects, Envelope, Error, ErrorKind, Reason, ReasonKind, RemoteError, Reply, Retry,
    async_trait,
};

/// A message handed to this node, to be settled once.
///
/// Settling takes the delivery by value, so that it cannot happen twice. Dropping an unsettled
/// delivery leaves it to the broker's redelivery, after its lease ran out.
#[must_use = "an unsettled delivery is redelivered"]
#[derive(Debug)]
pub struct Delivery {
    envelope: Envelope,
    count: u32,
    generation: u32,
    may_have_run: bool,
    claimed: bool,
    time_left: Option<Duration>,
    receipt: Option<Box<dyn Receipt>>,
}

impl Delivery {
    /// A delivery that the broker wants settled.
    pub fn new(envelope: Envelope, receipt: Box<dyn Receipt>) -> Self {
        Self {
            envelope,
            count: 1,
            generation: 0,
            may_have_run: false,
            claimed: false,
            time_left: None,
            receipt: Some(receipt),
        }
    }

    /// A delivery that nobody waits for: QoS 0.
    pub fn unacknowledged(envelope: Envelope) -> Self {
        Self {
            envelope,
            count: 1,
            generation: 0,
            may_have_run: false,
            claimed: false,
            time_left: None,
            receipt: None,
        }
    }

    /// Sets how often the message has been delivered, this time included.
    pub fn with_count(mut self, count: u32) -> Self {
        self.count = count.max(1);
        self
    }

    /// Sets how often the message has been redriven from the dead letters.
    pub fn with_generation(mut self, generation: u32) -> Self {
        self.generation = generation;
        self
    }

    /// Says that a handler may have run before for this message, which a count of 1 would deny: one that
    /// was stopped half-way and given back, say.
    pub fn with_may_have_run(mut self, may_have_run: bool) -> Self {
        self.may_have_run = may_have_run;
        self
    }

    /// Says that the backend's own inbox claimed the message for this delivery when it handed it out: the
    /// count is that of its runs, `extend` renews the claim, and settling it ends the claim in the same
    /// step, by owner. Nobody else need be asked.
    pub fn with_claim_held(mut self) -> Self {
        self.claimed = true;
        self
    }

    /// Sets how long the caller of this request still waits.
    pub fn with_time_left(mut self, time_left: Duration) -> Self {
        self.time_left = Some(time_left);
        self
    }

    /// The message.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The message, to be changed: a QoS 0 message gets its id here.
    pub fn envelope_mut(&mut self) -> &mut Envelope {
        &mut self.envelope
    }

    /// How often the message has been delivered to this group, this time included: 1 at first.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether a handler may have run before for this message, in whole or in part.
    #[must_use]
    pub fn may_have_run(&self) -> bool {
        self.may_have_run || self.count > 1
    }

    /// Whether the backend's own inbox holds a claim for this delivery.
    #[must_use]
    pub fn is_claimed(&self) -> bool {
        self.claimed
    }

    /// How often the message has been redriven: the generation to claim it with in the inbox.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// How long the caller of this request still waits, counted from when `recv` returned it.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        self.time_left
    }

    /// Whether the broker waits for this delivery to be settled.
    #[must_use]
    pub fn is_acknowledged(&self) -> bool {
        self.receipt.is_some()
    }

    /// Tells the broker that the handler still runs: the lease starts anew.
    ///
    /// # Errors
    /// [`LostOwnership`](crate::ErrorKind::LostOwnership) when the lease ran out before.
    pub async fn extend(&mut self) -> Result<(), Error> {
        match &mut self.receipt {
            Some(receipt) => receipt.extend().await,
            None => Ok(()),
        }
    }

    /// As [`settle`](Self::settle), where nothing has to be waited for: no future is made. `None` says that nothing was
    /// done, and that `settle` is to be called.
    ///
    /// # Errors
    /// As [`settle`](Self::settle).
    pub fn try_settle(&mut self, settlement: &Settlement) -> Option<Result<(), Error>> {
        let Some(receipt) = &mut self.receipt else {
            return Some(Ok(()));
        };
        let settled = receipt.try_settle(settlement)?;
        self.receipt = None;
        Some(settled)
    }

    /// Tells the broker what became of the message. Does nothing at QoS 0.
    ///
    /// # Errors
    /// - [`LostOwnership`](crate::ErrorKind::LostOwnership): the lease ran out before; another member has the message.
    /// - Others: the broker did not take it, and redelivers when the lease runs out.
    pub fn settle(
        self,
        settlement: Settlement,
    ) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let envelope = self.envelope;
        let settling = self
            .receipt
            .map(|receipt| receipt.settle(envelope, settlement));
        async move {
            match settling {
                Some(settling) => settling.await,
                None => Ok(()),
            }
        }
    }
}

/// The broker's side of one delivery: implemented by backends, used through [`Delivery`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the receipt of a delivery",
    label = "not a receipt",
    note = "write `impl catga_core::Receipt for {Self}`, with `#[catga_core::async_trait]`"
)]
#[async_trait]
pub trait Receipt: Send + Sync + fmt::Debug {
    /// Settles the delivery of `envelope`.
    ///
    /// # Behaviour
    /// - An ack is queued and flushed by the backend: the future is ready at once unless the queue is full.
    /// - A [`Completion`] with a claim is confirmed by the store before the future ends. A backend that
    ///   declares [`Capability::FusedCompletion`](crate::Capability::FusedCompletion) completes claim, response and
    ///   ack in one step; to others the runtime passes completions without a claim.
    /// - Of a delivery whose claim the backend holds ([`Delivery::is_claimed`]), every settlement ends the claim
    ///   in the same step; a completion of one that was lost changes nothing, and gives
    ///   [`ErrorKind::LostOwnership`](crate::ErrorKind::LostOwnership).
    /// - A dead letter is stored before the message is acked; when it cannot be stored the message stays.
    /// - A lease that ran out gives [`ErrorKind::LostOwnership`](crate::ErrorKind::LostOwnership) where the
    ///   broker or the backend's own clock can tell, also before another member has the message; nak, release, dead letter and term then change nothing.
    ///   A late ack may still count, also while another member has the message: it was handled.
    async fn settle(
        self: Box<Self>,
        envelope: Envelope,
        settlement: Settlement,
    ) -> Result<(), Error>;

    /// As [`settle`](Self::settle), where nothing has to be waited for. `None` says that nothing was done. A backend that
    /// always has to wait leaves the default.
    ///
    /// # Errors
    /// As [`settle`](Self::settle).
    fn try_settle(&mut self, settlement: &Settlement) -> Option<Result<(), Error>> {
        let _ = settlement;
        None
    }

    /// Restarts the lease.
    ///
    /// # Errors
    /// [`ErrorKind::LostOwnership`](crate::ErrorKind::LostOwnership) when it ran out before.
    async fn extend(&mut self) -> Result<(), Error>;
}

/// What becomes of a delivery.
#[derive(Debug)]
#[non_exhaustive]
pub enum Settlement {
    /// Handled: never again.
    Ack,
    /// Handled, with what has to be recorded or answered together with the ack.
    Complete(Completion),
    /// Failed: again, not before this delay.
    Nak {
        /// The delay, at least.
        after: Duration,
    },
    /// Put off, not failed, and not begun: to any member, not before this delay, and where the backend can tell, not
    /// counted as a delivery.
    Defer {
        /// The delay, at least.
        after: Duration,
    },
    /// Given back, not failed: to any member at once, and where the backend can tell, not counted as a delivery.
    Release {
        /// Whether the handler began, and was stopped half-way.
        began: bool,
    },
    /// Failed for good: into the dead letters, then never again.
    DeadLetter {
        /// Why.
        reason: Reason,
        /// The inbox claim to mark as dead, so that only a redrive handles the message again. As with
        /// a completion, only a backend that declares
        /// [`Capability::FusedCompletion`](crate::Capability::FusedCompletion) is passed one.
        claim: Option<Claim>,
    },
    /// Dropped without trace: never again, and no dead letter.
    Term,
}

impl Settlement {
    /// What this is for a request that no broker keeps: what its caller is told, or when it is for whom. Who claims nothing for
    /// requests refuses a completion with a claim before.
    ///
    /// ```
    /// use catga_core::{Answer, Settlement};
    ///
    /// let Answer::Reply(reply) = Settlement::Term.into_answer() else {
    ///     panic!("its caller is told");
    /// };
    /// assert_eq!(reply.result.unwrap_err().message, "the request was dropped");
    /// ```
    #[must_use]
    pub fn into_answer(self) -> Answer {
        let (kind, text) = match self {
            Self::Complete(Completion {
                response: Some(reply),
                ..
            }) => return Answer::Reply(reply),
            Self::Nak { after } => return Answer::Again { after, began: true },
            Self::Defer { after } => {
                return Answer::Again {
                    after,
                    began: false,
                };
            }
            Self::Release { began } => return Answer::Elsewhere { began },
            Self::Complete(_) => (
                ErrorKind::Handler,
                Cow::Borrowed("the request was handled without a response"),
            ),
            Self::Ack => (
                ErrorKind::Handler,
                Cow::Borrowed("the request was acked without a response"),
            ),
            Self::Term => (ErrorKind::Handler, Cow::Borrowed("the request was dropped")),
            Self::DeadLetter { reason, .. } => {
                let kind = match reason.kind {
                    ReasonKind::Decode => ErrorKind::Decode,
                    ReasonKind::NoHandler => ErrorKind::NoHandler,
                    _ => ErrorKind::Handler,
                };
                (kind, Cow::Owned(reason.to_string()))
            }
        };
        // Who settles a request without an answer has had it in hand.
        let error = Error::new(kind, "request", text)
            .with_retry(Retry::Never)
            .with_unknown_outcome();
        Answer::Reply(Reply::err(RemoteError::new(&error)))
    }
}

/// What becomes of a request that was settled; see [`Settlement::into_answer`]. Whatever settlements there will be, each is one of these.
#[derive(Debug)]
pub enum Answer {
    /// Its caller is told.
    Reply(Reply),
    /// It comes again.
    Again {
        /// Not before this delay.
        after: Duration,
        /// Whether the handler began.
        began: bool,
    },
    /// It is for another node, at once.
    Elsewhere {
        /// Whether the handler began.
        began: bool,
    },
}

/// What is recorded or answered when a delivery is handled.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Completion {
    /// The inbox claim to complete, by its owner.
    pub claim: Option<Claim>,
    /// The answer to the caller of a request, kept with the claim.
    pub response: Option<Reply>,
    /// What the handler wrote for the inbox's [`CommitStore`](crate::CommitStore), applied in the same step.
    pub effects: Option<Effects>,
}

impl Completion {
    /// Nothing but the ack.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Completes an inbox claim.
    #[must_use]
    pub fn with_claim(mut self, claim: Claim) -> Self {
        self.claim = Some(claim);
        self
    }

    /// Answers a request.
    #[must_use]
    pub fn with_response(mut self, response: Reply) -> Self {
        self.response = Some(response);
        self
    }

    /// Commits what the handler wrote.
    #[must_use]
    pub fn with_effects(mut self, effects: Option<Effects>) -> Self {
        self.effects = effects;
        self
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const DELAY: Duration = Duration::from_secs(3);

    #[test]
    fn a_caller_is_told_how_its_request_ended() {
        let dead = |kind| Settlement::DeadLetter {
            reason: Reason::new(kind, "why"),
            claim: None,
        };
        let lost = Settlement::Complete(Completion::new());
        for (settlement, kind, text) in [
            (Settlement::Ack, "handler", "acked without"),
            (lost, "handler", "handled without"),
            (Settlement::Term, "handler", "dropped"),
            (dead(ReasonKind::Decode), "decode", "why"),
            (dead(ReasonKind::NoHandler), "no_handler", "why"),
            (dead(ReasonKind::Exhausted), "handler", "why"),
        ] {
            let Answer::Reply(Reply { result, .. }) = settlement.into_answer() else {
                panic!("its caller is told");
            };
            let error = result.unwrap_err();
            assert_eq!(error.kind, kind);
            assert!(error.message.contains(text), "{error:?}");
            assert!(error.may_have_run && !error.retryable);
        }
        let reply = Reply::ok(Bytes::from_static(b"7"));
        let done = Settlement::Complete(Completion::new().with_response(reply.clone()));
        assert!(matches!(done.into_answer(), Answer::Reply(told) if told == reply));
    }

    #[test]
    fn a_request_that_was_not_ended_is_for_another_try() {
        for (settlement, expected) in [
            (Settlement::Nak { after: DELAY }, (Some(DELAY), true)),
            (Settlement::Defer { after: DELAY }, (Some(DELAY), false)),
            (Settlement::Release { began: true }, (None, true)),
            (Settlement::Release { began: false }, (None, false)),
        ] {
            let told = match settlement.into_answer() {
                Answer::Again { after, began } => (Some(after), began),
                Answer::Elsewhere { began } => (None, began),
                Answer::Reply(reply) => panic!("{reply:?}"),
            };
            assert_eq!(told, expected);
        }
    }
}
