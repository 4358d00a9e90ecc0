//! Which nodes are there, by both means.

/// Each of these scenarios by both means.
macro_rules! both {
    ($($name:ident),+ $(,)?) => {
        mod by_kv {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Means::Kv).await;
            })+
        }
        mod by_pubsub {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Means::PubSub).await;
            })+
        }
    };
}

mod both;
mod doubles;
mod faults;
mod feed;
mod kv;
mod pubsub;
mod rights;
mod traffic;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use catga_core::{
    Backend, Error, ErrorKind, Incarnation, Load, Name, NodeEvent, NodeInfo, NodeRegistry,
    NodeWatch,
};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::{SOON, Space};

/// The means, as an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Means {
    Kv,
    PubSub,
}

impl Means {
    fn option(self) -> &'static str {
        match self {
            Self::Kv => "?discovery=kv",
            Self::PubSub => "?discovery=pubsub",
        }
    }
}

/// After how long a silent node is given up, where a test waits for it.
const TIMEOUT: Duration = Duration::from_millis(1500);
/// How often nodes beat there.
const BEAT: Duration = Duration::from_millis(300);

/// A connection of its own to a registry, as another process has it. Closed when it is dropped.
struct Seat {
    backend: Backend,
    registry: Arc<dyn NodeRegistry>,
}

impl std::ops::Deref for Seat {
    type Target = dyn NodeRegistry;

    fn deref(&self) -> &Self::Target {
        &*self.registry
    }
}

async fn seat(space: &Space, means: Means) -> Seat {
    seat_with(space, means, "", SOON * 10).await
}

async fn seat_with(space: &Space, means: Means, more: &str, node_timeout: Duration) -> Seat {
    let options = format!("{}{more}", means.option());
    let backend = space.connect_with(&options, node_timeout).await;
    let registry = backend.registry.clone().unwrap();
    Seat { backend, registry }
}

fn node(id: impl Into<String>) -> NodeInfo {
    NodeInfo::new(Name::new(id.into()).unwrap(), Name::from_static("shop"))
}

fn loaded(node: &NodeInfo, percent: u8) -> NodeInfo {
    let mut node = node.clone();
    node.load = Load::percent(percent);
    node
}

#[track_caller]
fn kind(result: Result<(), Error>) -> ErrorKind {
    result.unwrap_err().kind()
}

async fn ids(registry: &dyn NodeRegistry) -> Vec<String> {
    let nodes = registry.nodes().await.unwrap();
    nodes.iter().map(|node| node.id.to_string()).collect()
}

async fn next(watch: &mut dyn NodeWatch) -> NodeEvent {
    let event = timeout(SOON, watch.next()).await;
    event
        .expect("nothing was told in time")
        .expect("it is there")
}

/// An event in short: `+a`, `~a`, `-a`.
fn short(event: &NodeEvent) -> String {
    match event {
        NodeEvent::Joined(node) => format!("+{}", node.id),
        NodeEvent::Updated(node) => format!("~{}", node.id),
        NodeEvent::Left(node) => format!("-{}", node.id),
        NodeEvent::Lagged => "lagged".to_owned(),
        other => panic!("{other:?}"),
    }
}

async fn told(watch: &mut dyn NodeWatch) -> String {
    short(&next(watch).await)
}

/// Listens for a while for what must not be told.
async fn nothing(watch: &mut dyn NodeWatch, listen: Duration) {
    let event = timeout(listen, watch.next()).await;
    assert!(event.is_err(), "told: {event:?}");
}

/// A node that beats by itself, and registers again when it is told to, as the runtime does. Silent when it is dropped.
struct Beating(AbortHandle);

impl Drop for Beating {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn beating(seat: &Seat, node: &NodeInfo, every: Duration) -> Beating {
    seat.register(node).await.unwrap();
    let (registry, node) = (Arc::clone(&seat.registry), node.clone());
    let task = tokio::spawn(async move {
        loop {
            sleep(every).await;
            if let Err(error) = registry.heartbeat(&node).await
                && error.kind() == ErrorKind::NotFound
            {
                let _ = registry.register(&node).await;
            }
        }
    });
    Beating(task.abort_handle())
}

/// Follows a watch, and keeps who is there.
struct Following {
    watch: Box<dyn NodeWatch>,
    there: BTreeMap<String, Incarnation>,
    log: Vec<String>,
}

impl Following {
    async fn of(registry: &dyn NodeRegistry) -> Self {
        Self {
            watch: registry.watch().await.unwrap(),
            there: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    fn note(&mut self, event: NodeEvent) {
        self.log.push(short(&event));
        match event {
            NodeEvent::Joined(node) | NodeEvent::Updated(node) => {
                self.there.insert(node.id.to_string(), node.incarnation);
            }
            NodeEvent::Left(node) => {
                let gone = self.there.remove(node.id.as_str());
                assert_eq!(gone, Some(node.incarnation), "{:?}", self.log);
            }
            _ => self.there.clear(),
        }
    }

    /// Follows for this long.
    async fn for_long(&mut self, long: Duration) {
        let by = Instant::now() + long;
        while let Ok(event) = tokio::time::timeout_at(by, self.watch.next()).await {
            self.note(event.expect("it is there"));
        }
    }

    /// Follows until these are there.
    async fn until(&mut self, ids: &[&str]) {
        let by = Instant::now() + SOON;
        while self.there.keys().ne(ids.iter()) {
            let event = tokio::time::timeout_at(by, self.watch.next()).await;
            let event = event.unwrap_or_else(|_| panic!("not {ids:?} but {:?}", self.log));
            self.note(event.expect("it is there"));
        }
    }
}
