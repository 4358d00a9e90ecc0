//! QoS 2 in a group: each id is handled by one at a time, and once.

use catga_core::{ClaimEnd, MessageId};
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::group::Job;
use crate::handover::Token;
use crate::inbox::{Claimed, Inbox};

/// The inbox of a group, and the copies that wait for the one that runs.
#[derive(Debug)]
pub(crate) struct Claims {
    /// Its leases are the log's: a claim lasts until the log ends it.
    inbox: Inbox<MessageId, Token>,
    /// Copies of ids that run. The one that runs is never done with before these are, and when it fails it is
    /// the one to go on, after its delay.
    parked: FxHashMap<MessageId, Vec<Job>>,
    parked_count: u64,
}

/// What becomes of a job that is about to be handed out.
#[derive(Debug)]
pub(crate) enum Turn {
    /// It is claimed, and goes out.
    Goes(Job),
    /// A copy of it is out: it is kept here until that one is done with.
    Waits,
    /// Its id was handled or dead-lettered.
    Duplicate(Job),
}

impl Claims {
    pub(crate) fn new(inbox: Inbox<MessageId, Token>) -> Self {
        Self {
            inbox,
            parked: FxHashMap::default(),
            parked_count: 0,
        }
    }

    /// Claims the id of a job for the delivery `token`.
    pub(crate) fn claim(
        &mut self,
        id: MessageId,
        mut job: Job,
        token: Token,
        now: Instant,
    ) -> Turn {
        match self.inbox.claim(&id, token, None, job.generation, now) {
            Claimed::Granted {
                attempt,
                may_have_run,
            } => {
                // Also where the inbox has forgotten what the job remembers.
                job.count = attempt.max(job.count + 1);
                job.ran |= may_have_run;
                Turn::Goes(job)
            }
            Claimed::Running { .. } => {
                self.parked.entry(id).or_default().push(job);
                self.parked_count += 1;
                Turn::Waits
            }
            Claimed::Completed(_) | Claimed::Dead { .. } => Turn::Duplicate(job),
        }
    }

    /// Completes a claim, and gives the copies that waited for it.
    pub(crate) fn complete(&mut self, id: MessageId, token: Token, now: Instant) -> Vec<Job> {
        let completed = self.inbox.complete(&id, token, None, now);
        debug_assert_eq!(
            completed,
            Ok(true),
            "the claim of a delivery that is out is held"
        );
        self.unpark(id)
    }

    /// Gives a claim up as dead, and gives the copies that waited for it.
    pub(crate) fn bury(&mut self, id: MessageId, token: Token, now: Instant) -> Vec<Job> {
        self.release(id, token, ClaimEnd::Dead, now);
        self.unpark(id)
    }

    /// Gives a claim up.
    pub(crate) fn release(&mut self, id: MessageId, token: Token, end: ClaimEnd, now: Instant) {
        let released = self.inbox.release(&id, token, end, now);
        debug_assert_eq!(
            released,
            Ok(()),
            "the claim of a delivery that is out is held"
        );
    }

    pub(crate) fn parked(&self) -> u64 {
        self.parked_count
    }

    /// Forgets the ids that are old enough.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.inbox.expire(now);
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.inbox.next_deadline()
    }

    fn unpark(&mut self, id: MessageId) -> Vec<Job> {
        let jobs = self.parked.remove(&id).unwrap_or_default();
        self.parked_count -= jobs.len() as u64;
        jobs
    }
}
