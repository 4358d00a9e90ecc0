//! Claims in an inbox that is asked from here: of requests, and of QoS 2 messages whose backend does not claim
//! what it hands out.

use std::future::Future;
use std::time::Duration;

use catga_core::{
    Claim, ClaimEnd, ClaimOutcome, Completion, Delivery, Effects, Error, ErrorKind, InboxKey,
    Owner, Reason, ReasonKind, RemoteError, Reply, Retry, Settlement,
};
use tokio::time::{sleep, timeout};

use crate::app::Inner;
use crate::job::Job;
use crate::settle::settle;
use crate::table::{Counters, Entry};
use crate::time::{from_now, time_left};
use crate::verdict::Verdict;

/// The least that a claim of a request holds without being renewed, whatever its caller's time.
const LEAST_LEASE: Duration = Duration::from_secs(1);
/// With less time left, a duplicate does not look again.
const LAST_LOOK: Duration = Duration::from_millis(20);

impl Job {
    /// Claims the message. `None`: it is not to be handled here and now, and that is seen to.
    pub(crate) async fn claim(mut self: Box<Self>) -> Option<Box<Self>> {
        let Some(key) = self.inbox_key() else {
            // Without an id it cannot be handled: beginning it says so.
            return Some(self);
        };
        let (owner, generation) = (Owner::new(), self.delivery.generation());
        let claimed = tokio::select! {
            biased;
            // What is granted too late ends with its lease.
            () = self.inner.lifecycle.stopped() => None,
            claimed = self.ask(&key, owner) => Some(claimed),
        };
        let duplicate = || Counters::add(&self.slot.counters.duplicates);
        let settlement = match claimed {
            None => Verdict::not_begun().settlement,
            Some(Ok(ClaimOutcome::Granted(claim))) => {
                self.claim = Some(claim);
                return Some(self);
            }
            Some(Ok(ClaimOutcome::Completed { response, .. })) => {
                duplicate();
                done(&self.slot, response)
            }
            Some(Ok(ClaimOutcome::Dead { generation: dead })) if dead > generation => {
                // A copy of what was redriven since.
                duplicate();
                done(&self.slot, None)
            }
            Some(Ok(ClaimOutcome::Dead { .. })) => dead(),
            Some(Ok(ClaimOutcome::Running { retry_after })) => self.put_off(retry_after),
            Some(Ok(other)) => self.unclaimed(&unknown(&other)),
            Some(Err(error)) => self.unclaimed(&error),
        };
        let Self { slot, delivery, .. } = *self;
        settle(&slot, delivery, settlement).await;
        None
    }

    /// Another has begun: somebody looks again later. No failure is counted, and the place is free meanwhile.
    fn put_off(&self, retry_after: Duration) -> Settlement {
        let entry = &self.slot;
        let wait = retry_after.min(entry.backoff.delay(self.delivery.count()));
        let after = match self.deadline().map(time_left) {
            None => wait,
            Some(left) if left < LAST_LOOK => return still_runs(entry),
            // So that somebody looks again before the caller gives up.
            Some(left) => wait.min(left / 2),
        };
        Settlement::Defer { after }
    }

    /// Asks the inbox, and once more with the same owner when the answer is lost: it may have been granted.
    async fn ask(&self, key: &InboxKey, owner: Owner) -> Result<ClaimOutcome, Error> {
        let Some(inbox) = &self.inner.backend.inbox else {
            unreachable!("`start()` refuses handlers that need an inbox where there is none");
        };
        let lease = lease(&self.inner, &self.delivery);
        let generation = self.delivery.generation();
        let ask = || inbox.claim(key, owner, lease, generation);
        let claimed = persistently(lease / 3, may_have_heard, ask).await;
        if claimed.as_ref().is_err_and(may_have_heard) {
            // Nobody is to wait for an owner who does not know of it. When this is lost too, the lease ends.
            let claim = Claim::new(key.clone(), owner, 0).with_generation(generation);
            let released = inbox.release(&claim, ClaimEnd::NotBegun);
            let _ = in_time(lease / 12, "release", released).await;
        }
        claimed
    }

    fn inbox_key(&self) -> Option<InboxKey> {
        let (entry, envelope) = (&self.slot, self.delivery.envelope());
        let each_node = entry.def.options.each_node;
        let node = each_node.then(|| self.inner.node.id.clone());
        let key = InboxKey::new(entry.group.clone(), entry.message.clone(), envelope.id()?);
        Some(key.with_node(node))
    }

    /// The inbox cannot be asked: the message is not handled without.
    fn unclaimed(&self, error: &Error) -> Settlement {
        let entry = &self.slot;
        tracing::warn!(
            handler = entry.def.site.name,
            messaging.destination.name = %entry.message,
            messaging.message.id = self.delivery.envelope().id().map(display),
            %error,
            "the inbox cannot be asked; the message is not handled now"
        );
        if entry.is_request() {
            let text = format!(
                "the request `{}` was not handled: its inbox cannot be asked",
                entry.message
            );
            let error = Error::new(ErrorKind::Unavailable, "send", text);
            return reply(&error.with_retry(Retry::Now));
        }
        Settlement::Defer {
            after: entry.backoff.delay(self.delivery.count()),
        }
    }
}

/// How long a claim holds without being renewed. That of a request is short enough for another node to take it over, from one that
/// died, while the caller still waits: a third of its time went by before it asked another, and there is as much left to run in.
pub(crate) fn lease(inner: &Inner, delivery: &Delivery) -> Duration {
    let ack_wait = inner.settings.ack_wait;
    // Only requests have a time.
    match delivery.time_left() {
        Some(left) => (left / 3).max(LEAST_LEASE).min(ack_wait),
        None => ack_wait,
    }
}

/// Ends the claim of a job as the verdict says. What is to be settled instead, where that could not be recorded: nothing
/// that was not is acked.
pub(crate) async fn conclude(
    job: &Job,
    verdict: &Verdict,
    effects: Option<&Effects>,
) -> Option<Settlement> {
    let (inner, entry) = (&job.inner, &job.slot);
    let (Some(inbox), Some(claim)) = (&inner.backend.inbox, &job.claim) else {
        unreachable!("a claim was granted by an inbox");
    };
    let Verdict {
        settlement,
        claim: end,
    } = verdict;
    // It was renewed a third of it ago, or less.
    let limit = lease(inner, &job.delivery) / 2;
    let ended = match *end {
        None => {
            let response = match settlement {
                Settlement::Complete(completion) => completion.response.as_ref(),
                _ => None,
            };
            persistently(limit, is_passing, || {
                inbox.complete(claim, response, effects)
            })
            .await
        }
        Some(end) => persistently(limit, is_passing, || inbox.release(claim, end)).await,
    };
    let error = ended.err()?;
    let lost = error.kind() == ErrorKind::LostOwnership;
    if lost {
        Counters::add(&entry.counters.lost);
    }
    tracing::warn!(
        handler = entry.def.site.name,
        messaging.destination.name = %entry.message,
        messaging.message.id = %claim.key.id,
        %error,
        "the end of a claim could not be recorded"
    );
    match settlement {
        // Its lease ends by itself, and the message is tried again as it would be.
        Settlement::Nak { .. } | Settlement::Defer { .. } | Settlement::Release { .. } => None,
        // The caller waits for no more than what happened; a retry would only make it happen twice. What was to
        // be committed did not happen.
        Settlement::Complete(_) if !lost && effects.is_none() => None,
        // Whoever holds the claim now answers, completes or dead-letters.
        _ => Some(Settlement::Nak {
            after: entry.backoff.delay(claim.attempt),
        }),
    }
}

/// Whether an error is no answer.
fn is_passing(error: &Error) -> bool {
    error.retry() != Retry::Never
}

/// Whether the inbox may have done what it was asked.
fn may_have_heard(error: &Error) -> bool {
    is_passing(error) && (error.may_be_stored() || error.kind() == ErrorKind::Timeout)
}

/// Asks an inbox, and after an error that is worth it `again`: an owner may repeat. For no longer than `limit`,
/// which the lease of what is handled allows.
async fn persistently<T, F>(
    limit: Duration,
    again: fn(&Error) -> bool,
    ask: impl Fn() -> F,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let until = from_now(limit);
    let mut wait = limit / 32;
    loop {
        match in_time(time_left(until).min(limit / 2), "ask", ask()).await {
            Err(error) if again(&error) && wait < time_left(until) => {
                sleep(wait).await;
                wait *= 2;
            }
            ended => return ended,
        }
    }
}

/// Waits for the word of an inbox or a broker, and for no longer than `limit`.
pub(crate) async fn in_time<T>(
    limit: Duration,
    operation: &'static str,
    asked: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout(limit, asked).await.unwrap_or_else(|_| {
        let text = format!("no answer within {limit:?}");
        let error = Error::new(ErrorKind::Timeout, operation, text);
        Err(error.with_retry(Retry::Now).with_unknown_outcome())
    })
}

/// It was handled before.
fn done(entry: &Entry, response: Option<Reply>) -> Settlement {
    if !entry.is_request() {
        return Settlement::Ack;
    }
    match response {
        Some(response) => Settlement::Complete(Completion::new().with_response(response)),
        None => {
            let text = format!(
                "the request `{}` was handled before, and its response was not kept: it was too large, or it is too long ago",
                entry.message
            );
            let error = Error::new(ErrorKind::ResponseNotKept, "send", text);
            reply(&error.with_retry(Retry::Never).with_unknown_outcome())
        }
    }
}

/// Its claim is dead, and still it came: it is a copy, or the dead letter could not be stored then. A backend keeps
/// one for each id and generation.
fn dead() -> Settlement {
    let detail =
        "it was given up before; this is a copy, or its dead letter could not be stored then";
    Settlement::DeadLetter {
        reason: Reason::new(ReasonKind::Exhausted, detail),
        claim: None,
    }
}

fn still_runs(entry: &Entry) -> Settlement {
    let text = format!(
        "the request `{}` is still handled elsewhere, and its caller's time is over",
        entry.message
    );
    let error = Error::new(ErrorKind::Timeout, "send", text);
    reply(&error.with_retry(Retry::Never).with_unknown_outcome())
}

fn unknown(outcome: &ClaimOutcome) -> Error {
    let text = format!("the inbox answered what this version does not know: {outcome:?}");
    Error::new(ErrorKind::Unavailable, "claim", text)
}

fn reply(error: &Error) -> Settlement {
    let reply = Reply::err(RemoteError::new(error));
    Settlement::Complete(Completion::new().with_response(reply))
}
