//! Where the registry is asked: scripts, on a connection of the registry's own.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use catga_core::{Error, ErrorKind, Load, NodeInfo, Retry};
use redis::{Cmd, Value};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::entry::{self, Entry, Rubbish, Snapshot};
use super::observer::Observers;
use crate::link::Link;
use crate::script::{self, Script};
use crate::server::Server;
use crate::time::millis;
use crate::{durability, error, names, value};

/// How long the key of a node is kept at least, with `discovery=keys`. The node is given up long before.
const EXPIRY: Duration = Duration::from_secs(120);
/// The wait before what failed with its connection is tried again.
const AGAIN: Duration = Duration::from_millis(50);

/// What became of what a node said.
#[derive(Debug)]
pub(super) enum Said {
    Heard,
    /// The node was given up.
    Unknown,
    /// Another incarnation is live, for so long without another word of it.
    Other(Duration),
    /// What is none, with this for an incarnation, is where the node should be.
    Rubbish(String),
}

/// The connection is made at the first question.
#[derive(Debug)]
pub(super) struct Desk {
    server: Server,
    /// The task that keeps the connection.
    keeper: ArcSwapOption<JoinHandle<()>>,
    index: String,
    meta: String,
    rubbish: Rubbish,
    observers: Observers,
}

impl Desk {
    pub(super) fn new(of: &Server) -> Self {
        let index = of.names.nodes();
        Self {
            server: Server {
                settings: Arc::clone(&of.settings),
                names: of.names.clone(),
                factory: of.factory.clone(),
                link: Arc::new(Link::idle()),
                closed: of.closed.clone(),
                pending: Arc::clone(&of.pending),
            },
            keeper: ArcSwapOption::empty(),
            meta: names::nodes_meta(&index),
            index,
            rubbish: Rubbish::default(),
            observers: Observers::default(),
        }
    }

    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    pub(super) fn index(&self) -> &str {
        &self.index
    }

    pub(super) fn rubbish(&self) -> &Rubbish {
        &self.rubbish
    }

    pub(super) fn observers(&self) -> &Observers {
        &self.observers
    }

    pub(super) fn node_timeout(&self) -> Duration {
        self.server.settings.node_timeout
    }

    /// Sees to it that the connection is kept: by this runtime, when nobody does yet, or the runtime that did is gone.
    fn wake(&self) {
        let before = self.keeper.load();
        if before.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let link = &self.server.link;
        let task = tokio::spawn(Arc::clone(link).keep(
            self.server.factory.clone(),
            self.server.settings.call_timeout,
            self.server.closed.clone(),
        ));
        let task = Arc::new(task);
        let found = self
            .keeper
            .compare_and_swap(&before, Some(Arc::clone(&task)));
        let same = |one: &Option<Arc<_>>, two: &Option<Arc<_>>| match (one, two) {
            (Some(one), Some(two)) => Arc::ptr_eq(one, two),
            (one, two) => one.is_none() && two.is_none(),
        };
        if !same(&before, &found) {
            // Somebody else did it meanwhile.
            task.abort();
        } else if before.is_some() {
            // Nobody drives the connection of a runtime that is gone.
            link.forget();
        }
    }

    /// Begins the call of a script.
    pub(super) fn call(&self, script: &Script, node: Option<&NodeInfo>) -> Cmd {
        let mut call = script.call(2 + usize::from(node.is_some()));
        call.arg(&self.index).arg(&self.meta);
        if let Some(node) = node {
            call.arg(names::node(&self.index, &node.id));
        }
        // Another each time: a registry that was lost and is made again is not the one before.
        let epoch = format!("{:016x}", fastrand::u64(..));
        call.arg(self.server.settings.discovery.as_str()).arg(epoch);
        call
    }

    /// Says what a node says of itself. Where `instead` is, what has that incarnation and is no node is replaced.
    pub(super) async fn say(
        &self,
        script: &'static Script,
        operation: &'static str,
        node: &NodeInfo,
        instead: Option<&str>,
    ) -> Result<Said, Error> {
        let says = entry::encode(operation, node)?;
        let timeout = self.node_timeout();
        let mut call = self.call(script, Some(node));
        call.arg(node.id.as_str())
            .arg(node.incarnation.as_uuid().to_string())
            .arg(says)
            .arg(node.load.as_percent())
            .arg(millis(timeout))
            .arg(millis(EXPIRY.max(timeout.saturating_mul(2))).div_ceil(1000))
            .arg(Load::STEP)
            .arg(entry::MAX_BYTES)
            .arg(instead.unwrap_or_default());
        let told = value::list(self.run(script, operation, &call).await?);
        let text = |at: usize| told.get(at).and_then(value::text);
        match told.first().and_then(value::int) {
            Some(1) => Ok(Said::Heard),
            Some(0) => Ok(Said::Unknown),
            Some(2) => {
                let incarnation = text(1).unwrap_or_default().to_owned();
                let other = Entry {
                    id: node.id.as_str(),
                    incarnation: &incarnation,
                    started: 0,
                    seen: 0,
                    load: 0,
                    node: text(2).unwrap_or_default().as_bytes(),
                };
                match other.decode() {
                    Ok(_) => {
                        let left = told.get(3).map_or(0, value::count);
                        Ok(Said::Other(Duration::from_millis(left)))
                    }
                    Err(problem) => {
                        self.rubbish.note(node.id.as_str(), problem);
                        Ok(Said::Rubbish(incarnation))
                    }
                }
            }
            _ => Err(error::unreadable(operation, "the answer")),
        }
    }

    /// All nodes, with the revision that they are of.
    pub(super) async fn list(&self, operation: &'static str) -> Result<Snapshot, Error> {
        let mut call = self.call(&script::NODE_LIST, None);
        call.arg(entry::MAX_BYTES);
        let told = self.run(&script::NODE_LIST, operation, &call).await?;
        Snapshot::read(told, &self.rubbish)
            .ok_or_else(|| error::unreadable(operation, "the registry of nodes"))
    }

    /// Takes out who is silent, and says which revision the registry is of.
    pub(super) async fn sweep(&self, fresh: Duration) -> Result<(String, u64), Error> {
        let mut call = self.call(&script::NODE_SWEEP, None);
        call.arg(millis(self.node_timeout())).arg(millis(fresh));
        let told = self.run(&script::NODE_SWEEP, "sweep", &call).await?;
        let told = value::list(told);
        let [epoch, revision] = &told[..] else {
            return Err(error::unreadable("sweep", "the answer"));
        };
        let epoch = value::text(epoch).unwrap_or_default().to_owned();
        Ok((epoch, value::count(revision)))
    }

    /// Whether the server is set to tell when a key is gone, as far as we may know. On a cluster only the server of the
    /// key tells of it.
    pub(super) async fn tells_of_keys(&self) -> bool {
        if self.server.is_cluster() {
            return false;
        }
        self.wake();
        let set = durability::setting(&self.server, "notify-keyspace-events").await;
        let set = set.ok().and_then(|mut set| set.pop()).unwrap_or_default();
        set.contains('K') && set.contains(['A', 'x', 'g', 'e'])
    }

    /// Runs a script, and again when its connection was lost: done twice is as done once.
    pub(super) async fn run(
        &self,
        script: &'static Script,
        operation: &'static str,
        call: &Cmd,
    ) -> Result<Value, Error> {
        let server = &self.server;
        server.check_open(operation)?;
        self.wake();
        let by = server.call_deadline();
        loop {
            let told = server
                .try_run(operation, &self.index, script, call, by)
                .await;
            let told = told.and_then(|answer| {
                answer.map_err(|error| error::of(operation, &self.index, &error))
            });
            match told {
                Err(error) if is_passing(&error) && Instant::now() + AGAIN < by => {
                    sleep(AGAIN).await;
                }
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    return Err(self.other_kind(operation, error));
                }
                told => return told,
            }
        }
    }

    fn other_kind(&self, operation: &'static str, error: Error) -> Error {
        Error::new(
            ErrorKind::Conflict,
            operation,
            format!(
                "`{}` is not what `discovery={}` makes of it: all nodes of a namespace must have the same `discovery`",
                self.index,
                self.server.settings.discovery.as_str()
            ),
        )
        .with_source(error)
    }
}

/// Whether it is to be tried again soon, by another connection or this one.
fn is_passing(error: &Error) -> bool {
    error.retry() == Retry::Reconnect
        || matches!(
            error.context("code"),
            Some("LOADING" | "CLUSTERDOWN" | "TRYAGAIN")
        )
}
