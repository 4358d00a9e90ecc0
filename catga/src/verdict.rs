//! What an outcome means: for the message, for its claim, for its caller.

use catga_core::{
    Bytes, ClaimEnd, Completion, Delivery, Effects, QoS, Reason, RemoteError, Reply, Settlement,
};

use crate::app::Inner;
use crate::guard::Failure;
use crate::settle::report;
use crate::table::Entry;

/// What becomes of a message, and of its claim.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) settlement: Settlement,
    /// How the claim ends; `None` when it is completed.
    pub(crate) claim: Option<ClaimEnd>,
}

impl Verdict {
    /// The handler was not begun, and is not to be here.
    pub(crate) fn not_begun() -> Self {
        Self {
            settlement: Settlement::Release { began: false },
            claim: Some(ClaimEnd::NotBegun),
        }
    }

    /// The settlement of a delivery whose claim, if any, the backend holds.
    pub(crate) fn committing(self, claimed: bool, effects: Option<Effects>) -> Settlement {
        match self.settlement {
            // Not queued, as an ack may be: whether the claim was still held is to be known.
            Settlement::Ack if claimed => {
                Settlement::Complete(Completion::new().with_effects(effects))
            }
            other => other,
        }
    }
}

/// What an event's outcome means for its message.
pub(crate) fn judge(
    entry: &Entry,
    delivery: &Delivery,
    attempt: u32,
    outcome: Result<Option<Bytes>, Failure>,
) -> Verdict {
    let verdict = |settlement, claim| Verdict { settlement, claim };
    let failure = match outcome {
        Ok(_) => return verdict(Settlement::Ack, None),
        Err(Failure::Stopped) => {
            return verdict(Settlement::Release { began: true }, Some(ClaimEnd::Stopped));
        }
        // It never ran, so that no attempt was used up.
        Err(failure @ Failure::Refused { .. }) => {
            let after = failure.delay();
            let after = after.unwrap_or_else(|| entry.backoff.delay(delivery.count()));
            return verdict(Settlement::Defer { after }, Some(ClaimEnd::NotBegun));
        }
        Err(failure) => failure,
    };
    if failure.is_final() || attempt >= entry.attempts {
        report(
            entry,
            delivery,
            attempt,
            &failure,
            "goes to the dead letters",
        );
        let reason = Reason::new(failure.reason_kind(), failure.to_string());
        let claim = None;
        return verdict(
            Settlement::DeadLetter { reason, claim },
            Some(ClaimEnd::Dead),
        );
    }
    let after = failure
        .delay()
        .unwrap_or_else(|| entry.backoff.delay(attempt));
    report(entry, delivery, attempt, &failure, "is delivered again");
    verdict(Settlement::Nak { after }, Some(ClaimEnd::Failed))
}

/// What a request's outcome means for its caller. A response, and an error that no retry can mend, is kept
/// for duplicates; after another error the handler may run again.
pub(crate) fn answer(
    inner: &Inner,
    entry: &Entry,
    outcome: Result<Option<Bytes>, Failure>,
) -> Verdict {
    let failure = match outcome {
        Ok(bytes) => {
            let mut reply = Reply::ok(bytes.unwrap_or_default());
            reply.content_type =
                (entry.def.message.response_content_type)(&inner.codecs).map(Into::into);
            return replying(reply, None);
        }
        // Another node may have the time that this one has not; a single try was this one.
        Err(Failure::Stopped) if entry.def.message.qos != QoS::AtMostOnce => {
            return Verdict {
                settlement: Settlement::Release { began: true },
                claim: Some(ClaimEnd::Stopped),
            };
        }
        Err(failure) => failure,
    };
    let claim = match &failure {
        Failure::Decode(_) | Failure::Expired | Failure::Refused { .. } => Some(ClaimEnd::NotBegun),
        failure if failure.is_final() => None,
        _ => Some(ClaimEnd::Failed),
    };
    let error = failure.into_error(entry.message.as_str());
    replying(Reply::err(RemoteError::new(&error)), claim)
}

fn replying(reply: Reply, claim: Option<ClaimEnd>) -> Verdict {
    Verdict {
        settlement: Settlement::Complete(Completion::new().with_response(reply)),
        claim,
    }
}
