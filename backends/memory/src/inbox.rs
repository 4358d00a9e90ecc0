//! Which ids were handled, and who handles one now.
//!
//! No task, no channel, no clock of its own: a group's [`claims`](crate::claims) and the task of the
//! [`inbox_store`](crate::inbox_store) drive it, tests call it.

use std::collections::BTreeMap;
use std::hash::Hash;

use catga_core::{ClaimEnd, InboxLimits, Name, Reply};
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::timer::FAR;

mod ended;
#[cfg(test)]
mod tests;

use ended::{At, Ended};

/// What a claim is answered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Claimed {
    /// Granted, as this run of its generation.
    Granted { attempt: u32, may_have_run: bool },
    /// Another owner has it, until then unless it renews; `None` when only its owner can tell.
    Running { until: Option<Instant> },
    /// Handled before.
    Completed(Response),
    /// Dead-lettered in this generation.
    Dead { generation: u32 },
}

/// What is left of the response to a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Response {
    /// There was none.
    None,
    /// It was larger than what is kept.
    Dropped,
    Kept(Box<Reply>),
}

/// The claim is not, or no longer, its owner's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost;

/// The records of one message name, by key, with owners that are told apart by `O`.
#[derive(Debug)]
pub(crate) struct Inbox<K, O> {
    message: Name,
    response_limit: usize,
    /// The most ids that are kept while nobody handles them.
    most: usize,
    records: FxHashMap<K, Record<O>>,
    /// The ends of leases.
    leases: BTreeMap<At, K>,
    /// The ids of all records that are not running.
    ended: Ended<K>,
    /// Makes instants unique.
    next_at: u64,
    /// Ids that were forgotten before their time.
    evicted: u64,
}

#[derive(Debug)]
struct Record<O> {
    state: State<O>,
    generation: u32,
    /// The grants of this generation that count.
    attempts: u32,
    /// Whether a run that ended may have had effects.
    ran: bool,
}

#[derive(Debug)]
enum State<O> {
    Running {
        owner: O,
        lease: Option<At>,
    },
    /// Free to be claimed; `last` gave it up, unless it lost it. Without `since` it is being made.
    Idle {
        last: Option<O>,
        since: Option<At>,
    },
    Completed {
        by: O,
        response: Response,
    },
    Dead {
        by: O,
        since: At,
    },
}

impl<K: Clone + Eq + Hash, O: Copy + Eq> Inbox<K, O> {
    pub(crate) fn new(message: Name, limits: InboxLimits, most: usize) -> Self {
        let retention = limits.retention.min(FAR);
        let responses = limits.response_retention.min(FAR);
        Self {
            message,
            response_limit: limits.response_limit,
            most,
            records: FxHashMap::default(),
            leases: BTreeMap::new(),
            ended: Ended::new(
                limits
                    .with_retention(retention)
                    .with_responses(responses, limits.response_limit),
            ),
            next_at: 0,
            evicted: 0,
        }
    }

    /// Claims `key` until `lease` ends; without one, until its owner ends the claim.
    pub(crate) fn claim(
        &mut self,
        key: &K,
        owner: O,
        lease: Option<Instant>,
        generation: u32,
        now: Instant,
    ) -> Claimed {
        self.age(now);
        let claimed = self.grant(key, owner, lease, generation);
        // Not before: the claimed id may be the oldest.
        self.evict();
        claimed
    }

    fn grant(&mut self, key: &K, owner: O, lease: Option<Instant>, generation: u32) -> Claimed {
        let record = self.records.entry(key.clone()).or_insert(Record {
            state: State::Idle {
                last: None,
                since: None,
            },
            generation,
            attempts: 0,
            ran: false,
        });
        let (repeated, before, since) = match &record.state {
            State::Completed { response, .. } => return Claimed::Completed(response.clone()),
            // Its dead letter was stored, and taken out for the redrive that is being handled.
            state if generation < record.generation && !matches!(state, State::Dead { .. }) => {
                return Claimed::Completed(Response::None);
            }
            State::Dead { .. } if generation <= record.generation => {
                let generation = record.generation;
                return Claimed::Dead { generation };
            }
            State::Running {
                owner: other,
                lease,
            } if *other != owner => {
                let until = lease.map(|(at, _)| at);
                return Claimed::Running { until };
            }
            State::Running { lease, .. } => (true, *lease, None),
            State::Idle { since, .. } => (false, None, *since),
            State::Dead { since, .. } => (false, None, Some(*since)),
        };
        if !repeated {
            if generation > record.generation {
                record.generation = generation;
                record.attempts = 0;
            }
            record.attempts += 1;
        }
        let (attempt, may_have_run) = (record.attempts, record.ran);
        if let Some(since) = since {
            self.ended.remove_free(since);
        }
        self.start(key, owner, before, lease);
        Claimed::Granted {
            attempt,
            may_have_run,
        }
    }

    /// Starts the lease of a held claim anew.
    pub(crate) fn renew(
        &mut self,
        key: &K,
        owner: O,
        lease: Instant,
        now: Instant,
    ) -> Result<(), Lost> {
        self.expire(now);
        let before = self.held(key, owner)?;
        self.start(key, owner, before, Some(lease));
        Ok(())
    }

    /// Completes a held claim, or says `false` to an owner that did so before.
    pub(crate) fn complete(
        &mut self,
        key: &K,
        owner: O,
        response: Option<Reply>,
        now: Instant,
    ) -> Result<bool, Lost> {
        self.expire(now);
        let record = self.records.get_mut(key).ok_or(Lost)?;
        let lease = match record.state {
            State::Completed { by, .. } if by == owner => return Ok(false),
            State::Running { owner: by, lease } if by == owner => lease,
            _ => return Err(Lost),
        };
        let response = keep(response, self.response_limit);
        let with_response = response != Response::None;
        record.state = State::Completed {
            by: owner,
            response,
        };
        self.forget_lease(lease);
        let at = self.unique(now);
        self.ended.add_completed(at, key.clone(), with_response);
        self.evict();
        Ok(true)
    }

    /// Gives a held claim up. An owner that did so before is told the same.
    pub(crate) fn release(
        &mut self,
        key: &K,
        owner: O,
        end: ClaimEnd,
        now: Instant,
    ) -> Result<(), Lost> {
        self.expire(now);
        let record = self.records.get_mut(key).ok_or(Lost)?;
        let lease = match record.state {
            State::Running { owner: by, lease } if by == owner => lease,
            State::Idle { last: Some(by), .. } | State::Dead { by, .. } if by == owner => {
                return Ok(());
            }
            _ => return Err(Lost),
        };
        if matches!(end, ClaimEnd::NotBegun | ClaimEnd::Stopped) {
            record.attempts -= 1;
        }
        record.ran |= end != ClaimEnd::NotBegun;
        self.forget_lease(lease);
        self.free(key, now, |since| {
            if end == ClaimEnd::Dead {
                State::Dead { by: owner, since }
            } else {
                State::Idle {
                    last: Some(owner),
                    since: Some(since),
                }
            }
        });
        self.evict();
        Ok(())
    }

    /// Ends the leases that are over, and forgets what is old enough or too much.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.age(now);
        self.evict();
    }

    /// When [`expire`](Self::expire) is worth a call.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let lease = self.leases.first_key_value().map(|((at, _), _)| *at);
        lease.into_iter().chain(self.ended.next_deadline()).min()
    }

    fn age(&mut self, now: Instant) {
        while let Some(first) = self.leases.first_entry()
            && first.key().0 <= now
        {
            let ((at, _), key) = first.remove_entry();
            let record = self
                .records
                .get_mut(&key)
                .expect("who has a lease has a record");
            record.ran = true;
            self.free(&key, at, |since| State::Idle {
                last: None,
                since: Some(since),
            });
        }
        while let Some(key) = self.ended.pop_old(now) {
            self.records.remove(&key);
        }
    }

    fn held(&self, key: &K, owner: O) -> Result<Option<At>, Lost> {
        match self.records.get(key).map(|record| &record.state) {
            Some(State::Running { owner: by, lease }) if *by == owner => Ok(*lease),
            _ => Err(Lost),
        }
    }

    /// Sets a record running, with its lease in place of the one before.
    fn start(&mut self, key: &K, owner: O, before: Option<At>, lease: Option<Instant>) {
        self.forget_lease(before);
        let lease = lease.map(|at| self.unique(at));
        if let Some(at) = lease {
            self.leases.insert(at, key.clone());
        }
        let record = self.records.get_mut(key).expect("the caller found it");
        record.state = State::Running { owner, lease };
    }

    /// Sets a record that ran free, to be forgotten when nobody claims it for as long as completed ids are kept.
    fn free(&mut self, key: &K, since: Instant, state: impl FnOnce(At) -> State<O>) {
        let since = self.unique(since);
        self.ended.add_free(since, key.clone());
        let record = self.records.get_mut(key).expect("the caller found it");
        record.state = state(since);
    }

    fn unique(&mut self, at: Instant) -> At {
        self.next_at += 1;
        (at, self.next_at)
    }

    fn forget_lease(&mut self, lease: Option<At>) {
        if let Some(lease) = lease {
            self.leases.remove(&lease);
        }
    }

    /// Forgets the oldest that ended while there are too many.
    fn evict(&mut self) {
        while self.ended.len() > self.most
            && let Some(oldest) = self.ended.pop_oldest()
        {
            self.records.remove(&oldest);
            if self.evicted == 0 {
                tracing::warn!(
                    message = %self.message, most = self.most,
                    "the inbox is full: ids are forgotten before their retention ends; raise the URL option `inbox`"
                );
            }
            self.evicted += 1;
        }
    }
}

fn keep(response: Option<Reply>, limit: usize) -> Response {
    let Some(reply) = response else {
        return Response::None;
    };
    let size = match &reply.result {
        Ok(payload) => payload.len(),
        Err(error) => error.message.len(),
    };
    if size > limit {
        Response::Dropped
    } else {
        Response::Kept(Box::new(reply))
    }
}
