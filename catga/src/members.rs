//! Membership: this node's heartbeats, and the view of the others.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use catga_core::{
    Error, ErrorKind, Load, Name, NodeEvent, NodeId, NodeInfo, NodeRegistry, NodeWatch,
};
use tokio::task::JoinSet;

use crate::app::Inner;
use crate::table::Entry;

/// Who is there, as a view that is swapped whole.
#[derive(Debug)]
pub(crate) struct Members {
    view: ArcSwap<View>,
    /// Nobody but this node is there, so that there is nothing to pick.
    alone: AtomicBool,
    /// Why others may not see this node.
    unregistered: ArcSwapOption<String>,
    /// Whether changes do not arrive, so that the view may be old.
    unwatched: AtomicBool,
}

/// The nodes at one moment.
#[derive(Debug)]
pub(crate) struct View {
    nodes: BTreeMap<NodeId, NodeInfo>,
    by_request: HashMap<Name, Arc<Candidates>>,
}

/// The nodes that answer one request, which take turns.
#[derive(Debug)]
pub(crate) struct Candidates {
    pub(crate) nodes: Vec<(NodeId, Name)>,
    turn: AtomicUsize,
}

impl Candidates {
    /// Whose turn it is: the node and its service.
    pub(crate) fn next(&self) -> &(NodeId, Name) {
        &self.nodes[self.turn.fetch_add(1, Ordering::Relaxed) % self.nodes.len()]
    }

    /// Who comes after `failed`. It takes no turn: else those who come next would meet it again.
    pub(crate) fn after(&self, failed: &NodeId) -> &(NodeId, Name) {
        let at = self.nodes.iter().position(|(node, _)| node == failed);
        &self.nodes[at.map_or(0, |at| at + 1) % self.nodes.len()]
    }
}

impl View {
    fn new(own: &NodeInfo, mut nodes: BTreeMap<NodeId, NodeInfo>, before: Option<&Self>) -> Self {
        // This node is there for itself, whatever the registry has heard of it.
        nodes.entry(own.id.clone()).or_insert_with(|| own.clone());
        let mut answering: HashMap<Name, Vec<(NodeId, Name)>> = HashMap::new();
        for node in nodes.values().filter(|node| !node.draining) {
            for request in &node.requests {
                answering
                    .entry(request.clone())
                    .or_default()
                    .push((node.id.clone(), node.service.clone()));
            }
        }
        let turn = |request: &Name| {
            let before = before.and_then(|view| view.by_request.get(request));
            AtomicUsize::new(before.map_or(0, |candidates| candidates.turn.load(Ordering::Relaxed)))
        };
        let by_request = answering
            .into_iter()
            .map(|(request, nodes)| {
                let turn = turn(&request);
                (request, Arc::new(Candidates { nodes, turn }))
            })
            .collect();
        Self { nodes, by_request }
    }

    /// The nodes that answer a request.
    pub(crate) fn candidates(&self, request: &str) -> Option<&Arc<Candidates>> {
        self.by_request.get(request)
    }

    /// How many nodes answer a request.
    pub(crate) fn answering(&self, request: &str) -> u32 {
        let nodes = self.candidates(request).map_or(0, |c| c.nodes.len());
        u32::try_from(nodes).unwrap_or(u32::MAX)
    }

    /// A live node.
    pub(crate) fn node(&self, id: &str) -> Option<&NodeInfo> {
        self.nodes.get(id)
    }
}

impl Members {
    pub(crate) fn new(own: &NodeInfo) -> Self {
        let view = View::new(own, BTreeMap::new(), None);
        Self {
            view: ArcSwap::from_pointee(view),
            alone: AtomicBool::new(true),
            unregistered: ArcSwapOption::empty(),
            unwatched: AtomicBool::new(false),
        }
    }

    #[inline]
    pub(crate) fn alone(&self) -> bool {
        self.alone.load(Ordering::Relaxed)
    }

    pub(crate) fn view(&self) -> arc_swap::Guard<Arc<View>> {
        self.view.load()
    }

    pub(crate) fn nodes(&self) -> Vec<NodeInfo> {
        self.view.load().nodes.values().cloned().collect()
    }

    /// What is wrong with the membership, if anything.
    pub(crate) fn trouble(&self) -> Option<String> {
        if self.unwatched.load(Ordering::Relaxed) {
            return Some("changes in the registry do not arrive; the last view is kept".to_owned());
        }
        self.unregistered.load().as_deref().cloned()
    }

    fn change(&self, own: &NodeInfo, change: impl FnOnce(&mut BTreeMap<NodeId, NodeInfo>)) {
        let before = self.view.load_full();
        let mut nodes = before.nodes.clone();
        change(&mut nodes);
        let view = View::new(own, nodes, Some(&before));
        let alone = view.nodes.len() == 1;
        self.view.store(Arc::new(view));
        self.alone.store(alone, Ordering::Relaxed);
    }
}

/// Registers this node and sees who is there.
pub(crate) async fn join(inner: &Inner) -> Result<Option<Box<dyn NodeWatch>>, Error> {
    let Some(registry) = &inner.backend.registry else {
        return Ok(None);
    };
    registry.register(&inner.node).await?;
    Ok(Some(watch(inner, &**registry).await?))
}

/// Begins a watch, and sees everybody who is there.
async fn watch(inner: &Inner, registry: &dyn NodeRegistry) -> Result<Box<dyn NodeWatch>, Error> {
    let watch = registry.watch().await?;
    refresh(inner, registry).await?;
    Ok(watch)
}

async fn refresh(inner: &Inner, registry: &dyn NodeRegistry) -> Result<(), Error> {
    let live = registry.nodes().await?;
    let live = live
        .into_iter()
        .map(|node| (node.id.clone(), node))
        .collect();
    inner.members.change(&inner.node, |nodes| *nodes = live);
    Ok(())
}

/// The tasks that keep the membership: heartbeats out, changes in.
pub(crate) fn keep(inner: &Arc<Inner>, watch: Option<Box<dyn NodeWatch>>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    if let (Some(registry), Some(watch)) = (&inner.backend.registry, watch) {
        tasks.spawn(beat(Arc::clone(inner), Arc::clone(registry)));
        tasks.spawn(follow(Arc::clone(inner), Arc::clone(registry), watch));
    }
    tasks
}

async fn beat(inner: Arc<Inner>, registry: Arc<dyn NodeRegistry>) {
    let mut node = inner.node.clone();
    loop {
        tokio::time::sleep(inner.settings.heartbeat).await;
        node.load = load(&inner);
        let outcome = match registry.heartbeat(&node).await {
            // Given up while it was silent: it is there again.
            Err(error) if error.kind() == ErrorKind::NotFound => registry.register(&node).await,
            outcome => outcome,
        };
        let trouble = outcome.err().map(|error| {
            let trouble = format!("node {} is not registered: {}", node.id, error.message());
            tracing::warn!(trouble, "membership");
            Arc::new(trouble)
        });
        inner.members.unregistered.store(trouble);
    }
}

async fn follow(
    inner: Arc<Inner>,
    registry: Arc<dyn NodeRegistry>,
    mut changes: Box<dyn NodeWatch>,
) {
    loop {
        while let Some(event) = changes.next().await {
            if event == NodeEvent::Lagged {
                // Who left meanwhile is not in the snapshot that follows.
                if let Err(error) = refresh(&inner, &*registry).await {
                    tracing::warn!(%error, "the registry could not be read");
                    break;
                }
            }
            apply(&inner, event);
        }
        tracing::warn!("the watch on the registry ended; the last view is kept meanwhile");
        inner.members.unwatched.store(true, Ordering::Relaxed);
        changes = loop {
            tokio::time::sleep(inner.settings.heartbeat).await;
            if let Ok(changes) = watch(&inner, &*registry).await {
                break changes;
            }
        };
        inner.members.unwatched.store(false, Ordering::Relaxed);
    }
}

fn apply(inner: &Inner, event: NodeEvent) {
    match event {
        NodeEvent::Joined(node) | NodeEvent::Updated(node) => {
            tracing::debug!(node = %node.id, service = %node.service, "node is there");
            inner.members.change(&inner.node, |nodes| {
                nodes.insert(node.id.clone(), node);
            });
        }
        NodeEvent::Left(node) => {
            tracing::info!(node = %node.id, service = %node.service, "node left");
            inner.members.change(&inner.node, |nodes| {
                // A successor with the same id may be there already.
                if nodes
                    .get(&node.id)
                    .is_some_and(|known| known.incarnation == node.incarnation)
                {
                    nodes.remove(&node.id);
                }
            });
        }
        _ => {}
    }
}

/// The fullest handler decides.
fn load(inner: &Inner) -> Load {
    let percent = |entry: &Arc<Entry>| {
        if entry.is_request() && entry.slots.is_paused() {
            // Idle, and yet nobody for a request.
            return 100;
        }
        entry.slots.taken() * 100 / entry.slots.limit().max(1)
    };
    let fullest = inner.table.entries.iter().map(percent).max().unwrap_or(0);
    Load::percent(u8::try_from(fullest).unwrap_or(100))
}
