//! The means by which nodes find each other, and the servers that they need.

use std::sync::Arc;
use std::time::Duration;

use catga_core::{Backend, BackendUrl, ConnectOptions, Driver, Name, NodeRegistry};

use crate::case::Needs;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Means {
    Memory,
    NatsKv,
    NatsPubSub,
    RedisSortedSet,
    RedisSortedSetOnFile,
    RedisKeys,
    RedisKeysOnFile,
}

impl Means {
    pub fn does(self) -> &'static str {
        match self {
            Self::Memory => "nodes of one process",
            Self::NatsKv => "`discovery=kv`: a key-value bucket",
            Self::NatsPubSub => "`discovery=pubsub`: words that nobody keeps",
            Self::RedisSortedSet | Self::RedisSortedSetOnFile => {
                "`discovery=sorted_set`: scores and hashes"
            }
            Self::RedisKeys | Self::RedisKeysOnFile => "`discovery=keys`: keys that expire",
        }
    }

    /// Where the nodes are kept.
    pub fn kept(self) -> &'static str {
        match self {
            Self::Memory => "the process",
            Self::NatsKv => "file, 1 replica",
            Self::NatsPubSub => "nowhere",
            Self::RedisSortedSet | Self::RedisKeys => "the server's memory",
            Self::RedisSortedSetOnFile | Self::RedisKeysOnFile => {
                "append-only file, synced every second"
            }
        }
    }

    pub fn needs(self) -> Needs {
        match self {
            Self::Memory => Needs::Nothing,
            Self::NatsKv | Self::NatsPubSub => Needs::Nats,
            Self::RedisSortedSet | Self::RedisKeys => Needs::Redis,
            Self::RedisSortedSetOnFile | Self::RedisKeysOnFile => Needs::RedisOnFile,
        }
    }

    pub fn needs_server(self) -> bool {
        self.needs() != Needs::Nothing
    }

    /// Where the backend is, of a server that may be there.
    pub fn url(self, server: Option<String>) -> String {
        let discovery = match self {
            Self::Memory => return "memory://nodes".to_owned(),
            Self::NatsKv => "kv",
            Self::NatsPubSub => "pubsub",
            Self::RedisSortedSet | Self::RedisSortedSetOnFile => "sorted_set",
            Self::RedisKeys | Self::RedisKeysOnFile => "keys",
        };
        format!("{}?discovery={discovery}", server.unwrap_or_default())
    }

    fn driver(self) -> &'static dyn Driver {
        match self {
            Self::Memory => &catga_memory::DRIVER,
            Self::NatsKv | Self::NatsPubSub => &catga_nats::DRIVER,
            _ => &catga_redis::DRIVER,
        }
    }

    /// A backend of its own, as each process has one.
    pub async fn connect(self, url: &str, node_timeout: Duration) -> Member {
        let url: BackendUrl = url.parse().expect("a URL of ours");
        let namespace = Name::new("catga").expect("a name");
        let options = ConnectOptions::new(namespace).with_node_timeout(node_timeout);
        let backend = self.driver().connect(&url, &options).await;
        let backend = backend.expect("the server runs");
        let registry = backend.registry.clone().expect("it knows nodes");
        Member {
            _backend: backend,
            registry,
        }
    }
}

/// A backend, and the registry that it has.
#[derive(Clone)]
pub struct Member {
    /// The registry ends with it.
    _backend: Backend,
    pub registry: Arc<dyn NodeRegistry>,
}
