//! The deliveries of a log that are out, and until when.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::group::Job;
use crate::handover::{Handover, Token};
use crate::log::{GroupId, MemberId};

/// A delivery that is not settled.
#[derive(Debug)]
pub(crate) struct Out {
    pub(crate) job: Job,
    pub(crate) group: GroupId,
    pub(crate) member: MemberId,
    pub(crate) ack_wait: Duration,
    pub(crate) lease_end: Instant,
    pub(crate) handover: Arc<Handover>,
}

#[derive(Debug, Default)]
pub(crate) struct Leases {
    out: HashMap<Token, Out>,
    ends: BTreeSet<(Instant, Token)>,
}

impl Leases {
    pub(crate) fn begin(&mut self, token: Token, out: Out) {
        self.ends.insert((out.lease_end, token));
        self.out.insert(token, out);
    }

    /// Starts a lease anew. Whether there was one.
    pub(crate) fn extend(&mut self, token: Token, now: Instant) -> bool {
        let Some(out) = self.out.get_mut(&token) else {
            return false;
        };
        self.ends.remove(&(out.lease_end, token));
        out.lease_end = now + out.ack_wait;
        self.ends.insert((out.lease_end, token));
        true
    }

    pub(crate) fn get(&self, token: Token) -> Option<&Out> {
        self.out.get(&token)
    }

    /// Ends a delivery: its token means nothing from here on.
    pub(crate) fn end(&mut self, token: Token) -> Option<Out> {
        let out = self.out.remove(&token)?;
        self.ends.remove(&(out.lease_end, token));
        Some(out)
    }

    /// A delivery whose lease is over. It is still there, to be ended.
    pub(crate) fn pop_over(&mut self, now: Instant) -> Option<Token> {
        let &(at, token) = self.ends.first().filter(|(at, _)| *at <= now)?;
        self.ends.remove(&(at, token));
        Some(token)
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.ends.first().map(|(at, _)| *at)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        assert_eq!(self.out.len(), self.ends.len());
        self.out.len()
    }
}
