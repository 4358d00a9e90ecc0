//! One consumer group of a log, and what it has to hand out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use catga_core::{Consumers, Envelope};

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
    /// How often it was delivered.
    pub(crate) count: u32,
    /// How often it was redriven.
    pub(crate) generation: u32,
}

/// A group: it outlives its members, as a durable does.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) consumers: Consumers,
    /// Where the entries begin that were never delivered.
    pub(crate) cursor: u64,
    /// How many of those there are.
    pub(crate) fresh: u64,
    /// What was delivered before and is ready again.
    again: VecDeque<Job>,
    /// How many wait for their delay to pass.
    pub(crate) delayed: u64,
    /// The sum of what waits, for those who ask without going through the log's task.
    waiting: Arc<AtomicU64>,
}

impl Group {
    pub(crate) fn new(consumers: Consumers, cursor: u64, fresh: u64) -> Self {
        Self {
            consumers,
            cursor,
            fresh,
            again: VecDeque::new(),
            delayed: 0,
            waiting: Arc::default(),
        }
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.again.is_empty() || self.fresh > 0
    }

    pub(crate) fn next_again(&mut self) -> Option<Job> {
        self.again.pop_front()
    }

    /// Puts a job behind the others that are ready again.
    pub(crate) fn retry(&mut self, job: Job) {
        self.again.push_back(job);
    }

    /// Puts a job back in front, as if it had not been delivered.
    pub(crate) fn put_back(&mut self, mut job: Job) {
        job.count = job.count.saturating_sub(1);
        self.again.push_front(job);
    }

    pub(crate) fn waiting(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.waiting)
    }

    pub(crate) fn publish_waiting(&self) {
        let sum = self.fresh + self.again.len() as u64 + self.delayed;
        self.waiting.store(sum, Ordering::Relaxed);
    }
}
