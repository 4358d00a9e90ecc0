//! The nodes at one moment, and who of them answers which request.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use catga_core::{Name, NodeId};

use crate::members::{Departed, Member, Nodes};
use crate::peer::Epoch;
use crate::routing::{Candidates, Routes, RoutingStrategy};
use crate::table::Entry;

/// The nodes at one moment.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) version: u64,
    pub(crate) nodes: Nodes,
    answering: HashMap<Name, Arc<Answering>>,
}

/// The nodes that answer one request, and how one of them is picked.
#[derive(Debug)]
pub(crate) struct Answering {
    strategy: Arc<dyn RoutingStrategy>,
    turns: Arc<AtomicUsize>,
    /// Those who are picked: who failed is not among them, unless all did.
    picks: Field,
    /// Those who failed, and are tried again when it is time.
    skipped: Box<[Arc<Member>]>,
    /// Those who are picked and those who failed, where somebody did.
    everybody: Option<Field>,
}

/// Nodes of which one is picked, sorted by id.
#[derive(Debug)]
struct Field {
    members: Box<[Arc<Member>]>,
    /// The places of `members`, side by side.
    places: Box<[u64]>,
    /// This node among `members`.
    local: Option<usize>,
}

/// What is asked about a request.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) request: &'static str,
    pub(crate) key: Option<&'a str>,
    /// Its handler here.
    pub(crate) entry: Option<&'a Entry>,
}

/// Where a request goes first.
#[derive(Debug)]
pub(crate) enum Picked {
    /// To this node.
    Here,
    /// To another. Whether it failed before, and this is to show if it still does.
    There(Arc<Member>, bool),
}

impl View {
    pub(crate) fn new(own: &NodeId, nodes: Nodes, routes: &Routes, before: Option<&Self>) -> Self {
        let mut answering: HashMap<Name, Vec<Arc<Member>>> = HashMap::new();
        for node in nodes.live.values().filter(|node| !node.info.draining) {
            for request in &*node.info.requests {
                let members = answering.entry(request.clone()).or_default();
                // Who names a request twice has no second turn.
                if members.last().is_none_or(|last| !Arc::ptr_eq(last, node)) {
                    members.push(Arc::clone(node));
                }
            }
        }
        let turns = |request: &Name| {
            let before = before.and_then(|view| view.answering.get(request));
            // Shared: a turn that is taken from the view before counts.
            before.map_or_else(Arc::default, |before| Arc::clone(&before.turns))
        };
        let answering = answering
            .into_iter()
            .map(|(request, members)| {
                let strategy = Arc::clone(routes.of(request.as_str()));
                let answering = Answering::new(own, members, strategy, turns(&request));
                (request, Arc::new(answering))
            })
            .collect();
        Self {
            version: before.map_or(0, |before| before.version + 1),
            nodes,
            answering,
        }
    }

    /// The nodes that answer a request.
    pub(crate) fn answering(&self, request: &str) -> Option<&Arc<Answering>> {
        self.answering.get(request)
    }

    /// A live node.
    pub(crate) fn node(&self, id: &str) -> Option<&Arc<Member>> {
        self.nodes.live.get(id)
    }

    /// A node that was there not long ago.
    pub(crate) fn departed(&self, id: &str) -> Option<&Departed> {
        self.nodes.departed.get(id)
    }
}

impl Answering {
    fn new(
        own: &NodeId,
        members: Vec<Arc<Member>>,
        strategy: Arc<dyn RoutingStrategy>,
        turns: Arc<AtomicUsize>,
    ) -> Self {
        let is_picked = |member: &Arc<Member>| member.peer.is_trusted() || member.info.id == *own;
        let (picks, skipped): (Vec<_>, Vec<_>) = members
            .iter()
            .cloned()
            .partition(|member| is_picked(member));
        // Rather somebody who failed than nobody.
        let (picks, skipped) = if picks.is_empty() {
            (skipped, picks)
        } else {
            (picks, skipped)
        };
        Self {
            strategy,
            turns,
            picks: Field::new(own, picks),
            everybody: (!skipped.is_empty()).then(|| Field::new(own, members)),
            skipped: skipped.into(),
        }
    }

    /// Whether the strategy needs the key of a request.
    pub(crate) fn needs_key(&self) -> bool {
        self.strategy.needs_key()
    }

    /// Picks who is asked first. One that failed is tried when it is time and the strategy picks it: by one request, which `lasts` so long
    /// at most; never by one that says nothing of it.
    #[inline]
    pub(crate) fn pick(
        &self,
        asked: Question<'_>,
        epoch: Epoch,
        lasts: Option<Duration>,
    ) -> Picked {
        if let Some(everybody) = &self.everybody
            && let Some(lasts) = lasts
            && let Some(picked) = self.probe(everybody, asked, epoch, lasts)
        {
            return picked;
        }
        self.picked(&self.picks, asked, Some(&self.turns))
    }

    #[inline]
    fn picked(&self, of: &Field, asked: Question<'_>, turns: Option<&AtomicUsize>) -> Picked {
        let index = index(&*self.strategy, &of.candidates(asked, turns));
        if of.local == Some(index) {
            Picked::Here
        } else {
            Picked::There(Arc::clone(&of.members[index]), false)
        }
    }

    /// Picks one of all, where it is time to try somebody who failed.
    #[cold]
    fn probe(
        &self,
        everybody: &Field,
        asked: Question<'_>,
        epoch: Epoch,
        lasts: Duration,
    ) -> Option<Picked> {
        let now = epoch.now();
        if !self.skipped.iter().any(|member| member.peer.is_due(now)) {
            return None;
        }
        let picked = self.picked(everybody, asked, Some(&self.turns));
        let Picked::There(member, _) = &picked else {
            return Some(picked);
        };
        if !self
            .skipped
            .iter()
            .any(|skipped| Arc::ptr_eq(skipped, member))
        {
            return Some(picked);
        }
        if member.peer.try_probe(lasts, now) {
            return Some(Picked::There(Arc::clone(member), true));
        }
        // It is not time for this one. The turn is taken: with another one, the same would meet it again.
        Some(self.picked(&self.picks, asked, None))
    }

    /// Picks one of those who were not asked yet: of those who failed before only where there is nobody else.
    pub(crate) fn another(&self, asked: Question<'_>, before: &[NodeId]) -> Option<Arc<Member>> {
        let fresh = |members: &[Arc<Member>]| {
            let members = members.iter().filter(|m| !before.contains(&m.info.id));
            members.cloned().collect::<Vec<_>>()
        };
        let mut members = fresh(&self.picks.members);
        if members.is_empty() {
            members = fresh(&self.skipped);
        }
        if members.is_empty() {
            return None;
        }
        let own = self.picks.local.map(|local| &self.picks.members[local]);
        let local = own.and_then(|own| members.iter().position(|m| Arc::ptr_eq(m, own)));
        let field = Field::of(members, local);
        let index = index(&*self.strategy, &field.candidates(asked, None));
        Some(Arc::clone(&field.members[index]))
    }

    /// All of them, sorted by id.
    pub(crate) fn all(&self) -> Vec<Arc<Member>> {
        self.everybody
            .as_ref()
            .unwrap_or(&self.picks)
            .members
            .to_vec()
    }

    #[cfg(test)]
    pub(crate) fn picks(&self) -> Vec<&str> {
        self.picks
            .members
            .iter()
            .map(|m| m.info.id.as_str())
            .collect()
    }

    #[cfg(test)]
    pub(crate) fn set_turn(&self, turn: usize) {
        self.turns.store(turn, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Field {
    fn new(own: &NodeId, members: Vec<Arc<Member>>) -> Self {
        let local = members.iter().position(|member| member.info.id == *own);
        Self::of(members, local)
    }

    fn of(members: Vec<Arc<Member>>, local: Option<usize>) -> Self {
        Self {
            places: members.iter().map(|member| member.place).collect(),
            members: members.into(),
            local,
        }
    }

    #[inline]
    fn candidates<'a>(
        &'a self,
        asked: Question<'a>,
        turns: Option<&'a AtomicUsize>,
    ) -> Candidates<'a> {
        Candidates {
            members: &self.members,
            places: &self.places,
            local: self.local,
            entry: asked.entry,
            turns,
            request: asked.request,
            key: asked.key,
        }
    }
}

/// What a strategy picks, which may be code of others.
fn index(strategy: &dyn RoutingStrategy, candidates: &Candidates<'_>) -> usize {
    let index = strategy.pick(candidates);
    if index < candidates.len() {
        index
    } else {
        index % candidates.len()
    }
}
