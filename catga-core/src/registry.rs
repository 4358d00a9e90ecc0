//! Which nodes are there.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::{Error, Metadata, Name, NodeId, async_trait};

/// One start of a node: a restarted node has the same id and another incarnation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(Uuid);

impl Incarnation {
    /// A new incarnation.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "a default that differs each time would surprise"
    )]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The token that a registry compares.
    #[must_use]
    pub fn as_uuid(&self) -> &Uuid {
        &self.0
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// How busy a node is, in per cent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Load(#[serde(deserialize_with = "up_to_full")] u8);

impl Load {
    /// The load at which watchers are told of a change, in points.
    pub const STEP: u8 = 10;

    /// A load; above 100 counts as 100.
    #[must_use]
    pub fn percent(percent: u8) -> Self {
        Self(percent.min(100))
    }

    /// The load in per cent.
    #[must_use]
    pub fn as_percent(self) -> u8 {
        self.0
    }
}

/// What others write counts as what is written here.
fn up_to_full<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    u8::deserialize(deserializer).map(|percent| Load::percent(percent).0)
}

/// A name without dots: with one it would be read as two parts where requests to the node go.
fn one_token<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
    let name = Name::deserialize(deserializer)?;
    Name::token(name.as_str()).map_err(|error| D::Error::custom(error.message()))
}

fn in_a_row<S: Serializer>(names: &[Name], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(names)
}

/// A request is looked for among sorted ones, in whichever order others write them.
fn sorted<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<[Name]>, D::Error> {
    let mut names = Vec::<Name>::deserialize(deserializer)?;
    names.sort();
    Ok(names.into())
}

/// A node as others see it. What a newer version adds is ignored, so that nodes of both see each
/// other during an upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NodeInfo {
    /// The node's id.
    #[serde(deserialize_with = "one_token")]
    pub id: NodeId,
    /// This start of it.
    pub incarnation: Incarnation,
    /// The service that it is a node of.
    #[serde(deserialize_with = "one_token")]
    pub service: Name,
    /// Where people reach it; never dialled by Catga.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The names of the requests that it answers, sorted. Clones share them.
    #[serde(default, serialize_with = "in_a_row", deserialize_with = "sorted")]
    pub requests: Arc<[Name]>,
    /// How busy it is.
    #[serde(default)]
    pub load: Load,
    /// Whether it is on its way out and takes no new requests.
    #[serde(default)]
    pub draining: bool,
    /// What the application wants others to know.
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub metadata: Metadata,
    /// When it started, by the registry's clock.
    pub started_at: SystemTime,
    /// When it was last heard of, by the registry's clock.
    pub last_seen: SystemTime,
}

impl NodeInfo {
    /// A new incarnation of node `id` of `service`.
    #[must_use]
    pub fn new(id: NodeId, service: Name) -> Self {
        let now = SystemTime::now();
        Self {
            id,
            incarnation: Incarnation::new(),
            service,
            endpoint: None,
            requests: Arc::default(),
            load: Load::default(),
            draining: false,
            metadata: Metadata::default(),
            started_at: now,
            last_seen: now,
        }
    }

    /// Sets where people reach the node.
    #[must_use]
    pub fn with_endpoint(mut self, endpoint: Option<String>) -> Self {
        self.endpoint = endpoint;
        self
    }

    /// Sets the names of the requests that the node answers.
    #[must_use]
    pub fn with_requests(mut self, mut requests: Vec<Name>) -> Self {
        requests.sort();
        self.requests = requests.into();
        self
    }

    /// Whether the node answers a request.
    #[must_use]
    pub fn answers(&self, request: &str) -> bool {
        self.requests
            .binary_search_by(|name| name.as_str().cmp(request))
            .is_ok()
    }
}

/// A change in the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeEvent {
    /// A node is there: it joined, or the watch began.
    Joined(NodeInfo),
    /// A node changed, or its load moved by [`Load::STEP`].
    Updated(NodeInfo),
    /// A node left or was given up; the incarnation that went.
    Left(NodeInfo),
    /// The watcher was too slow and events were dropped: what follows is a fresh snapshot.
    Lagged,
}

/// Membership: who is there, kept by heartbeats and the backend's clock.
///
/// # Behaviour
/// - `a_live_double_is_refused`: registering an id whose other incarnation is live fails with
///   [`DuplicateNode`](crate::ErrorKind::DuplicateNode).
/// - `an_old_incarnation_is_powerless`: it can neither heartbeat nor unregister its successor.
/// - `a_silent_node_leaves`: after the node timeout, also when no expiry event is ever sent.
/// - `a_watch_starts_with_everybody`: a snapshot as `Joined`, then changes, with no gap between.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a node registry",
    label = "not a node registry",
    note = "write `impl catga_core::NodeRegistry for {Self}`, with `#[catga_core::async_trait]`"
)]
#[async_trait]
pub trait NodeRegistry: Send + Sync + fmt::Debug + 'static {
    /// Whether it is behind a network. Then everything that follows is called on a thread of the membership's own, with a runtime
    /// of its own, so that a node whose workers are all busy still lives: what the registry needs of a runtime (a connection, tasks)
    /// it is to make at the first of these calls, [`register`](Self::register), and not when it is made itself.
    fn is_networked(&self) -> bool {
        false
    }

    /// Makes the node known.
    async fn register(&self, node: &NodeInfo) -> Result<(), Error>;

    /// Says that the node lives, with its present load and whether it drains.
    ///
    /// # Errors
    /// [`LostOwnership`](crate::ErrorKind::LostOwnership) when another incarnation has the id;
    /// [`NotFound`](crate::ErrorKind::NotFound) when the node was given up: register again.
    async fn heartbeat(&self, node: &NodeInfo) -> Result<(), Error>;

    /// Takes this incarnation of the node out.
    async fn unregister(&self, node: &NodeInfo) -> Result<(), Error>;

    /// The live nodes, sorted by id.
    async fn nodes(&self) -> Result<Vec<NodeInfo>, Error>;

    /// Watches changes, beginning with everybody who is there.
    async fn watch(&self) -> Result<Box<dyn NodeWatch>, Error>;

    /// How many entries were met that are no nodes: of others, too large, or under a name that is not their own. They are
    /// ignored, and told once.
    fn ignored(&self) -> u64 {
        0
    }
}

/// A watch on the membership. Its buffer is bounded; see [`NodeEvent::Lagged`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a watch on the nodes",
    label = "not a watch",
    note = "write `impl catga_core::NodeWatch for {Self}`, with `#[catga_core::async_trait]`"
)]
#[async_trait]
pub trait NodeWatch: Send + fmt::Debug {
    /// The next change; `None` when the registry is gone.
    ///
    /// # Cancel safety
    /// Dropping the future loses no event.
    async fn next(&mut self) -> Option<NodeEvent>;
}
