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
    /// Those who are picked, sorted by id: who failed is not among them, unless all did.
    picks: Box<[Arc<Member>]>,
    /// The places of `picks`, side by side.
    places: Box<[u64]>,
    /// This node among `picks`.
    local: Option<usize>,
    /// Those who failed, and are tried again when it is time.
    skipped: Box<[Arc<Member>]>,
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
            for request in &node.info.requests {
                let members = answering.entry(request.clone()).or_default();
                members.push(Arc::clone(node));
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
        let (picks, skipped): (Vec<_>, Vec<_>) = members
            .into_iter()
            .partition(|member| member.peer.is_trusted() || member.info.id == *own);
        // Rather somebody who failed than nobody.
        let (picks, skipped) = if picks.is_empty() {
            (skipped, picks)
        } else {
            (picks, skipped)
        };
        Self {
            strategy,
            turns,
            places: picks.iter().map(|member| member.place).collect(),
            local: picks.iter().position(|member| member.info.id == *own),
            picks: picks.into(),
            skipped: skipped.into(),
        }
    }

    /// Whether the strategy needs the key of a request.
    pub(crate) fn needs_key(&self) -> bool {
        self.strategy.needs_key()
    }

    /// Picks who is asked first. One that failed is tried when it is time: by one request, which may take so long.
    #[inline]
    pub(crate) fn pick(&self, asked: Question<'_>, epoch: Epoch, lasts: Duration) -> Picked {
        if !self.skipped.is_empty()
            && let Some(probe) = self.probe(epoch, lasts)
        {
            return Picked::There(Arc::clone(probe), true);
        }
        let candidates = Candidates {
            members: &self.picks,
            places: &self.places,
            local: self.local,
            entry: asked.entry,
            turns: Some(&self.turns),
            request: asked.request,
            key: asked.key,
        };
        let index = index(&*self.strategy, &candidates);
        if self.local == Some(index) {
            Picked::Here
        } else {
            Picked::There(Arc::clone(&self.picks[index]), false)
        }
    }

    #[cold]
    fn probe(&self, epoch: Epoch, lasts: Duration) -> Option<&Arc<Member>> {
        let now = epoch.now();
        let mut skipped = self.skipped.iter();
        skipped.find(|member| member.peer.try_probe(lasts, now))
    }

    /// Picks one of those who were not asked yet: of those who failed before only where there is nobody else.
    pub(crate) fn another(&self, asked: Question<'_>, before: &[NodeId]) -> Option<Arc<Member>> {
        let fresh = |members: &[Arc<Member>]| {
            let members = members.iter().filter(|m| !before.contains(&m.info.id));
            members.cloned().collect::<Vec<_>>()
        };
        let mut members = fresh(&self.picks);
        if members.is_empty() {
            members = fresh(&self.skipped);
        }
        if members.is_empty() {
            return None;
        }
        let places: Vec<_> = members.iter().map(|member| member.place).collect();
        let local = self.local.map(|local| &self.picks[local]);
        let local = local.and_then(|own| members.iter().position(|m| Arc::ptr_eq(m, own)));
        let candidates = Candidates {
            members: &members,
            places: &places,
            local,
            entry: asked.entry,
            turns: None,
            request: asked.request,
            key: asked.key,
        };
        let index = index(&*self.strategy, &candidates);
        Some(members.swap_remove(index))
    }

    /// All of them, sorted by id.
    pub(crate) fn all(&self) -> Vec<Arc<Member>> {
        let mut all: Vec<_> = self.picks.iter().chain(&self.skipped).cloned().collect();
        all.sort_unstable_by(|a, b| a.info.id.cmp(&b.info.id));
        all
    }

    #[cfg(test)]
    pub(crate) fn picks(&self) -> Vec<&str> {
        self.picks.iter().map(|m| m.info.id.as_str()).collect()
    }

    #[cfg(test)]
    pub(crate) fn set_turn(&self, turn: usize) {
        self.turns.store(turn, std::sync::atomic::Ordering::Relaxed);
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
