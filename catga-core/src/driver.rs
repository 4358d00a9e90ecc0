//! Backends, found by the scheme of a URL.

use std::any::TypeId;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::{
    BackendUrl, Capability, DeadLetters, Error, InboxStore, Name, NodeRegistry, Transport,
    async_trait,
};

/// Makes backends for the URLs of its schemes: the value that a backend crate exports.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a driver",
    label = "not a driver",
    note = "a backend crate exports one, as `catga_memory::DRIVER`; write your own: `impl catga_core::Driver for {Self}`"
)]
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

    /// The type of the [`CommitStore`](crate::CommitStore) that the inbox of its backends commits effects in,
    /// where it can: known before anybody connects, so that `start()` can refuse a handler that needs another.
    fn commit_store(&self) -> Option<TypeId> {
        None
    }

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
    /// How long the id of a QoS 2 publish is remembered, so that a second one with it stores nothing. `None`: as
    /// it is set there, or [`DUPLICATE_WINDOW`](Self::DUPLICATE_WINDOW).
    pub duplicate_window: Option<Duration>,
    /// What the inbox remembers, and for how long. `None`: as it is set there, or the default.
    pub inbox: Option<InboxLimits>,
}

/// What an inbox remembers, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboxLimits {
    /// How long an id that completed is known as handled: no copy that comes later than this is recognised.
    pub retention: Duration,
    /// How long the response of a request is kept for its duplicates.
    pub response_retention: Duration,
    /// The largest response that is kept, in bytes; of a larger one a duplicate learns that it was there.
    pub response_limit: usize,
}

impl Default for InboxLimits {
    /// Ids for 24 h; responses for 10 min, up to 64 KiB.
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(24 * 60 * 60),
            response_retention: Duration::from_secs(10 * 60),
            response_limit: 64 * 1024,
        }
    }
}

impl InboxLimits {
    /// Sets how long an id that completed is known as handled.
    #[must_use]
    pub fn with_retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// Sets how long responses are kept, and up to which size in bytes.
    #[must_use]
    pub fn with_responses(mut self, retention: Duration, limit: usize) -> Self {
        self.response_retention = retention;
        self.response_limit = limit;
        self
    }
}

impl ConnectOptions {
    /// How long the id of a QoS 2 publish is remembered where nobody says otherwise: 2 min.
    pub const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

    /// Options with a node timeout of 30 s.
    #[must_use]
    pub fn new(namespace: Name) -> Self {
        Self {
            namespace,
            node_timeout: Duration::from_secs(30),
            duplicate_window: None,
            inbox: None,
        }
    }

    /// Sets how long the id of a publish is remembered.
    #[must_use]
    pub fn with_duplicate_window(mut self, duplicate_window: Duration) -> Self {
        self.duplicate_window = Some(duplicate_window);
        self
    }

    /// Sets what the inbox remembers.
    #[must_use]
    pub fn with_inbox(mut self, inbox: InboxLimits) -> Self {
        self.inbox = Some(inbox);
        self
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
