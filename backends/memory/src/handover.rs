//! Entries on their way from a log to a member.

use std::sync::Arc;
use std::time::Duration;

use catga_core::Envelope;
use tokio::time::Instant;

use crate::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// One delivery: never used twice.
pub(crate) type Token = u64;

/// An entry on its way to a member.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) envelope: Envelope,
    pub(crate) count: u32,
    pub(crate) generation: u32,
    pub(crate) may_have_run: bool,
    /// Where the group's inbox has it claimed for this delivery.
    pub(crate) claim: Option<Claim>,
    pub(crate) token: Token,
}

/// A delivery's claim on its id, as its member has it.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) end: Arc<ClaimEnd>,
    pub(crate) lease_end: Instant,
    pub(crate) ack_wait: Duration,
}

/// The end of a claim: that the message was handled, or that its lease is over. Decided once, for both sides, by who
/// comes first: so a member completes what it handled without waiting to hear of it from the log.
#[derive(Debug, Default)]
pub(crate) struct ClaimEnd(AtomicBool);

impl ClaimEnd {
    /// Whether it is ours to say how the claim ended.
    pub(crate) fn decide(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// Who has a batch: the channel to its member, the member, or the log again.
///
/// A member that does not read its channel in time never saw the batch, so its expiry is no failed
/// attempt. This decides, once and for both sides, which it was.
#[derive(Debug, Default)]
pub(crate) struct Handover(AtomicU8);

impl Handover {
    const ON_ITS_WAY: u8 = 0;
    const TAKEN: u8 = 1;
    const REVOKED: u8 = 2;

    /// Whether the member may handle the batch.
    pub(crate) fn take(&self) -> bool {
        self.decide(Self::TAKEN) == Self::TAKEN
    }

    /// Whether the batch was never taken, nor will be.
    pub(crate) fn revoke(&self) -> bool {
        self.decide(Self::REVOKED) == Self::REVOKED
    }

    fn decide(&self, wish: u8) -> u8 {
        match self
            .0
            .compare_exchange(Self::ON_ITS_WAY, wish, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => wish,
            Err(decided) => decided,
        }
    }
}
