//! Backends, found by the scheme of a URL.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::{
    BackendUrl, Capability, DeadLetters, Error, InboxStore, Name, NodeRegistry, Transport,
    async_trait,
};

/// Makes backends for the URLs of its schemes: the value that a backend crate exports.
#[async_trait]
pub trait Driver: Send + Sync + fmt::Debug + 'static {
    /// The backend's name: `memory`, `nats`, `redis`.
    fn name(&self) -> &'static str;

    /// The URL schemes that it serves.
    fn schemes(&self) -> &'static [&'static str];

    /// The URL options that it knows, beside those of Catga itself.
    fn options(&self) -> &'static [&'static str];

    /// What its backends can do, for the message that refuses what another cannot.
    fn capabilities(&self) -> &'static [Capability];

    /// Connects.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config) for a URL that cannot be meant;
    /// [`Connect`](crate::ErrorKind::Connect) when nobody is there, naming host and port.
    async fn connect(&self, url: &BackendUrl, options: &ConnectOptions) -> Result<Backend, Error>;
}

/// What a backend needs to know beside its URL.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// Keeps installations on one broker apart.
    pub namespace: Name,
    /// How long a node may be silent before it is given up.
    pub node_timeout: Duration,
}

impl ConnectOptions {
    /// Options with a node timeout of 30 s.
    #[must_use]
    pub fn new(namespace: Name) -> Self {
        Self {
            namespace,
            node_timeout: Duration::from_secs(30),
        }
    }

    /// Sets how long a node may be silent.
    #[must_use]
    pub fn with_node_timeout(mut self, node_timeout: Duration) -> Self {
        self.node_timeout = node_timeout;
        self
    }
}

/// All that one URL gives: the transport, and what else the broker can do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Backend {
    /// The driver's name.
    pub name: &'static str,
    /// Moves messages.
    pub transport: Arc<dyn Transport>,
    /// Knows the nodes.
    pub registry: Option<Arc<dyn NodeRegistry>>,
    /// Remembers what was handled.
    pub inbox: Option<Arc<dyn InboxStore>>,
    /// Keeps what was given up.
    pub dead_letters: Option<Arc<dyn DeadLetters>>,
}

impl Backend {
    /// A backend that only moves messages.
    #[must_use]
    pub fn new(name: &'static str, transport: Arc<dyn Transport>) -> Self {
        Self {
            name,
            transport,
            registry: None,
            inbox: None,
            dead_letters: None,
        }
    }

    /// Adds a node registry.
    #[must_use]
    pub fn with_registry(mut self, registry: Arc<dyn NodeRegistry>) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Adds an inbox.
    #[must_use]
    pub fn with_inbox(mut self, inbox: Arc<dyn InboxStore>) -> Self {
        self.inbox = Some(inbox);
        self
    }

    /// Adds a store of dead letters.
    #[must_use]
    pub fn with_dead_letters(mut self, dead_letters: Arc<dyn DeadLetters>) -> Self {
        self.dead_letters = Some(dead_letters);
        self
    }
}
