//! One consumer group of a log, and what it has to hand out.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use catga_core::{Consumers, Envelope, MessageId, QoS, Subscribe};

use crate::claims::Claims;
use crate::partition::Partitions;

/// A message in the log, shared by the groups that handle it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) envelope: Envelope,
    pub(crate) published_at: SystemTime,
}

/// An entry as one group handles it.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// Its place in the log; a redriven entry has none, since no other group waits for it.
    pub(crate) seq: Option<u64>,
    pub(crate) entry: Arc<Entry>,
    /// How often it was delivered; of one that is claimed, how often its id was, as far as that counts.
    pub(crate) count: u32,
    /// How often it was redriven.
    pub(crate) generation: u32,
    /// Whether a handler may have had it before.
    pub(crate) ran: bool,
}

impl Job {
    /// An entry that was never delivered.
    pub(crate) fn new(seq: u64, entry: Arc<Entry>) -> Self {
        Self {
            seq: Some(seq),
            entry,
            count: 0,
            generation: 0,
            ran: false,
        }
    }
}

/// What all members of a group have to ask for alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mode {
    qos: QoS,
    ordered: Option<NonZeroU16>,
    /// Whether each id is claimed as it is handed out.
    pub(crate) claims: bool,
}

impl Mode {
    pub(crate) fn of(subscribe: &Subscribe) -> Self {
        Self {
            qos: subscribe.qos,
            ordered: subscribe.ordered,
            claims: subscribe.qos == QoS::ExactlyOnce && subscribe.own_inbox,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "qos={}, ordered=", self.qos)?;
        match self.ordered {
            Some(partitions) => write!(f, "{partitions}")?,
            None => write!(f, "no")?,
        }
        if self.qos == QoS::ExactlyOnce {
            write!(f, ", own_inbox={}", self.claims)?;
        }
        Ok(())
    }
}

/// What a member need not go through the log's task for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// What waits to be handed out: the group's.
    pub(crate) waiting: Arc<AtomicU64>,
    /// What was not handed out, because its id had been handled: the member's, so that those of a group add up.
    pub(crate) duplicates: Arc<AtomicU64>,
}

/// A group: it outlives its members, as a durable does.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) consumers: Consumers,
    pub(crate) mode: Mode,
    /// Where the entries begin that were never delivered, unless the group is ordered.
    pub(crate) cursor: u64,
    /// How many of those there are.
    pub(crate) fresh: u64,
    /// What was delivered before and is ready again, unless the group is ordered.
    again: VecDeque<Job>,
    /// What was there before the group, and was not delivered yet, unless the group is ordered.
    retained: VecDeque<Job>,
    order: Option<Partitions>,
    /// How many wait for their delay to pass.
    pub(crate) delayed: u64,
    pub(crate) claims: Option<Claims>,
    pub(crate) waiting: Arc<AtomicU64>,
}

impl Group {
    /// A group that begins at `cursor`, with nothing there yet.
    pub(crate) fn new(
        consumers: Consumers,
        mode: Mode,
        cursor: u64,
        claims: Option<Claims>,
    ) -> Self {
        Self {
            consumers,
            mode,
            cursor,
            fresh: 0,
            again: VecDeque::new(),
            retained: VecDeque::new(),
            order: mode.ordered.map(|_| Partitions::default()),
            delayed: 0,
            claims,
            waiting: Arc::default(),
        }
    }

    /// An entry is in the log. Only an ordered group looks at it before its turn.
    pub(crate) fn arrive(&mut self, seq: u64, entry: &Arc<Entry>) {
        match &mut self.order {
            Some(order) => order.push(Job::new(seq, Arc::clone(entry))),
            None => self.fresh += 1,
        }
    }

    pub(crate) fn has_ready(&self) -> bool {
        match &self.order {
            Some(order) => order.has_ready(),
            None => !self.again.is_empty() || !self.retained.is_empty() || self.fresh > 0,
        }
    }

    /// The next job that does not come from the log's own queue.
    pub(crate) fn next_job(&mut self) -> Option<Job> {
        match &mut self.order {
            Some(order) => order.take(),
            None => self.again.pop_front().or_else(|| self.retained.pop_front()),
        }
    }

    /// A job of an entry that was there before the group.
    pub(crate) fn retained(&mut self, job: Job) {
        match &mut self.order {
            Some(order) => order.push(job),
            None => self.retained.push_back(job),
        }
    }

    /// A job of a redriven entry: it queues behind the others.
    pub(crate) fn redriven(&mut self, job: Job) {
        match &mut self.order {
            Some(order) => order.push(job),
            None => self.again.push_back(job),
        }
    }

    /// Puts a job behind the others that are ready again; where there is an order, in front of its partition.
    pub(crate) fn retry(&mut self, job: Job) {
        match &mut self.order {
            Some(order) => order.put_back(job),
            None => self.again.push_back(job),
        }
    }

    /// Puts a job back in front.
    pub(crate) fn put_back(&mut self, job: Job) {
        match &mut self.order {
            Some(order) => order.put_back(job),
            None => self.again.push_front(job),
        }
    }

    /// The group has done with a job.
    pub(crate) fn done(&mut self, job: &Job) {
        if let Some(order) = &mut self.order {
            order.free(job);
        }
    }

    /// The id that a job is handled once by, whoever claims it.
    pub(crate) fn once_id(&self, job: &Job) -> Option<MessageId> {
        let id = job.entry.envelope.id();
        id.filter(|_| self.mode.qos == QoS::ExactlyOnce)
    }

    /// The claims of the group, and the id that a job is claimed by, where it is.
    pub(crate) fn claim_of(&mut self, job: &Job) -> Option<(&mut Claims, MessageId)> {
        let id = self.claim_id(job)?;
        Some((self.claims.as_mut()?, id))
    }

    /// The id that a job is claimed by, where it is.
    pub(crate) fn claim_id(&self, job: &Job) -> Option<MessageId> {
        self.claims.as_ref().and(job.entry.envelope.id())
    }

    pub(crate) fn publish_waiting(&self) {
        let parked = self.claims.as_ref().map_or(0, Claims::parked);
        let ordered = self.order.as_ref().map_or(0, Partitions::waiting);
        let kept = (self.again.len() + self.retained.len()) as u64;
        let sum = self.fresh + kept + ordered + self.delayed + parked;
        self.waiting.store(sum, Ordering::Relaxed);
    }
}
