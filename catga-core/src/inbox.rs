//! The inbox: which ids have been handled, and who handles one now.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::{Error, MessageId, Name, NodeId, Reply, async_trait};

/// What an inbox keeps apart: one message, as handled by one group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct InboxKey {
    /// The consumer group, or the service that answers a request.
    pub group: Name,
    /// In an `each_node` group, the node: each handles every message.
    pub node: Option<NodeId>,
    /// The message's name.
    pub message: Name,
    /// The message's id.
    pub id: MessageId,
}

impl InboxKey {
    /// The key of a message that one member of a group handles.
    #[must_use]
    pub fn new(group: Name, message: Name, id: MessageId) -> Self {
        Self {
            group,
            node: None,
            message,
            id,
        }
    }

    /// Sets the node that handles it, where each node does.
    #[must_use]
    pub fn with_node(mut self, node: Option<NodeId>) -> Self {
        self.node = node;
        self
    }
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
    /// The number of this run in its generation, from 1: how often the claim was granted, less those
    /// that were released as [`NotBegun`](ClaimEnd::NotBegun).
    pub attempt: u32,
    /// Whether the handler may have run before, in whole or in part, in any generation.
    pub may_have_run: bool,
}

impl Claim {
    /// The first claim of generation 0, as the store granted it.
    #[must_use]
    pub fn new(key: InboxKey, owner: Owner, revision: u64) -> Self {
        Self {
            key,
            owner,
            revision,
            generation: 0,
            attempt: 1,
            may_have_run: false,
        }
    }

    /// Sets the generation that was claimed.
    #[must_use]
    pub fn with_generation(mut self, generation: u32) -> Self {
        self.generation = generation;
        self
    }

    /// Sets the number of this run, and whether one before it may have had effects.
    #[must_use]
    pub fn with_attempt(mut self, attempt: u32, may_have_run: bool) -> Self {
        self.attempt = attempt;
        self.may_have_run = may_have_run;
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
    /// It was handled, with this response if it was a request and the response was kept. Also said to a copy of an
    /// older generation than the one that is being handled.
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

/// How a claim ends that is not completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClaimEnd {
    /// The handler did not begin: as if it had never been claimed.
    NotBegun,
    /// The handler began and was stopped by a shutdown: not counted as an attempt, but it may have run.
    Stopped,
    /// The handler failed: the next attempt may run.
    Failed,
    /// It is dead-lettered: nobody runs it before a redrive, which claims with the next generation.
    Dead,
}

/// What a handler wrote for a [`CommitStore`], to be applied together with the completion of its
/// claim. Opaque to everybody but the store.
#[derive(Clone)]
pub struct Effects(Arc<dyn Any + Send + Sync>);

impl Effects {
    /// The effects that a transaction collected.
    #[must_use]
    pub fn new<T: Any + Send + Sync>(transaction: T) -> Self {
        Self(Arc::new(transaction))
    }

    /// The transaction, when it is of this type.
    #[must_use]
    pub fn downcast_ref<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }

    /// The transaction, to collect more, when it is of this type and nobody else holds it yet.
    #[must_use]
    pub fn downcast_mut<T: Any>(&mut self) -> Option<&mut T> {
        Arc::get_mut(&mut self.0)?.downcast_mut()
    }
}

impl fmt::Debug for Effects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Effects")
    }
}

/// A store in which a handler's effects are committed in one step with its claim: all of them, once,
/// or none.
///
/// The value itself is the way to read what was committed; backends export one where their inbox can
/// do it, and hand it out in [`InboxStore::commit_store`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no store that a handler can commit to",
    label = "not a commit store",
    note = "backends export theirs: `Commit<catga::memory::Memory>` on `memory://`"
)]
pub trait CommitStore: Send + Sync + 'static {
    /// What errors call the store.
    const NAME: &'static str;
    /// Collects what a handler writes.
    type Transaction: Default + Send + Sync + 'static;
}

/// Remembers which messages were handled: the second half of QoS 2, and of idempotent requests.
///
/// # Behaviour
/// - `concurrent_claims_grant_one`: of any number of owners, one is granted while its lease holds.
/// - `an_expired_claim_is_taken_over`: after the lease another owner is granted, with `may_have_run`.
/// - `a_lost_claim_cannot_settle`: renew, complete and release by a former owner are refused.
/// - `an_owner_may_repeat`: after an unknown outcome the same owner claims, renews, completes and releases again,
///   with the claim as it was, and is answered as if it were the first time.
/// - `the_owner_decides`: a renewal may be dropped half-way, and leave [`Claim::revision`] behind; complete and
///   release go by the owner, whatever the revision says.
/// - `completed_is_final`: until the retention ends, every claim is answered with `Completed`.
/// - `effects_with_the_claim`: effects are applied when the completion is, and with nothing else.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an inbox",
    label = "not an inbox",
    note = "take the inbox of a backend, or write `impl catga_core::InboxStore for {Self}`, with `#[catga_core::async_trait]`"
)]
#[async_trait]
pub trait InboxStore: Send + Sync + fmt::Debug + 'static {
    /// Claims `key` for `owner`, for one `lease`, in a `generation`: 0, and one more for each redrive.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) or [`Timeout`](crate::ErrorKind::Timeout): the message is not to be handled now.
    /// [`Error::may_be_stored`] says whether the claim may have been granted: then the same owner asks again.
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

    /// Records that the message was handled; keeps `response` for duplicates, and applies `effects`
    /// in the same step.
    ///
    /// # Errors
    /// - [`LostOwnership`](crate::ErrorKind::LostOwnership) when the claim is no longer held.
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) for effects of another store.
    async fn complete(
        &self,
        claim: &Claim,
        response: Option<&Reply>,
        effects: Option<&Effects>,
    ) -> Result<(), Error>;

    /// Gives the claim up, as `end` says.
    ///
    /// # Errors
    /// [`LostOwnership`](crate::ErrorKind::LostOwnership) when the claim is no longer held.
    async fn release(&self, claim: &Claim, end: ClaimEnd) -> Result<(), Error>;

    /// The [`CommitStore`] whose effects this inbox commits, where it can.
    fn commit_store(&self) -> Option<&(dyn Any + Send + Sync)> {
        None
    }
}
