//! The deliveries of a log that are out, and until when.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::group::Job;
use crate::handover::{ClaimEnd, Handover, Token};
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
    /// Where it is claimed.
    pub(crate) claim_end: Option<Arc<ClaimEnd>>,
}

impl Out {
    /// Whether the end of its lease ends it: not when its member has completed it, whose word is on its way.
    pub(crate) fn lapses(&self) -> bool {
        self.claim_end.as_ref().is_none_or(|end| end.decide())
    }
}

#[derive(Debug, Default)]
pub(crate) struct Leases {
    out: FxHashMap<Token, Out>,
    /// The ends of leases, by their length: those of one length end in the order in which they began. The first of
    /// each queue is that of a delivery which is out; others may be of one that ended, or was extended, since.
    ends: BTreeMap<Duration, VecDeque<End>>,
}

type End = (Instant, Token);

/// How many ends may be of deliveries that ended, beside as many as are out.
const STALE: usize = 64;

impl Leases {
    pub(crate) fn begin(&mut self, token: Token, out: Out) {
        add(&mut self.ends, &out, token);
        self.out.insert(token, out);
    }

    /// Starts a lease anew. Whether there was one.
    pub(crate) fn extend(&mut self, token: Token, now: Instant) -> bool {
        let Some(out) = self.out.get_mut(&token) else {
            return false;
        };
        out.lease_end = now + out.ack_wait;
        add(&mut self.ends, out, token);
        let ack_wait = out.ack_wait;
        self.tidy(ack_wait);
        true
    }

    pub(crate) fn get(&self, token: Token) -> Option<&Out> {
        self.out.get(&token)
    }

    /// Ends a delivery: its token means nothing from here on.
    pub(crate) fn end(&mut self, token: Token) -> Option<Out> {
        let out = self.out.remove(&token)?;
        self.tidy(out.ack_wait);
        Some(out)
    }

    /// A delivery whose lease is over. It is still there, to be ended.
    pub(crate) fn pop_over(&mut self, now: Instant) -> Option<Token> {
        let firsts = self.ends.iter().filter_map(|(wait, ends)| {
            let first = ends.front()?;
            Some((*first, *wait))
        });
        let ((at, token), ack_wait) = firsts.min()?;
        if at > now {
            return None;
        }
        if let Some(ends) = self.ends.get_mut(&ack_wait) {
            ends.pop_front();
        }
        self.tidy(ack_wait);
        Some(token)
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let firsts = self.ends.values().filter_map(VecDeque::front);
        firsts.map(|(at, _)| *at).min()
    }

    /// Removes what is stale: in front, and everywhere once it outnumbers what is out.
    fn tidy(&mut self, ack_wait: Duration) {
        let Self { out, ends } = self;
        let is_live = |(at, token): &End| out.get(token).is_some_and(|out| out.lease_end == *at);
        let Some(ends) = ends.get_mut(&ack_wait) else {
            return;
        };
        while ends.front().is_some_and(|first| !is_live(first)) {
            ends.pop_front();
        }
        if ends.len() > 2 * out.len() + STALE {
            ends.retain(is_live);
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        let ends: usize = self.ends.values().map(VecDeque::len).sum();
        assert!(self.out.len() <= ends && ends <= 2 * self.out.len() + STALE);
        self.out.len()
    }
}

fn add(ends: &mut BTreeMap<Duration, VecDeque<End>>, out: &Out, token: Token) {
    let ends = ends.entry(out.ack_wait).or_default();
    let end = (out.lease_end, token);
    debug_assert!(
        ends.back().is_none_or(|(last, _)| *last <= end.0),
        "the clock does not go back"
    );
    ends.push_back(end);
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use catga_core::{Bytes, Envelope, Name, QoS};

    use super::*;
    use crate::group::Entry;

    const SECOND: Duration = Duration::from_secs(1);

    fn begin(leases: &mut Leases, token: Token, now: Instant, ack_wait: Duration) {
        let name = Name::from_static("orders.created");
        let entry = Entry {
            envelope: Envelope::received(name, QoS::AtLeastOnce, Bytes::new()),
            published_at: SystemTime::now(),
        };
        let out = Out {
            job: Job::new(token, Arc::new(entry)),
            group: 0,
            member: 0,
            ack_wait,
            lease_end: now + ack_wait,
            handover: Arc::default(),
            claim_end: None,
        };
        leases.begin(token, out);
    }

    /// The tokens whose leases are over, in order.
    fn over(leases: &mut Leases, now: Instant) -> Vec<Token> {
        let mut over = Vec::new();
        while let Some(token) = leases.pop_over(now) {
            assert!(leases.end(token).is_some());
            over.push(token);
        }
        over
    }

    #[test]
    fn leases_of_all_lengths_end_in_their_order() {
        let (mut leases, now) = (Leases::default(), Instant::now());
        begin(&mut leases, 1, now, 3 * SECOND);
        begin(&mut leases, 2, now, SECOND);
        assert_eq!(leases.next_deadline(), Some(now + SECOND));
        assert!(leases.extend(2, now + SECOND / 2) && !leases.extend(9, now));
        begin(&mut leases, 3, now + SECOND, SECOND);
        begin(&mut leases, 4, now + SECOND, 3 * SECOND);
        assert!(leases.end(3).is_some() && leases.end(3).is_none());
        assert_eq!(leases.next_deadline(), Some(now + SECOND * 3 / 2));
        assert!(over(&mut leases, now + SECOND).is_empty());
        assert_eq!(over(&mut leases, now + 4 * SECOND), [2, 1, 4]);
        assert_eq!((leases.len(), leases.next_deadline()), (0, None));
    }

    #[test]
    fn one_that_lasts_keeps_nothing_of_those_behind_it() {
        let (mut leases, now) = (Leases::default(), Instant::now());
        begin(&mut leases, 0, now, SECOND);
        for token in 1..10_000 {
            begin(&mut leases, token, now, SECOND);
            assert!(leases.end(token).is_some());
            assert_eq!(leases.len(), 1);
        }
        assert_eq!(over(&mut leases, now + SECOND), [0]);
    }
}
