//! Who is there, as a view that is swapped whole: [`membership`](crate::membership) keeps it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use catga_core::{NodeEvent, NodeId, NodeInfo};
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;

use crate::peer::{Epoch, Peer};
use crate::routing::{Routes, place_of};
use crate::view::View;

/// How many changes wait for a watcher before it counts as lagging.
const WATCH_BUFFER: usize = 256;
/// How long it is known of a node that it was there once, and of how many.
const REMEMBERED: Duration = Duration::from_secs(600);
const REMEMBERED_NODES: usize = 1_000;

/// The nodes, and what this one thinks of them.
#[derive(Debug)]
pub(crate) struct Members {
    own: NodeInfo,
    routes: Routes,
    view: ArcSwap<View>,
    /// Nobody but this node is there, so that there is nothing to pick.
    alone: AtomicBool,
    epoch: Epoch,
    changes: broadcast::Sender<Change>,
    /// Why others may not see this node.
    unregistered: ArcSwapOption<String>,
    /// Whether changes do not arrive, so that the view may be old.
    unwatched: AtomicBool,
    /// Whether the registry has forgotten this node while it was heard of, or was away, and so has perhaps lost all others.
    forgotten: AtomicBool,
    /// Tells that this node is to register at once.
    pub(crate) again: Notify,
    /// Tells that the registry is to be read anew.
    pub(crate) reread: Notify,
    /// How often a request went on to another node.
    fail_overs: AtomicU64,
}

/// A change, with the version of the view that has it.
pub(crate) type Change = (u64, NodeEvent);

/// A node that is there.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) info: NodeInfo,
    pub(crate) peer: Arc<Peer>,
    /// Where [`ConsistentHash`](crate::routing::ConsistentHash) has it.
    pub(crate) place: u64,
}

/// A node that was there.
#[derive(Clone, Debug)]
pub(crate) struct Departed {
    pub(crate) info: NodeInfo,
    pub(crate) at: Instant,
    /// It did not say that it leaves.
    pub(crate) silent: bool,
    peer: Arc<Peer>,
}

/// What the registry told.
#[derive(Debug)]
pub(crate) enum Told {
    /// A node is there.
    There(NodeInfo),
    /// An incarnation of a node left.
    Left(NodeInfo),
    /// These are there, and nobody else.
    All(Vec<NodeInfo>),
    /// The registry has lost its nodes: those who went silent that lately are taken for there.
    Forgotten(Duration),
}

impl Members {
    pub(crate) fn new(own: &NodeInfo, routes: Routes) -> Self {
        let mut nodes = Nodes::default();
        nodes.put(own, Instant::now(), 0);
        Self {
            own: own.clone(),
            view: ArcSwap::from_pointee(View::new(&own.id, nodes, &routes, None)),
            routes,
            alone: AtomicBool::new(true),
            epoch: Epoch::new(),
            changes: broadcast::Sender::new(WATCH_BUFFER),
            unregistered: ArcSwapOption::empty(),
            unwatched: AtomicBool::new(false),
            forgotten: AtomicBool::new(false),
            again: Notify::new(),
            reread: Notify::new(),
            fail_overs: AtomicU64::new(0),
        }
    }

    #[inline]
    pub(crate) fn alone(&self) -> bool {
        self.alone.load(Ordering::Relaxed)
    }

    pub(crate) fn view(&self) -> Guard<Arc<View>> {
        self.view.load()
    }

    pub(crate) fn routes(&self) -> &Routes {
        &self.routes
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(crate) fn nodes(&self) -> Vec<NodeInfo> {
        let view = self.view.load();
        let members = view.nodes.live.values();
        members.map(|member| member.info.clone()).collect()
    }

    pub(crate) fn watch(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// What is wrong with the membership, if anything: as long as there is, the view may be old.
    pub(crate) fn trouble(&self) -> Option<String> {
        if self.unwatched.load(Ordering::Relaxed) {
            return Some(
                "changes in the registry do not arrive; the last view is kept, and may be stale"
                    .to_owned(),
            );
        }
        if self.is_forgotten() {
            return Some(
                "the registry has lost its nodes, or was not heard; the last view is kept until they are back, and may be stale"
                    .to_owned(),
            );
        }
        self.unregistered.load().as_deref().cloned()
    }

    pub(crate) fn set_unregistered(&self, trouble: Option<String>) {
        self.unregistered.store(trouble.map(Arc::new));
    }

    pub(crate) fn set_unwatched(&self, unwatched: bool) {
        self.unwatched.store(unwatched, Ordering::Relaxed);
    }

    pub(crate) fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Relaxed)
    }

    pub(crate) fn set_forgotten(&self, forgotten: bool) {
        self.forgotten.store(forgotten, Ordering::Relaxed);
    }

    pub(crate) fn failed_over(&self) {
        self.fail_overs.fetch_add(1, Ordering::Relaxed);
    }

    #[cfg_attr(not(feature = "metrics"), expect(dead_code, reason = "it is told"))]
    pub(crate) fn fail_overs(&self) -> u64 {
        self.fail_overs.load(Ordering::Relaxed)
    }

    /// Whether what the registry says is about this very node.
    pub(crate) fn is_own(&self, node: &NodeInfo) -> bool {
        node.id == self.own.id && node.incarnation == self.own.incarnation
    }

    /// Takes what the registry told. One task alone does.
    pub(crate) fn hear(&self, told: &Told) {
        let (at, now) = (Instant::now(), self.epoch.now());
        let before = self.view.rcu(|before| {
            let mut nodes = before.nodes.clone();
            nodes.hear(told, &self.own, at, now);
            View::new(&self.own.id, nodes, &self.routes, Some(before))
        });
        // Others only sort it anew.
        let after = self.view.load();
        self.alone
            .store(after.nodes.live.len() == 1, Ordering::Relaxed);
        if self.changes.receiver_count() > 0 {
            for event in changes(&before.nodes, &after.nodes) {
                // Nobody may listen any more.
                let _ = self.changes.send((before.version + 1, event));
            }
        }
    }

    /// Sorts those who answer anew: somebody failed, or answered again.
    #[cold]
    pub(crate) fn resort(&self) {
        self.view.rcu(|before| {
            View::new(
                &self.own.id,
                before.nodes.clone(),
                &self.routes,
                Some(before),
            )
        });
    }

    /// Notes that a node did not answer as it should; it is skipped for a while.
    #[cold]
    pub(crate) fn failed(&self, member: &Member, probe: bool) {
        if member.info.id != self.own.id && member.peer.failed(probe, self.epoch.now()) {
            tracing::info!(node = %member.info.id, "the node does not answer, and is skipped for a while");
            self.resort();
        }
    }

    /// Notes that a node answered.
    #[inline]
    pub(crate) fn answered(&self, member: &Member) {
        if member.peer.answered() {
            tracing::info!(node = %member.info.id, "the node answers again");
            self.resort();
        }
    }
}

/// Those who are there, and those who were.
#[derive(Clone, Debug, Default)]
pub(crate) struct Nodes {
    pub(crate) live: BTreeMap<NodeId, Arc<Member>>,
    pub(crate) departed: BTreeMap<NodeId, Departed>,
}

impl Nodes {
    fn hear(&mut self, told: &Told, own: &NodeInfo, at: Instant, now: u64) {
        match told {
            Told::There(node) => self.see(node, own, at, now),
            Told::Left(node) => self.remove(node, own, at),
            Told::All(nodes) => {
                let is_listed = |id: &NodeId| nodes.iter().any(|node| node.id == *id);
                let missing = self.live.values().filter(|live| !is_listed(&live.info.id));
                let missing: Vec<_> = missing.map(|live| live.info.clone()).collect();
                for node in &missing {
                    self.remove(node, own, at);
                }
                for node in nodes {
                    self.see(node, own, at, now);
                }
            }
            Told::Forgotten(lately) => {
                let back = self.departed.values();
                let back = back.filter(|node| node.silent && node.at + *lately >= at);
                let back: Vec<_> = back.map(|node| node.info.clone()).collect();
                for node in &back {
                    self.put(node, at, now);
                }
            }
        }
        self.departed.retain(|_, node| node.at + REMEMBERED >= at);
        while self.departed.len() > REMEMBERED_NODES {
            let oldest = self.departed.iter().min_by_key(|(_, node)| node.at);
            let Some(oldest) = oldest.map(|(id, _)| id.clone()) else {
                break;
            };
            self.departed.remove(&oldest);
        }
    }

    /// This node is there for itself, also where another has its id.
    fn see(&mut self, node: &NodeInfo, own: &NodeInfo, at: Instant, now: u64) {
        if node.id != own.id || node.incarnation == own.incarnation {
            self.put(node, at, now);
        }
    }

    fn put(&mut self, node: &NodeInfo, at: Instant, now: u64) {
        let peer = match self.live.get(&node.id) {
            Some(live) if live.info.incarnation == node.incarnation => Arc::clone(&live.peer),
            Some(live) => {
                // Its successor is there: nobody answers any more for what went before.
                live.peer.set_gone();
                Arc::new(live.peer.back(false, now))
            }
            None => match self.departed.remove(&node.id) {
                Some(before) => {
                    let same = before.info.incarnation == node.incarnation;
                    let gap = at.saturating_duration_since(before.at);
                    tracing::debug!(node = %node.id, same, ?gap, "the node is back");
                    Arc::new(before.peer.back(same && before.silent, now))
                }
                None => Arc::default(),
            },
        };
        let member = Member {
            place: place_of(node.id.as_str()),
            info: node.clone(),
            peer,
        };
        self.live.insert(node.id.clone(), Arc::new(member));
    }

    /// This node is there for itself, whatever the registry has heard of it; and a successor with the same id may be there already.
    fn remove(&mut self, node: &NodeInfo, own: &NodeInfo, at: Instant) {
        let is_other = |live: &Arc<Member>| {
            live.info.incarnation == node.incarnation && live.info.incarnation != own.incarnation
        };
        if !self.live.get(&node.id).is_some_and(is_other) {
            return;
        }
        let Some(live) = self.live.remove(&node.id) else {
            return;
        };
        let silent = !(node.draining || live.info.draining);
        if silent {
            live.peer.set_gone();
        }
        let departed = Departed {
            info: node.clone(),
            at,
            silent,
            peer: Arc::clone(&live.peer),
        };
        self.departed.insert(node.id.clone(), departed);
    }
}

/// What watchers are told.
fn changes(before: &Nodes, after: &Nodes) -> Vec<NodeEvent> {
    let mut events = Vec::new();
    for (id, old) in &before.live {
        let new = after.live.get(id);
        if new.is_none_or(|new| new.info.incarnation != old.info.incarnation) {
            events.push(NodeEvent::Left(old.info.clone()));
        }
    }
    for (id, new) in &after.live {
        match before.live.get(id) {
            Some(old) if Arc::ptr_eq(old, new) => {}
            Some(old) if old.info.incarnation == new.info.incarnation => {
                if differs(&old.info, &new.info) {
                    events.push(NodeEvent::Updated(new.info.clone()));
                }
            }
            _ => events.push(NodeEvent::Joined(new.info.clone())),
        }
    }
    events
}

/// Whether watchers want to hear of a change: not that it was seen again.
fn differs(before: &NodeInfo, after: &NodeInfo) -> bool {
    let mut seen = before.clone();
    seen.last_seen = after.last_seen;
    seen.started_at = after.started_at;
    seen != *after
}

#[cfg(test)]
mod tests;
