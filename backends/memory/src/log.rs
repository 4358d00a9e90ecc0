//! The log of one message name: what is retained, who has what, and until when.
//!
//! No task, no channel, no clock of its own: [`stream`](crate::stream) drives it, tests call it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use catga_core::{Consumers, Envelope, Error, Name, Start, Subscribe};
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::claims::{Claims, Turn};
use crate::error;
use crate::group::{Counts, Entry, Group, Job, Mode};
use crate::handover::{Claim, ClaimEnd, Handed, Handover, Token};
use crate::inbox::Inbox;
use crate::leases::{Leases, Out};
use crate::letters::Letters;
use crate::options::Settings;
use crate::timer::FAR;
use crate::window::{Print, Window};

mod settle;
#[cfg(test)]
mod tests;

pub(crate) use settle::Verdict;

/// The index of a group: groups are never removed.
pub(crate) type GroupId = usize;
/// A member of a group, numbered by whoever joins.
pub(crate) type MemberId = u64;

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
    duplicates: Arc<AtomicU64>,
}

#[derive(Debug)]
pub(crate) struct Log {
    name: Name,
    settings: Settings,
    slots: FxHashMap<u64, Slot>,
    next_seq: u64,
    /// Entries that went since somebody asked.
    freed: usize,
    groups: Vec<Group>,
    members: FxHashMap<MemberId, Member>,
    leases: Leases,
    delayed: BTreeMap<(Instant, u64), (GroupId, Job)>,
    pub(crate) letters: Letters,
    /// The ids of QoS 2 publishes.
    window: Window,
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
            window: Window::new(name.clone(), settings.duplicate_window),
            name,
            settings,
            slots: FxHashMap::default(),
            next_seq: 0,
            freed: 0,
            groups: Vec::new(),
            members: FxHashMap::default(),
            leases: Leases::default(),
            delayed: BTreeMap::new(),
            letters: Letters::new(settings.dead_letters, letter_numbers),
            next_id: 0,
            dropped: 0,
            late_acks: 0,
        }
    }

    /// Whether the oldest makes room, as there is no group.
    pub(crate) fn drops_oldest(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether [`push`](Self::push) may be called.
    pub(crate) fn has_room(&self) -> bool {
        self.drops_oldest() || self.slots.len() < self.settings.capacity
    }

    /// How many entries went since this was asked.
    pub(crate) fn take_freed(&mut self) -> usize {
        std::mem::take(&mut self.freed)
    }

    /// Takes a message in, published at this time. The caller sees to it that there is room.
    pub(crate) fn push(&mut self, envelope: Envelope, published_at: SystemTime) {
        debug_assert!(self.has_room(), "the caller sees to it");
        if self.slots.len() >= self.settings.capacity {
            self.drop_oldest();
        }
        let entry = Arc::new(Entry {
            envelope,
            published_at,
        });
        for group in &mut self.groups {
            group.arrive(self.next_seq, &entry);
        }
        let open = self.groups.len();
        self.slots.insert(self.next_seq, Slot { entry, open });
        self.next_seq += 1;
    }

    /// Whether a QoS 2 message is a duplicate, which is not to be pushed.
    pub(crate) fn knows(&mut self, print: Print, now: Instant) -> bool {
        self.window.knows(print, now)
    }

    /// Remembers a QoS 2 message that is pushed.
    pub(crate) fn remember(&mut self, print: Print, now: Instant) {
        self.window.remember(print, now);
    }

    fn drop_oldest(&mut self) {
        // Without a group nothing else goes.
        let oldest = self.next_seq - self.slots.len() as u64;
        self.slots.remove(&oldest);
        self.freed += 1;
        if self.dropped == 0 {
            tracing::warn!(
                message = %self.name, capacity = self.settings.capacity,
                "no group subscribes to this message: the oldest are dropped"
            );
        }
        self.dropped += 1;
    }

    /// Adds a member, and its group when that is new.
    pub(crate) fn join(&mut self, id: MemberId, subscribe: &Subscribe) -> Result<GroupId, Error> {
        let (consumers, mode) = (&subscribe.consumers, Mode::of(subscribe));
        let present = self.groups.iter().position(|g| g.consumers == *consumers);
        let group = match present {
            Some(group) if self.groups[group].mode != mode => {
                let present = self.groups[group].mode;
                return Err(error::other_mode(
                    &self.name,
                    consumers.group(),
                    present,
                    mode,
                ));
            }
            Some(group) => group,
            None => self.add_group(consumers.clone(), mode, subscribe.start),
        };
        let member = Member {
            group,
            ack_wait: subscribe.ack_wait.min(FAR),
            max_in_flight: subscribe.max_in_flight.max(1),
            held: 0,
            duplicates: Arc::default(),
        };
        self.members.insert(id, member);
        Ok(group)
    }

    /// Sets how many deliveries a member may hold.
    pub(crate) fn limit(&mut self, member: MemberId, max_in_flight: usize) {
        if let Some(member) = self.members.get_mut(&member) {
            member.max_in_flight = max_in_flight.max(1);
        }
    }

    /// The group of a member, while it is one.
    pub(crate) fn group_of(&self, member: MemberId) -> Option<GroupId> {
        self.members.get(&member).map(|member| member.group)
    }

    fn add_group(&mut self, consumers: Consumers, mode: Mode, start: Start) -> GroupId {
        let mut retained = Vec::new();
        if start == Start::Oldest {
            retained.extend(self.slots.keys().copied());
            retained.sort_unstable();
        } else if self.groups.is_empty() {
            // Retained for the first group, which does not want it.
            self.freed += self.slots.len();
            self.slots.clear();
        }
        let Settings { inbox, limits, .. } = self.settings;
        let claims = mode
            .claims
            .then(|| Claims::new(Inbox::new(self.name.clone(), limits, inbox)));
        let mut group = Group::new(consumers, mode, self.next_seq, claims);
        for seq in retained {
            if let Some(slot) = self.slots.get_mut(&seq) {
                slot.open += 1;
                group.retained(Job::new(seq, Arc::clone(&slot.entry)));
            }
        }
        self.groups.push(group);
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
            && let Some(job) = self.next_job(group)
        {
            let token = self.new_id();
            let claim_id = self.groups[group].claim_id(&job);
            let Some(job) = self.turn(member, group, job, token, now) else {
                continue;
            };
            let claim_end: Option<Arc<ClaimEnd>> = claim_id.map(|_| Arc::default());
            handed.push(Handed {
                envelope: job.entry.envelope.clone(),
                count: job.count,
                generation: job.generation,
                may_have_run: job.ran,
                claim: claim_end.clone().map(|end| Claim {
                    end,
                    lease_end,
                    ack_wait,
                }),
                token,
            });
            let out = Out {
                job,
                group,
                member,
                ack_wait,
                lease_end,
                handover: Arc::clone(handover),
                claim_end,
            };
            self.leases.begin(token, out);
        }
        if let Some(m) = self.members.get_mut(&member) {
            m.held += handed.len();
        }
        handed
    }

    fn next_job(&mut self, group: GroupId) -> Option<Job> {
        let group = &mut self.groups[group];
        if let Some(job) = group.next_job() {
            return Some(job);
        }
        if group.fresh == 0 {
            return None;
        }
        let seq = group.cursor;
        group.cursor += 1;
        group.fresh -= 1;
        let slot = self.slots.get(&seq);
        let slot =
            slot.expect("what came since a group was made stays until that has done with it");
        Some(Job::new(seq, Arc::clone(&slot.entry)))
    }

    /// A job whose turn it is, as delivery `token` to a member: where ids are claimed, it may have to wait for a
    /// copy of it, or be done with.
    fn turn(
        &mut self,
        member: MemberId,
        group: GroupId,
        mut job: Job,
        token: Token,
        now: Instant,
    ) -> Option<Job> {
        let Group { claims, .. } = &mut self.groups[group];
        let claimed = claims.as_mut().zip(job.entry.envelope.id());
        let Some((claims, id)) = claimed else {
            job.count += 1;
            return Some(job);
        };
        match claims.claim(id, job, token, now) {
            Turn::Goes(job) => Some(job),
            Turn::Waits => None,
            Turn::Duplicate(job) => {
                self.drop_duplicate(group, &job, member);
                None
            }
        }
    }

    /// Drops a job whose id was handled, on behalf of the member that found it or handled it.
    fn drop_duplicate(&mut self, group: GroupId, job: &Job, member: MemberId) {
        if let Some(member) = self.members.get(&member) {
            member.duplicates.fetch_add(1, Ordering::Relaxed);
        }
        self.finish(group, job);
    }

    /// One group has done with an entry; the last one frees it.
    fn finish(&mut self, group: GroupId, job: &Job) {
        self.groups[group].done(job);
        let Some(seq) = job.seq else { return };
        if let Some(slot) = self.slots.get_mut(&seq) {
            slot.open -= 1;
            if slot.open == 0 {
                self.slots.remove(&seq);
                self.freed += 1;
            }
        }
    }

    /// When [`expire`](Self::expire) has something to do next.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let delay = self.delayed.first_key_value().map(|((at, _), _)| *at);
        let claims = self.groups.iter().filter_map(|group| group.claims.as_ref());
        [
            self.leases.next_deadline(),
            delay,
            self.window.next_deadline(),
        ]
        .into_iter()
        .chain(claims.map(Claims::next_deadline))
        .flatten()
        .min()
    }

    /// What is counted for a member.
    pub(crate) fn counts(&self, member: MemberId) -> Counts {
        let Some(member) = self.members.get(&member) else {
            return Counts::default();
        };
        Counts {
            waiting: Arc::clone(&self.groups[member.group].waiting),
            duplicates: Arc::clone(&member.duplicates),
        }
    }

    pub(crate) fn publish_waiting(&self) {
        self.groups.iter().for_each(Group::publish_waiting);
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}
