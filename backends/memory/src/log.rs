//! The log of one message name: what is retained, who has what, and until when.
//!
//! No task, no channel, no clock of its own: [`stream`](crate::stream) drives it, tests call it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use catga_core::{Consumers, Envelope, Error, Name, Reason, Start, Subscribe};
use tokio::time::Instant;

use crate::error;
use crate::group::{Entry, Group, Job};
use crate::handover::{Handed, Handover, Token};
use crate::letters::Letters;
use crate::options::Settings;
use crate::timer::FAR;

/// The index of a group: groups are never removed.
pub(crate) type GroupId = usize;
/// A member of a group, numbered by whoever joins.
pub(crate) type MemberId = u64;

/// What becomes of a delivery.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It is handled, or dropped for good.
    Done,
    /// Its lease starts anew.
    Extend,
    /// It is ready again after a delay.
    Retry(Duration),
    /// It is ready at once, as if it had not been delivered.
    Release,
    /// It goes into the dead letters.
    DeadLetter(Reason),
}

#[derive(Debug)]
struct Slot {
    entry: Arc<Entry>,
    /// The groups that have not done with it.
    open: usize,
}

#[derive(Debug)]
struct Member {
    group: GroupId,
    ack_wait: Duration,
    max_in_flight: usize,
    held: usize,
}

/// A delivery that is not settled.
#[derive(Debug)]
struct Out {
    job: Job,
    group: GroupId,
    member: MemberId,
    ack_wait: Duration,
    lease_end: Instant,
    handover: Arc<Handover>,
}

#[derive(Debug)]
pub(crate) struct Log {
    name: Name,
    capacity: usize,
    slots: BTreeMap<u64, Slot>,
    next_seq: u64,
    groups: Vec<Group>,
    members: HashMap<MemberId, Member>,
    out: HashMap<Token, Out>,
    leases: BTreeSet<(Instant, Token)>,
    delayed: BTreeMap<(Instant, u64), (GroupId, Job)>,
    pub(crate) letters: Letters,
    /// Makes tokens and the keys of delayed jobs unique.
    next_id: u64,
    /// Entries that no group wanted in time.
    dropped: u64,
    /// Acks that came after their lease.
    late_acks: u64,
}

impl Log {
    pub(crate) fn new(name: Name, settings: Settings, letter_numbers: Arc<AtomicU64>) -> Self {
        Self {
            name,
            capacity: settings.capacity,
            slots: BTreeMap::new(),
            next_seq: 0,
            groups: Vec::new(),
            members: HashMap::new(),
            out: HashMap::new(),
            leases: BTreeSet::new(),
            delayed: BTreeMap::new(),
            letters: Letters::new(settings.dead_letters, letter_numbers),
            next_id: 0,
            dropped: 0,
            late_acks: 0,
        }
    }

    /// Whether [`push`](Self::push) may be called. Without any group the oldest makes room.
    pub(crate) fn has_room(&self) -> bool {
        self.groups.is_empty() || self.slots.len() < self.capacity
    }

    /// Takes a message in.
    pub(crate) fn push(&mut self, envelope: Envelope) {
        debug_assert!(self.has_room(), "the caller asks `has_room` first");
        if self.slots.len() >= self.capacity {
            self.drop_oldest();
        }
        let entry = Arc::new(Entry {
            envelope,
            published_at: SystemTime::now(),
        });
        let open = self.groups.len();
        self.slots.insert(self.next_seq, Slot { entry, open });
        self.next_seq += 1;
        for group in &mut self.groups {
            group.fresh += 1;
        }
    }

    fn drop_oldest(&mut self) {
        self.slots.pop_first();
        if self.dropped == 0 {
            tracing::warn!(
                message = %self.name, capacity = self.capacity,
                "no group subscribes to this message: the oldest are dropped"
            );
        }
        self.dropped += 1;
    }

    /// Adds a member, and its group when that is new.
    pub(crate) fn join(&mut self, id: MemberId, subscribe: &Subscribe) -> GroupId {
        let consumers = &subscribe.consumers;
        let present = self.groups.iter().position(|g| g.consumers == *consumers);
        let group = present.unwrap_or_else(|| self.add_group(consumers.clone(), subscribe.start));
        let member = Member {
            group,
            ack_wait: subscribe.ack_wait.min(FAR),
            max_in_flight: subscribe.max_in_flight.max(1),
            held: 0,
        };
        self.members.insert(id, member);
        group
    }

    /// The group of a member, while it is one.
    pub(crate) fn group_of(&self, member: MemberId) -> Option<GroupId> {
        self.members.get(&member).map(|member| member.group)
    }

    fn add_group(&mut self, consumers: Consumers, start: Start) -> GroupId {
        let cursor = if start == Start::New {
            if self.groups.is_empty() {
                // Retained for the first group, which does not want it.
                self.slots.clear();
            }
            self.next_seq
        } else {
            for slot in self.slots.values_mut() {
                slot.open += 1;
            }
            0
        };
        let fresh = self.slots.range(cursor..).count() as u64;
        self.groups.push(Group::new(consumers, cursor, fresh));
        self.groups.len() - 1
    }

    /// Removes a member and tells its group. What it was handed keeps its lease.
    pub(crate) fn leave(&mut self, member: MemberId) -> Option<GroupId> {
        self.members.remove(&member).map(|member| member.group)
    }

    /// Whether a group has something to hand out now.
    pub(crate) fn has_ready(&self, group: GroupId) -> bool {
        self.groups[group].has_ready()
    }

    /// Hands up to `max` entries to a member, within its limit: first what is ready again.
    pub(crate) fn take(
        &mut self,
        member: MemberId,
        max: usize,
        now: Instant,
        handover: &Arc<Handover>,
    ) -> Vec<Handed> {
        let Some(m) = self.members.get(&member) else {
            return Vec::new();
        };
        let (group, ack_wait) = (m.group, m.ack_wait);
        let room = max.min(m.max_in_flight.saturating_sub(m.held));
        let lease_end = now + ack_wait;
        let mut handed = Vec::new();
        while handed.len() < room
            && let Some(mut job) = self.next_job(group)
        {
            job.count += 1;
            let token = self.new_id();
            handed.push(Handed {
                envelope: job.entry.envelope.clone(),
                count: job.count,
                generation: job.generation,
                token,
            });
            self.leases.insert((lease_end, token));
            let out = Out {
                job,
                group,
                member,
                ack_wait,
                lease_end,
                handover: Arc::clone(handover),
            };
            self.out.insert(token, out);
        }
        if let Some(m) = self.members.get_mut(&member) {
            m.held += handed.len();
        }
        handed
    }

    fn next_job(&mut self, group: GroupId) -> Option<Job> {
        let group = &mut self.groups[group];
        if let Some(job) = group.next_again() {
            return Some(job);
        }
        let (&seq, slot) = self.slots.range(group.cursor..).next()?;
        group.cursor = seq + 1;
        group.fresh -= 1;
        Some(Job {
            seq: Some(seq),
            entry: Arc::clone(&slot.entry),
            count: 0,
            generation: 0,
        })
    }

    /// Settles a delivery, unless its lease ran out before.
    pub(crate) fn settle(
        &mut self,
        token: Token,
        verdict: Verdict,
        now: Instant,
    ) -> Result<(), Error> {
        match verdict {
            Verdict::Extend => return self.extend(token, now),
            // Checked before the delivery ends: what cannot be stored stays.
            Verdict::DeadLetter(_) if self.letters.is_full() && self.out.contains_key(&token) => {
                return Err(error::letters_full(&self.name, self.letters.capacity()));
            }
            _ => {}
        }
        let Some(Out { job, group, .. }) = self.end(token) else {
            self.late_acks += u64::from(matches!(verdict, Verdict::Done));
            tracing::debug!(message = %self.name, late_acks = self.late_acks, "settled after the lease ended");
            return Err(error::lost_ownership("settle"));
        };
        match verdict {
            Verdict::Done => self.finish(&job),
            Verdict::Release => self.groups[group].put_back(job),
            Verdict::Retry(after) if after.is_zero() => self.groups[group].retry(job),
            Verdict::Retry(after) => {
                let key = (now + after.min(FAR), self.new_id());
                self.groups[group].delayed += 1;
                self.delayed.insert(key, (group, job));
            }
            Verdict::DeadLetter(reason) => {
                self.finish(&job);
                let consumers = &self.groups[group].consumers;
                self.letters.keep(group, consumers, job, reason);
            }
            Verdict::Extend => unreachable!("returned above"),
        }
        Ok(())
    }

    fn extend(&mut self, token: Token, now: Instant) -> Result<(), Error> {
        let out = self.out.get_mut(&token);
        let out = out.ok_or_else(|| error::lost_ownership("extend"))?;
        self.leases.remove(&(out.lease_end, token));
        out.lease_end = now + out.ack_wait;
        self.leases.insert((out.lease_end, token));
        Ok(())
    }

    /// Ends a delivery: its token means nothing from here on.
    fn end(&mut self, token: Token) -> Option<Out> {
        let out = self.out.remove(&token)?;
        self.leases.remove(&(out.lease_end, token));
        if let Some(member) = self.members.get_mut(&out.member) {
            member.held -= 1;
        }
        Some(out)
    }

    /// One group has done with an entry; the last one frees it.
    fn finish(&mut self, job: &Job) {
        let Some(seq) = job.seq else { return };
        if let Some(slot) = self.slots.get_mut(&seq) {
            slot.open -= 1;
            if slot.open == 0 {
                self.slots.remove(&seq);
            }
        }
    }

    /// Takes deliveries back that their member never saw, in the order in which they were handed.
    pub(crate) fn give_back(&mut self, tokens: &[Token]) {
        for token in tokens.iter().rev() {
            if let Some(out) = self.end(*token) {
                self.groups[out.group].put_back(out.job);
            }
        }
    }

    /// Ends the leases and the delays that are over.
    pub(crate) fn expire(&mut self, now: Instant) {
        let mut unseen = Vec::new();
        while let Some(&(at, token)) = self.leases.first()
            && at <= now
        {
            self.leases.pop_first();
            let handover = self.out.get(&token).map(|out| Arc::clone(&out.handover));
            if handover.is_some_and(|handover| handover.revoke()) {
                unseen.push(token);
            } else if let Some(out) = self.end(token) {
                self.groups[out.group].retry(out.job);
            }
        }
        self.give_back(&unseen);
        while let Some(first) = self.delayed.first_entry()
            && first.key().0 <= now
        {
            let (group, job) = first.remove();
            self.groups[group].delayed -= 1;
            self.groups[group].retry(job);
        }
    }

    /// When [`expire`](Self::expire) has something to do next.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let lease = self.leases.first().map(|(at, _)| *at);
        let delay = self.delayed.first_key_value().map(|((at, _), _)| *at);
        lease.into_iter().chain(delay).min()
    }

    /// Hands a dead letter to its group again. Whether there was one.
    pub(crate) fn redrive(&mut self, number: u64) -> bool {
        let Some((group, job)) = self.letters.take(number) else {
            return false;
        };
        self.groups[group].retry(job);
        true
    }

    pub(crate) fn waiting(&self, group: GroupId) -> Arc<AtomicU64> {
        self.groups[group].waiting()
    }

    pub(crate) fn publish_waiting(&self) {
        self.groups.iter().for_each(Group::publish_waiting);
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

#[cfg(test)]
mod tests;
