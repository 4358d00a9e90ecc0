//! The inbox: which ids have been handled, and who handles one now.

use std::fmt;
use std::time::Duration;

use uuid::Uuid;

use crate::{Error, MessageId, Name, Reply, async_trait};

/// What an inbox keeps apart: one message, as handled by one group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InboxKey {
    /// The consumer group, or the service that answers a request.
    pub group: Name,
    /// The message's name.
    pub message: Name,
    /// The message's id.
    pub id: MessageId,
}

/// Who claims: fresh for each handling of a message, so that a resumed zombie is nobody.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner(Uuid);

impl Owner {
    /// A new owner.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "a default that differs each time would surprise"
    )]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The token that a store compares.
    #[must_use]
    pub fn as_uuid(&self) -> &Uuid {
        &self.0
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A claim that is held: the right to complete one message.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Claim {
    /// What is claimed.
    pub key: InboxKey,
    /// By whom.
    pub owner: Owner,
    /// The store's own version of the claim (a KV revision), which a renewal moves.
    pub revision: u64,
    /// The generation that was claimed, which a store writes again when it renews or gives up.
    pub generation: u32,
    /// Whether another owner held the claim before and may have run the handler in part.
    pub may_have_run: bool,
}

impl Claim {
    /// A claim of generation 0, as the store granted it.
    #[must_use]
    pub fn new(key: InboxKey, owner: Owner, revision: u64, may_have_run: bool) -> Self {
        Self {
            key,
            owner,
            revision,
            generation: 0,
            may_have_run,
        }
    }

    /// Sets the generation that was claimed.
    #[must_use]
    pub fn with_generation(mut self, generation: u32) -> Self {
        self.generation = generation;
        self
    }
}

/// What a store says to a claim.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClaimOutcome {
    /// Granted: handle it.
    Granted(Claim),
    /// Another owner handles it: ask again after this long, and do not ack meanwhile.
    Running {
        /// When to ask again.
        retry_after: Duration,
    },
    /// It was handled, with this response if it was a request and the response was kept.
    Completed {
        /// The response, when one was kept.
        response: Option<Reply>,
        /// Whether there was a response that was too large to be kept.
        response_dropped: bool,
    },
    /// It was dead-lettered in this generation; a redrive claims with the next.
    Dead {
        /// The generation that was dead-lettered.
        generation: u32,
    },
}

/// Remembers which messages were handled: the second half of QoS 2, and of idempotent requests.
///
/// # Behaviour
/// - `concurrent_claims_grant_one`: of any number of owners, one is granted while its lease holds.
/// - `an_expired_claim_is_taken_over`: after the lease another owner is granted, with `may_have_run`.
/// - `a_lost_claim_cannot_settle`: renew, complete and release by a former owner are refused.
/// - `an_owner_may_repeat`: after an unknown outcome the same owner claims, renews, completes and releases again,
///   with the claim as it was, and is answered as if it were the first time.
/// - `completed_is_final`: until the retention ends, every claim is answered with `Completed`.
#[async_trait]
pub trait InboxStore: Send + Sync + fmt::Debug + 'static {
    /// Claims `key` for `owner`, for one `lease`, in a `generation`: 0, and one more for each redrive.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) or [`Timeout`](crate::ErrorKind::Timeout): the message is not to be handled now.
    async fn claim(
        &self,
        key: &InboxKey,
        owner: Owner,
        lease: Duration,
        generation: u32,
    ) -> Result<ClaimOutcome, Error>;

    /// Starts the lease of a held claim anew.
    ///
    /// # Errors
    /// [`LostOwnership`](crate::ErrorKind::LostOwnership) when it is no longer held.
    async fn renew(&self, claim: &mut Claim, lease: Duration) -> Result<(), Error>;

    /// Records that the message was handled; keeps `response` for duplicates.
    ///
    /// # Errors
    /// [`LostOwnership`](crate::ErrorKind::LostOwnership) when the claim is no longer held.
    async fn complete(&self, claim: Claim, response: Option<&Reply>) -> Result<(), Error>;

    /// Gives the claim up, so that a retry can run; with `dead`, until a redrive.
    ///
    /// # Errors
    /// [`LostOwnership`](crate::ErrorKind::LostOwnership) when the claim is no longer held.
    async fn release(&self, claim: Claim, dead: bool) -> Result<(), Error>;
}
