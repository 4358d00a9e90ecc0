//! Which nodes are there, by one of two means: a key-value bucket, or words that nobody keeps.
//!
//! On a connection of its own, so that a node whose messages fill the other one stays a member. It is opened by the first
//! call, and what keeps it runs on the runtime of that call.

mod clock;
mod desk;
mod digest;
mod entry;
mod feed;
mod gone;
mod hear;
mod host;
mod kv;
mod listen;
mod pubsub;
mod reports;
mod roster;
mod rubbish;
mod told;
mod trouble;
mod view;
mod watch;
mod word;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use catga_core::{Error, Name, NodeInfo, NodeRegistry, NodeWatch, async_trait};
use tokio::sync::OnceCell;

use crate::connection::Connection;
use crate::options::Discovery;
use kv::Kv;
use pubsub::PubSub;
use watch::RosterWatch;

/// The registry of a namespace.
#[derive(Debug)]
pub(crate) struct NatsRegistry {
    /// The connection of the backend: the registry ends with it.
    backend: Arc<Connection>,
    namespace: Name,
    node_timeout: Duration,
    ignored: Arc<AtomicU64>,
    open: OnceCell<Open>,
}

/// What the first call opens.
#[derive(Debug)]
struct Open {
    connection: Arc<Connection>,
    means: Means,
}

#[derive(Debug)]
enum Means {
    Kv(Kv),
    PubSub(PubSub),
}

impl NatsRegistry {
    pub(crate) fn new(backend: Arc<Connection>, namespace: Name, node_timeout: Duration) -> Self {
        Self {
            backend,
            namespace,
            node_timeout,
            ignored: Arc::default(),
            open: OnceCell::new(),
        }
    }

    async fn means(&self, operation: &'static str) -> Result<&Means, Error> {
        self.backend.check_open(operation)?;
        let open = self.open.get_or_try_init(|| self.connect()).await?;
        Ok(&open.means)
    }

    async fn connect(&self) -> Result<Open, Error> {
        let mut settings = self.backend.settings.clone();
        settings.client_name = "catga nodes";
        let connection = Arc::new(Connection::open(settings, &self.namespace).await?);
        let (timeout, ignored) = (self.node_timeout, Arc::clone(&self.ignored));
        let means = match self.backend.settings.discovery {
            Discovery::Kv => Means::Kv(Kv::start(&connection, timeout, ignored)),
            Discovery::PubSub => Means::PubSub(PubSub::start(&connection, timeout, ignored).await?),
        };
        // Who forgets to close the backend drops it.
        let (backend, own) = (self.backend.closed.clone(), Arc::downgrade(&connection));
        tokio::spawn(async move {
            backend.raised().await;
            if let Some(connection) = own.upgrade() {
                let _ = connection.close().await;
            }
        });
        Ok(Open { connection, means })
    }

    /// Closes the connection, when there is one.
    pub(crate) async fn close(&self) {
        if let Some(open) = self.open.get()
            && let Err(error) = open.connection.close().await
        {
            tracing::debug!(%error, "the connection of the node registry was closed unflushed");
        }
    }
}

#[async_trait]
impl NodeRegistry for NatsRegistry {
    fn is_networked(&self) -> bool {
        true
    }

    async fn register(&self, node: &NodeInfo) -> Result<(), Error> {
        match self.means("register").await? {
            Means::Kv(kv) => kv.register(node).await,
            Means::PubSub(pubsub) => pubsub.register(node).await,
        }
    }

    async fn heartbeat(&self, node: &NodeInfo) -> Result<(), Error> {
        match self.means("heartbeat").await? {
            Means::Kv(kv) => kv.heartbeat(node).await,
            Means::PubSub(pubsub) => pubsub.heartbeat(node).await,
        }
    }

    async fn unregister(&self, node: &NodeInfo) -> Result<(), Error> {
        match self.means("unregister").await? {
            Means::Kv(kv) => kv.unregister(node).await,
            Means::PubSub(pubsub) => pubsub.unregister(node).await,
        }
    }

    async fn nodes(&self) -> Result<Vec<NodeInfo>, Error> {
        match self.means("nodes").await? {
            Means::Kv(kv) => kv.nodes().await,
            Means::PubSub(pubsub) => pubsub.nodes().await,
        }
    }

    async fn watch(&self) -> Result<Box<dyn NodeWatch>, Error> {
        let means = self.means("watch").await?;
        let closed = self.backend.closed.clone();
        let watch = match means {
            Means::Kv(kv) => RosterWatch::new(kv.watch().await?, kv.asking(), closed),
            Means::PubSub(pubsub) => {
                RosterWatch::new(pubsub.watch().await?, pubsub.asking(), closed)
            }
        };
        Ok(Box::new(watch))
    }

    fn ignored(&self) -> u64 {
        self.ignored.load(Ordering::Relaxed)
    }
}
