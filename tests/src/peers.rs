//! Nodes that a scenario plays itself, over connections of their own, and those who watch them.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use catga::prelude::{Catga, Result};
use catga::{Backend, ConnectOptions, ErrorKind, HandlerError, Name};
use catga_core::{BackendUrl, Driver, NodeEvent, NodeId, NodeInfo, NodeRegistry, NodeWatch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::bus::Bus;
use crate::harness::{SOON, needs_nodes, patience, wait_until};
use crate::mutants::Mutated;
use crate::subject::Time;

/// How often a node says that it lives.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(200);
/// After which silence it is given up.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(1);
/// How often the silent are looked for at least.
pub(crate) const SWEEP: Duration = Duration::from_millis(500);
/// A timeout within which nobody falls silent.
pub(crate) const PATIENT: Duration = Duration::from_secs(30);
/// The service of those that a scenario plays.
const SERVICE: Name = Name::from_static("suite");

/// A connection to the registry of a bus, behind which there is no application.
#[derive(Debug)]
pub(crate) struct Connection {
    backend: Backend,
    pub(crate) registry: Arc<dyn NodeRegistry>,
}

impl Connection {
    /// A connection that gives the silent up after [`TIMEOUT`].
    ///
    /// # Errors
    /// The refusal that users are given, where no node knows another.
    pub(crate) async fn open(bus: &Bus) -> Result<Self> {
        Self::with_timeout(bus, TIMEOUT).await
    }

    /// A connection over which nobody falls silent.
    pub(crate) async fn patient(bus: &Bus) -> Result<Self> {
        Self::with_timeout(bus, PATIENT).await
    }

    async fn with_timeout(bus: &Bus, node_timeout: Duration) -> Result<Self> {
        let url: BackendUrl = bus.url().parse()?;
        let namespace = Name::token(url.option("namespace").unwrap_or("catga"))?;
        let options = ConnectOptions::new(namespace).with_node_timeout(node_timeout);
        let driver = Mutated::new(Arc::clone(bus.subject().driver()), bus.mutant());
        let backend = driver.connect(&url, &options).await?;
        let Some(registry) = backend.registry.clone() else {
            needs_nodes(&bus.observer().await?).await?;
            return Err(HandlerError::terminal(
                "everybody was asked, and nobody knows who that is",
            ));
        };
        Ok(Self { backend, registry })
    }

    /// Whoever watches from here.
    pub(crate) async fn eyes(&self) -> Result<Eyes> {
        Eyes::open(&self.registry).await
    }

    /// The incarnations that are listed, by id.
    pub(crate) async fn listed(&self) -> Result<BTreeMap<NodeId, NodeInfo>> {
        let nodes = self.registry.nodes().await?;
        Ok(nodes
            .into_iter()
            .map(|node| (node.id.clone(), node))
            .collect())
    }

    pub(crate) async fn close(self) -> Result<()> {
        Ok(self.backend.transport.close().await?)
    }
}

/// A node, as it says of itself.
pub(crate) fn peer(id: &str) -> NodeInfo {
    let id = Name::token(id).expect("the suite gives ids that are tokens");
    NodeInfo::new(id, SERVICE)
}

/// A node that is in the view of others and answers nothing, for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Beating {
    task: JoinHandle<()>,
}

impl Beating {
    /// Registers a node, and says that it lives from then on.
    pub(crate) async fn start(registry: &Arc<dyn NodeRegistry>, node: NodeInfo) -> Result<Self> {
        registry.register(&node).await?;
        Ok(Self::go_on(Arc::clone(registry), node))
    }

    /// Says from now on that a node lives.
    pub(crate) fn go_on(registry: Arc<dyn NodeRegistry>, node: NodeInfo) -> Self {
        let task = tokio::spawn(async move {
            loop {
                sleep(HEARTBEAT).await;
                beat(&*registry, &node).await;
            }
        });
        Self { task }
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One heartbeat, by which a node that was given up is there again. Whether it had been.
pub(crate) async fn beat(registry: &dyn NodeRegistry, node: &NodeInfo) -> bool {
    match registry.heartbeat(node).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // Who does not get through tries again at the next.
            let _ = registry.register(node).await;
            true
        }
        _ => false,
    }
}

/// A watch, and the view that its events make. What is told twice, or of a node that is not there, is a failure.
#[derive(Debug)]
pub(crate) struct Eyes {
    registry: Arc<dyn NodeRegistry>,
    watch: Box<dyn NodeWatch>,
    /// Whether the watch may end, and is to be begun again then.
    may_end: bool,
    pub(crate) view: BTreeMap<NodeId, NodeInfo>,
    /// All that was told, and when it was seen.
    pub(crate) told: Vec<(Instant, NodeEvent)>,
}

impl Eyes {
    async fn open(registry: &Arc<dyn NodeRegistry>) -> Result<Self> {
        Ok(Self {
            registry: Arc::clone(registry),
            watch: registry.watch().await?,
            may_end: false,
            view: BTreeMap::new(),
            told: Vec::new(),
        })
    }

    /// The same of one whose server may go, which may end its watches: then they begin again, with a fresh snapshot.
    pub(crate) fn may_end(mut self) -> Self {
        self.may_end = true;
        self
    }

    /// The next event.
    ///
    /// # Cancel safety
    /// Dropping the future loses no event, where that of the watch does not.
    pub(crate) async fn look(&mut self) -> NodeEvent {
        loop {
            if let Some(event) = self.watch.next().await {
                self.fold(event.clone());
                return event;
            }
            assert!(
                self.may_end,
                "the watch has ended, and the registry is there"
            );
            match self.registry.watch().await {
                Ok(watch) => {
                    self.watch = watch;
                    self.view.clear();
                }
                Err(_) => sleep(HEARTBEAT).await,
            }
        }
    }

    /// The next event, in time.
    #[track_caller]
    pub(crate) fn next(&mut self) -> impl Future<Output = NodeEvent> {
        let told = self.told.len();
        let next = timeout(patience(SOON), self.look());
        async move {
            let next = next.await;
            next.unwrap_or_else(|_| panic!("nothing is told any more, after {told} events"))
        }
    }

    fn fold(&mut self, event: NodeEvent) {
        self.told.push((Instant::now(), event.clone()));
        match event {
            NodeEvent::Joined(node) => {
                let before = self.view.insert(node.id.clone(), node.clone());
                let twice = before.is_some_and(|before| before.incarnation == node.incarnation);
                assert!(!twice, "it is told twice that `{}` joined", node.id);
            }
            NodeEvent::Updated(node) => {
                let before = self.view.insert(node.id.clone(), node.clone());
                let known = before.is_some_and(|before| before.incarnation == node.incarnation);
                assert!(
                    known,
                    "`{}` changes, and it was not told that it joined",
                    node.id
                );
            }
            NodeEvent::Left(node) => {
                let before = self.view.remove(&node.id);
                let known = before.is_some_and(|before| before.incarnation == node.incarnation);
                assert!(
                    known,
                    "`{}` leaves, and it was not told that it joined",
                    node.id
                );
            }
            NodeEvent::Lagged => self.view.clear(),
            other => panic!("an event that this suite does not know: {other:?}"),
        }
    }

    /// Looks until the view is as wanted; fails when that takes longer than `limit`.
    #[track_caller]
    pub(crate) fn until(
        &mut self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&BTreeMap<NodeId, NodeInfo>) -> bool,
    ) -> impl Future<Output = ()> {
        let (waits, limit) = (Location::caller(), patience(limit));
        async move {
            let by = Instant::now() + limit;
            while !wanted(&self.view) {
                let told = tokio::time::timeout_at(by, self.look()).await;
                assert!(
                    told.is_ok(),
                    "not within {limit:?}: {what} ({waits}); seen: {:?}",
                    self.view.keys()
                );
            }
        }
    }

    /// Looks until so much time is over.
    pub(crate) async fn for_a(&mut self, time: Duration) {
        let by = Instant::now() + time;
        while tokio::time::timeout_at(by, self.look()).await.is_ok() {}
    }

    pub(crate) fn sees(&self, node: &NodeInfo) -> bool {
        sees(&self.view, node)
    }

    /// What was told of one node: `J`, `U`, `L`.
    pub(crate) fn story(&self, id: &NodeId) -> String {
        let letter = |event: &NodeEvent| match event {
            NodeEvent::Joined(node) if node.id == *id => Some('J'),
            NodeEvent::Updated(node) if node.id == *id => Some('U'),
            NodeEvent::Left(node) if node.id == *id => Some('L'),
            _ => None,
        };
        self.told
            .iter()
            .filter_map(|(_, event)| letter(event))
            .collect()
    }
}

/// Whether this start of a node is in a view.
pub(crate) fn sees(view: &BTreeMap<NodeId, NodeInfo>, node: &NodeInfo) -> bool {
    let seen = view.get(&node.id);
    seen.is_some_and(|seen| seen.incarnation == node.incarnation)
}

/// Starts a node that answers nothing, with the short times.
pub(crate) async fn bystander(bus: &Bus, id: &str) -> Result<Catga> {
    let node = bus.node(id).heartbeat(HEARTBEAT, TIMEOUT);
    Ok(node.handlers(catga::handlers![]).start().await?)
}

/// Waits until an application sees this start of a node, or no more.
#[track_caller]
pub(crate) fn until_seen(node: &Catga, other: &NodeInfo, there: bool) -> impl Future<Output = ()> {
    let (node, other) = (node.clone(), other.clone());
    let what = format!("{} sees {}: {there}", node.node(), other.id);
    wait_until(what, SOON, move || {
        let nodes = node.nodes();
        let seen = nodes
            .iter()
            .any(|seen| seen.id == other.id && seen.incarnation == other.incarnation);
        seen == there
    })
}

/// What a clock on the wall may be wrong by, where the machine does much else.
pub(crate) fn slack(bus: &Bus) -> Duration {
    match bus.subject().time() {
        Time::Timers => Duration::ZERO,
        Time::Wall => Duration::from_millis(150),
    }
}
