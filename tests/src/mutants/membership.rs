//! Bugs in who is there.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use catga::{Error, ErrorKind};
use catga_core::{NodeEvent, NodeInfo, NodeRegistry, NodeWatch, async_trait};
use tokio::time::sleep;

use super::Mutant;

/// What a clock may be wrong by before a mutant that believes it minds.
const MINUTE: Duration = Duration::from_secs(60);
/// After how many events a watch that ends says nothing more.
const EVENTS: usize = 2;
/// How much metadata a mutant cannot read.
const TOO_MUCH: usize = 5_000;

/// A node registry with a bug.
#[derive(Debug)]
pub(super) struct MutatedRegistry {
    mutant: Mutant,
    registry: Arc<dyn NodeRegistry>,
    /// Whether something went wrong before.
    failed: AtomicBool,
}

impl MutatedRegistry {
    pub(super) fn new(mutant: Mutant, registry: Arc<dyn NodeRegistry>) -> Self {
        Self {
            mutant,
            registry,
            failed: AtomicBool::new(false),
        }
    }

    /// The node of the same id that lives, whichever start of it.
    async fn instead(&self, node: &NodeInfo) -> Result<NodeInfo, Error> {
        let live = self.registry.nodes().await?;
        let same = live.into_iter().find(|live| live.id == node.id);
        Ok(same.unwrap_or_else(|| node.clone()))
    }

    /// Says that a node lives, whether it does or not.
    fn keep_alive(&self, node: &NodeInfo) {
        let (registry, node) = (Arc::clone(&self.registry), node.clone());
        tokio::spawn(async move {
            while registry.heartbeat(&node).await.is_ok() {
                sleep(Duration::from_millis(100)).await;
            }
        });
    }
}

#[async_trait]
impl NodeRegistry for MutatedRegistry {
    fn is_networked(&self) -> bool {
        // What keeps a dead node alive is not to end with the thread of its membership.
        self.mutant != Mutant::NeverSweeps && self.registry.is_networked()
    }

    fn ignored(&self) -> u64 {
        self.registry.ignored()
    }

    async fn register(&self, node: &NodeInfo) -> Result<(), Error> {
        let registered = self.registry.register(node).await;
        match registered {
            Ok(()) if self.mutant == Mutant::NeverSweeps => self.keep_alive(node),
            Err(error) if self.mutant == Mutant::AdmitsDoubles => {
                let double = error.kind() == ErrorKind::DuplicateNode;
                return if double { Ok(()) } else { Err(error) };
            }
            _ => {}
        }
        registered
    }

    async fn heartbeat(&self, node: &NodeInfo) -> Result<(), Error> {
        match self.mutant {
            Mutant::TrustsThePeersClock if node.last_seen + MINUTE < SystemTime::now() => {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    "heartbeat",
                    "it is an hour old",
                ));
            }
            Mutant::GivesUpAfterAFailure if self.failed.load(Ordering::Relaxed) => return Ok(()),
            _ => {}
        }
        let Err(error) = self.registry.heartbeat(node).await else {
            return Ok(());
        };
        self.failed.store(true, Ordering::Relaxed);
        match (self.mutant, error.kind()) {
            (Mutant::HidesWhoWasGivenUp, ErrorKind::NotFound)
            | (Mutant::LetsTheOldIncarnationBeat, ErrorKind::LostOwnership) => Ok(()),
            (Mutant::BringsBackTheDead, ErrorKind::NotFound) => self.registry.register(node).await,
            _ => Err(error),
        }
    }

    async fn unregister(&self, node: &NodeInfo) -> Result<(), Error> {
        match self.mutant {
            Mutant::NeverUnregisters => Ok(()),
            Mutant::LetsTheOldIncarnationLeave => {
                let live = self.instead(node).await?;
                self.registry.unregister(&live).await
            }
            _ => self.registry.unregister(node).await,
        }
    }

    async fn nodes(&self) -> Result<Vec<NodeInfo>, Error> {
        let nodes = self.registry.nodes().await?;
        let is_odd = |node: &NodeInfo| {
            let metadata = node.metadata.iter();
            let bytes: usize = metadata.map(|(key, value)| key.len() + value.len()).sum();
            bytes > TOO_MUCH || node.requests.len() > TOO_MUCH / 2
        };
        match self.mutant {
            Mutant::ForgetsWhoWasThere => Ok(Vec::new()),
            Mutant::ChokesOnOddEntries if nodes.iter().any(is_odd) => {
                Err(Error::new(ErrorKind::Decode, "nodes", "an entry is odd"))
            }
            _ => Ok(nodes),
        }
    }

    async fn watch(&self) -> Result<Box<dyn NodeWatch>, Error> {
        let watch = self.registry.watch().await?;
        let snapshot = self.registry.nodes().await?.len();
        let skip = match self.mutant {
            Mutant::ForgetsWhoWasThere => snapshot,
            _ => 0,
        };
        Ok(Box::new(MutatedWatch {
            mutant: self.mutant,
            watch,
            skip,
            snapshot,
            told: 0,
            again: None,
        }))
    }
}

/// A watch with a bug.
#[derive(Debug)]
struct MutatedWatch {
    mutant: Mutant,
    watch: Box<dyn NodeWatch>,
    /// Events of the snapshot that nobody gets to see.
    skip: usize,
    /// How many events the snapshot has.
    snapshot: usize,
    /// How many were told.
    told: usize,
    /// What is told once more.
    again: Option<NodeEvent>,
}

impl MutatedWatch {
    /// Whether nobody gets to see an event.
    fn hides(&mut self, event: &NodeEvent) -> bool {
        match (self.mutant, event) {
            (Mutant::ForgetsWhoLeft, NodeEvent::Left(_))
            | (Mutant::HidesLag, NodeEvent::Lagged)
            | (Mutant::HidesChanges, NodeEvent::Updated(_)) => true,
            (Mutant::LosesAJoinAfterTheSnapshot, NodeEvent::Joined(_)) => {
                let first = self.told == self.snapshot;
                self.told += usize::from(first);
                first
            }
            _ => false,
        }
    }
}

#[async_trait]
impl NodeWatch for MutatedWatch {
    async fn next(&mut self) -> Option<NodeEvent> {
        while self.skip > 0 {
            self.skip -= 1;
            self.watch.next().await?;
        }
        if let Some(again) = self.again.take() {
            return Some(again);
        }
        if self.mutant == Mutant::WatchEndsSilently && self.told >= self.snapshot + EVENTS {
            std::future::pending::<()>().await;
        }
        let mut event = self.watch.next().await?;
        while self.hides(&event) {
            event = self.watch.next().await?;
        }
        if self.mutant == Mutant::DropsWhatItReads {
            // Whoever drops the future here loses what was read.
            tokio::task::yield_now().await;
        }
        self.told += 1;
        match &event {
            NodeEvent::Joined(_) if self.mutant == Mutant::TellsJoinsTwice => {
                self.again = Some(event.clone());
            }
            NodeEvent::Joined(node) if self.mutant == Mutant::DialsEndpoints => dial(node),
            _ => {}
        }
        Some(event)
    }
}

/// Connects to where a node says that people reach it.
fn dial(node: &NodeInfo) {
    let endpoint = node.endpoint.as_deref().unwrap_or_default();
    let authority = endpoint
        .split_once("://")
        .map_or(endpoint, |(_, rest)| rest);
    let authority = authority.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    if let Ok(address) = host.parse::<SocketAddr>() {
        drop(TcpStream::connect_timeout(
            &address,
            Duration::from_millis(100),
        ));
    }
}
