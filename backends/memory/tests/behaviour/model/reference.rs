//! What the backend has to do at QoS 1, in facts: no queue, no task, no clock of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use catga_core::Start;
use tokio::time::Instant;

/// A message, by the number of its publish.
pub(super) type Message = usize;
/// A group, by its place among the names.
pub(super) type Group = usize;

/// Where a message stands with a group that has not done with it.
#[derive(Clone, Debug, PartialEq)]
enum Stand {
    Ready,
    Delayed(Instant),
    Out { until: Instant, delivery: u64 },
    Dead,
}

/// A message as one group sees it.
#[derive(Clone, Debug)]
struct View {
    stand: Stand,
    /// How often it was delivered, as far as that counts.
    count: u32,
    generation: u32,
    /// Whether it was handed out before, and so goes before what was not.
    again: bool,
    may_have_run: bool,
}

impl View {
    fn is_out(&self, delivery: u64) -> bool {
        matches!(self.stand, Stand::Out { delivery: this, .. } if this == delivery)
    }
}

/// How a delivery ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Ack,
    Complete,
    Nak(Duration),
    Defer(Duration),
    Release { began: bool },
    DeadLetter,
}

#[derive(Debug)]
pub(super) struct Reference {
    capacity: usize,
    published: usize,
    /// What is in the log, and the groups that have not done with it.
    kept: BTreeMap<Message, BTreeSet<Group>>,
    groups: BTreeMap<Group, BTreeMap<Message, View>>,
}

impl Reference {
    pub(super) fn new(capacity: usize) -> Self {
        let (kept, groups) = (BTreeMap::new(), BTreeMap::new());
        Self {
            capacity,
            published: 0,
            kept,
            groups,
        }
    }

    /// Without any group the oldest makes room.
    pub(super) fn has_room(&self) -> bool {
        self.groups.is_empty() || self.kept.len() < self.capacity
    }

    /// The number of a message that is published now, if there is room for it.
    pub(super) fn publish(&mut self) -> Option<Message> {
        if !self.has_room() {
            return None;
        }
        if self.kept.len() >= self.capacity {
            self.kept.pop_first();
        }
        let message = self.published;
        self.published += 1;
        self.kept.insert(message, BTreeSet::new());
        let groups: Vec<_> = self.groups.keys().copied().collect();
        for group in groups {
            self.arrive(group, message);
        }
        Some(message)
    }

    fn arrive(&mut self, group: Group, message: Message) {
        self.kept.entry(message).or_default().insert(group);
        let view = View {
            stand: Stand::Ready,
            count: 0,
            generation: 0,
            again: false,
            may_have_run: false,
        };
        self.groups.entry(group).or_default().insert(message, view);
    }

    /// A member comes; a group that is new begins at the oldest message, or skips what is there.
    pub(super) fn join(&mut self, group: Group, start: Start) {
        if self.groups.contains_key(&group) {
            return;
        }
        if start == Start::New && self.groups.is_empty() {
            self.kept.clear();
        }
        self.groups.insert(group, BTreeMap::new());
        if start == Start::Oldest {
            let kept: Vec<_> = self.kept.keys().copied().collect();
            for message in kept {
                self.arrive(group, message);
            }
        }
    }

    /// Time has passed: leases and delays end.
    pub(super) fn expire(&mut self, now: Instant) {
        for view in self.groups.values_mut().flat_map(BTreeMap::values_mut) {
            match view.stand {
                Stand::Out { until, .. } if until <= now => {
                    (view.stand, view.may_have_run) = (Stand::Ready, true);
                }
                Stand::Delayed(until) if until <= now => view.stand = Stand::Ready,
                _ => {}
            }
        }
    }

    /// How many messages a group has ready.
    pub(super) fn ready(&self, group: Group) -> usize {
        self.count(group, |stand| *stand == Stand::Ready)
    }

    /// Whether a delivery is still the one that a message is out with.
    pub(super) fn is_out(&self, group: Group, message: Message, delivery: u64) -> bool {
        let view = self
            .groups
            .get(&group)
            .and_then(|group| group.get(&message));
        view.is_some_and(|view| view.is_out(delivery))
    }

    /// How many wait for a group, also for a delay to pass.
    pub(super) fn waiting(&self, group: Group) -> usize {
        self.count(group, |stand| {
            matches!(stand, Stand::Ready | Stand::Delayed(_))
        })
    }

    fn count(&self, group: Group, which: impl Fn(&Stand) -> bool) -> usize {
        let views = self.groups.get(&group).into_iter().flatten();
        views.filter(|(_, view)| which(&view.stand)).count()
    }

    /// What a group handed out: count, generation, whether a handler may have run. Panics when it should not have been.
    pub(super) fn deliver(
        &mut self,
        group: Group,
        message: Message,
        delivery: u64,
        until: Instant,
    ) -> (u32, u32, bool) {
        let views = self
            .groups
            .get_mut(&group)
            .expect("a group that was joined");
        let ready = views.iter().filter(|(_, view)| view.stand == Stand::Ready);
        let first = ready
            .clone()
            .min_by_key(|(message, view)| (!view.again, **message));
        let first = first.expect("nothing is ready");
        let again = first.1.again;
        assert!(
            again || *first.0 == message,
            "{message} comes before {}",
            first.0
        );
        let view = views.get_mut(&message).expect("the group has done with it");
        assert_eq!(view.stand, Stand::Ready, "{message} is not to be had");
        assert_eq!(
            view.again, again,
            "{message} comes before what was there before"
        );
        view.stand = Stand::Out { until, delivery };
        (view.count, view.again) = (view.count + 1, true);
        (
            view.count,
            view.generation,
            view.may_have_run || view.count > 1,
        )
    }

    fn out(&mut self, group: Group, message: Message, delivery: u64) -> Option<&mut View> {
        let view = self.groups.get_mut(&group)?.get_mut(&message)?;
        view.is_out(delivery).then_some(view)
    }

    /// Whether a delivery could still be extended.
    pub(super) fn extend(
        &mut self,
        group: Group,
        message: Message,
        delivery: u64,
        until: Instant,
    ) -> bool {
        let view = self.out(group, message, delivery);
        view.map(|view| view.stand = Stand::Out { until, delivery })
            .is_some()
    }

    /// Whether a delivery could still be settled.
    pub(super) fn settle(
        &mut self,
        group: Group,
        message: Message,
        delivery: u64,
        end: End,
        now: Instant,
    ) -> bool {
        let Some(view) = self.out(group, message, delivery) else {
            return false;
        };
        let delayed = |after: Duration| match after {
            Duration::ZERO => Stand::Ready,
            after => Stand::Delayed(now + after),
        };
        view.stand = match end {
            End::Nak(after) | End::Defer(after) => delayed(after),
            End::Release { .. } => Stand::Ready,
            End::Ack | End::Complete | End::DeadLetter => Stand::Dead,
        };
        view.count -= u32::from(matches!(end, End::Defer(_) | End::Release { .. }));
        view.may_have_run |= !matches!(end, End::Defer(_) | End::Release { began: false });
        match (end, self.groups.get_mut(&group)) {
            (End::Ack | End::Complete, Some(views)) => {
                views.remove(&message);
            }
            (End::DeadLetter, _) => {}
            _ => return true,
        }
        if let Some(open) = self.kept.get_mut(&message) {
            open.remove(&group);
            if open.is_empty() {
                self.kept.remove(&message);
            }
        }
        true
    }

    /// The dead letters of all groups, by group and message, with their generation.
    pub(super) fn dead(&self) -> BTreeMap<(Group, Message), u32> {
        let views = self
            .groups
            .iter()
            .flat_map(|(g, views)| views.iter().map(move |(m, v)| ((*g, *m), v)));
        views
            .filter(|(_, view)| view.stand == Stand::Dead)
            .map(|(key, view)| (key, view.generation))
            .collect()
    }

    pub(super) fn redrive(&mut self, group: Group, message: Message) {
        let view = self
            .groups
            .get_mut(&group)
            .and_then(|group| group.get_mut(&message));
        let view = view.expect("it was dead");
        (view.stand, view.count) = (Stand::Ready, 0);
        view.generation += 1;
    }
}
