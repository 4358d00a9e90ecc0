//! How nodes are known on a server, and where what is kept of them lies.

/// How nodes are known on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Discovery {
    /// NATS: a key-value bucket has a key for each node.
    Bucket,
    /// NATS: nothing is kept, nodes tell each other.
    PubSub,
    /// Redis: a key for each node.
    Keys,
    /// Redis: a sorted set, and a record for each node.
    SortedSet,
}

impl Discovery {
    /// The option of a URL that chooses it; none for what is the default.
    pub(super) fn option(self) -> Option<&'static str> {
        match self {
            Self::Bucket | Self::SortedSet => None,
            Self::PubSub => Some("discovery=pubsub"),
            Self::Keys => Some("discovery=keys"),
        }
    }
}

/// The stream of the bucket.
pub(super) const STREAM: &str = "KV_catga_nodes";
/// What all keys begin with, and the sorted set.
pub(super) const KEYS: &str = "{catga::nodes}";

/// The subject of a key of the bucket.
pub(super) fn kept_at(id: &str) -> String {
    format!("$KV.catga_nodes.{id}")
}

/// The subject on which a node is told of.
pub(super) fn told_at(id: &str) -> String {
    format!("catga.nodes.{id}")
}

/// The subject on which a node says that it lives.
pub(super) fn beat_of(id: &str) -> String {
    format!("catga.nodes.{id}.beat")
}

/// The subject on which some nodes tell of all.
pub(super) const REPORTS: &str = "catga.nodes.~.report";

/// The key of a node.
pub(super) fn key_of(id: &str) -> String {
    format!("{KEYS}:{id}")
}
