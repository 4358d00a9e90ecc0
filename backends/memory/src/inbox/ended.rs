//! The ids that nobody handles now, by the time at which that began.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use catga_core::InboxLimits;
use tokio::time::Instant;

/// An instant, and a number that makes it unique.
pub(super) type At = (Instant, u64);

/// Ids that ended. Each is here once, so that their number is that of their records.
#[derive(Debug)]
pub(super) struct Ended<K> {
    limits: InboxLimits,
    /// What may be claimed again: what was given up or lost, and what is dead. Apart from what never leaves
    /// the middle of its queue, which costs less.
    free: BTreeMap<At, K>,
    /// What completed without a response.
    done: VecDeque<(At, K)>,
    /// What completed with a response.
    answered: VecDeque<(At, K)>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Free,
    Done,
    Answered,
}

impl<K> Ended<K> {
    pub(super) fn new(limits: InboxLimits) -> Self {
        Self {
            limits,
            free: BTreeMap::new(),
            done: VecDeque::new(),
            answered: VecDeque::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.free.len() + self.done.len() + self.answered.len()
    }

    /// An id was given up or lost, or is dead.
    pub(super) fn add_free(&mut self, at: At, key: K) {
        self.free.insert(at, key);
    }

    /// An id is claimed that was free since then.
    pub(super) fn remove_free(&mut self, at: At) {
        self.free.remove(&at);
    }

    /// An id completed, now.
    pub(super) fn add_completed(&mut self, at: At, key: K, with_response: bool) {
        let queue = if with_response {
            &mut self.answered
        } else {
            &mut self.done
        };
        queue.push_back((at, key));
    }

    /// Takes the oldest out.
    pub(super) fn pop_oldest(&mut self) -> Option<K> {
        let (_, kind) = self.oldest().min_by_key(|(at, _)| *at)?;
        self.pop(kind)
    }

    /// Takes one out that was kept for long enough.
    pub(super) fn pop_old(&mut self, now: Instant) -> Option<K> {
        let is_old = |((since, _), kind): &(At, Kind)| *since + self.retention(*kind) <= now;
        let (_, kind) = self.oldest().find(is_old)?;
        self.pop(kind)
    }

    /// When [`pop_old`](Self::pop_old) is worth a call: later than it could be, so that a burst of ids is not
    /// followed by a burst of ticks.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let lazily = |((since, _), kind): (At, Kind)| {
            let retention = self.retention(kind);
            since + retention + retention / 16
        };
        self.oldest().map(lazily).min()
    }

    /// The oldest of each kind.
    fn oldest(&self) -> impl Iterator<Item = (At, Kind)> {
        let free = self.free.first_key_value().map(|(at, _)| (*at, Kind::Free));
        let done = self.done.front().map(|(at, _)| (*at, Kind::Done));
        let answered = self.answered.front().map(|(at, _)| (*at, Kind::Answered));
        [free, done, answered].into_iter().flatten()
    }

    fn pop(&mut self, kind: Kind) -> Option<K> {
        let popped = match kind {
            Kind::Free => self.free.pop_first(),
            Kind::Done => self.done.pop_front(),
            Kind::Answered => self.answered.pop_front(),
        };
        popped.map(|(_, key)| key)
    }

    fn retention(&self, kind: Kind) -> Duration {
        match kind {
            Kind::Free | Kind::Done => self.limits.retention,
            Kind::Answered => self.limits.response_retention,
        }
    }
}
