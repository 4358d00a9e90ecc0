//! How a node stays a member: it registers, says that it lives, hears of the others, and leaves.
//!
//! Where the registry is behind a network all of this runs on a thread of its own, with a runtime of its own, which the registry's
//! connection is made on as well: a node whose workers are all busy still lives.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use catga_core::{Error, ErrorKind, NodeEvent, NodeInfo, NodeRegistry, NodeWatch};
use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::app::Inner;
use crate::load;
use crate::members::Told;

/// How long a registry is waited for that is told of this node's end: until then the node takes messages.
const A_WORD: Duration = Duration::from_millis(500);

/// How long it may take at least to register anew: where nobody keeps the ids, all others are listened to first.
const REGISTRATION: Duration = Duration::from_secs(5);

/// The membership of a node that has joined. Dropped, it leaves as well, and nobody waits for it.
#[derive(Debug)]
pub(crate) struct Membership {
    leave: oneshot::Sender<()>,
    left: oneshot::Receiver<()>,
}

impl Membership {
    /// Leaves the cluster: others send nothing more from here on.
    pub(crate) async fn leave(self) {
        // It may have ended by itself, with its runtime.
        let _ = self.leave.send(());
        let _ = self.left.await;
    }
}

/// Joins the cluster, and stays in it until it is to leave. Without a registry there is nothing to join.
pub(crate) async fn join(inner: &Arc<Inner>) -> Result<Option<Membership>, Error> {
    let Some(registry) = inner.backend.registry.clone() else {
        return Ok(None);
    };
    let (joining, joined) = oneshot::channel();
    let (leave, leaving) = oneshot::channel();
    let (leaves, left) = oneshot::channel();
    let apart = registry.is_networked();
    let member = Member {
        inner: Arc::clone(inner),
        registry,
        workers: Handle::current(),
    };
    let life = async move {
        member.live(joining, leaving).await;
        // The shutdown may wait for it, or be over.
        let _ = leaves.send(());
    };
    if apart {
        run_apart(life)?;
    } else {
        tokio::spawn(life);
    }
    let interrupted = || {
        Error::new(
            ErrorKind::Closed,
            "start",
            "the runtime ended before it did",
        )
    };
    joined.await.map_err(|_| interrupted())??;
    Ok(Some(Membership { leave, left }))
}

/// Runs it on a thread and a runtime of its own.
fn run_apart(life: impl Future<Output = ()> + Send + 'static) -> Result<(), Error> {
    let thread = std::thread::Builder::new().name("catga-membership".to_owned());
    let run = move || match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(life),
        Err(error) => tracing::error!(%error, "no runtime can be made that keeps the membership"),
    };
    thread.spawn(run).map(drop).map_err(|error| {
        let text = "no thread can be started that keeps the membership";
        Error::new(ErrorKind::Unavailable, "start", text).with_source(error)
    })
}

/// A node and its registry.
#[derive(Clone)]
struct Member {
    inner: Arc<Inner>,
    registry: Arc<dyn NodeRegistry>,
    /// Where the handlers run.
    workers: Handle,
}

impl Member {
    async fn live(
        self,
        joining: oneshot::Sender<Result<(), Error>>,
        leaving: oneshot::Receiver<()>,
    ) {
        let changes = match self.join().await {
            Ok(changes) => changes,
            Err(error) => {
                // It may have been registered. A double does not take out the node that has its id: the registry sees to that by
                // the incarnation.
                if let Err(error) = self.unregister(&self.inner.node).await {
                    tracing::debug!(%error, "leaving after a failed start");
                }
                let _ = joining.send(Err(error));
                return;
            }
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(self.clone().beat());
        tasks.spawn(self.clone().follow(changes));
        // Who starts it may have given up meanwhile: then nobody tells it to leave.
        let _ = joining.send(Ok(()));
        // Or nobody is there any more who could.
        let _ = leaving.await;
        tasks.shutdown().await;
        self.leave().await;
    }

    /// Registers this node and sees who is there.
    async fn join(&self) -> Result<Box<dyn NodeWatch>, Error> {
        self.registry.register(&self.inner.node).await?;
        self.watch().await
    }

    /// Begins a watch, and sees everybody who is there.
    async fn watch(&self) -> Result<Box<dyn NodeWatch>, Error> {
        let watch = self.registry.watch().await?;
        self.read().await?;
        Ok(watch)
    }

    /// Begins a watch after another ended. Others had no registry either, and come back: who is not there yet stays in the view
    /// until all have had the time to.
    async fn watch_again(&self) -> Result<Box<dyn NodeWatch>, Error> {
        let watch = self.registry.watch().await?;
        let nodes = self.registry.nodes().await?;
        let members = &self.inner.members;
        for node in nodes {
            members.hear(&Told::There(node));
        }
        members.set_forgotten(true);
        members.again.notify_one();
        Ok(watch)
    }

    async fn read(&self) -> Result<(), Error> {
        let nodes = self.registry.nodes().await?;
        self.inner.members.hear(&Told::All(nodes));
        Ok(())
    }

    /// Says again and again that this node lives.
    async fn beat(self) {
        let (members, heartbeat) = (&self.inner.members, self.inner.settings.heartbeat);
        let mut node = self.inner.node.clone();
        // Since when the registry knows this node again that it had lost.
        let mut back = None;
        loop {
            // Those that were started at one moment are not to speak at one moment for ever.
            let pause = heartbeat / 10 * 9 + fraction(heartbeat / 10);
            tokio::select! {
                biased;
                () = members.again.notified() => {}
                () = sleep(pause) => {}
            }
            node.load = load::of(&self.inner, &self.workers).await;
            let asked = self.within(heartbeat, self.registry.heartbeat(&node));
            let outcome = match asked.await {
                // Given up while it was silent, or the registry has lost it with all others, who come back now as well.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    sleep(fraction(heartbeat / 2)).await;
                    let limit = self.inner.settings.node_timeout.max(REGISTRATION);
                    self.within(limit, self.registry.register(&node)).await
                }
                outcome => outcome,
            };
            let known = outcome.is_ok();
            let kind = outcome.as_ref().err().map(Error::kind);
            members.set_unregistered(outcome.err().map(|error| {
                let trouble = format!("node {} is not registered: {}", node.id, error.message());
                tracing::warn!(trouble, "membership");
                trouble
            }));
            if members.is_forgotten()
                && let Some(ErrorKind::LostOwnership | ErrorKind::DuplicateNode) = kind
            {
                // Another has its id: that is why it was lost, and no others with it.
                members.set_forgotten(false);
                members.reread.notify_one();
            }
            if members.is_forgotten() && known {
                // After a node's time everybody who lives has come back, the last to find the registry as well.
                let since: &mut Instant = back.get_or_insert_with(Instant::now);
                if since.elapsed() >= self.inner.settings.node_timeout {
                    members.set_forgotten(false);
                    members.reread.notify_one();
                }
            } else {
                back = None;
            }
        }
    }

    /// A registry that does not answer is not waited for longer than this: for a heartbeat, until the next one.
    async fn within(
        &self,
        limit: Duration,
        asked: impl Future<Output = Result<(), Error>>,
    ) -> Result<(), Error> {
        timeout(limit, asked).await.unwrap_or_else(|_| {
            let text = format!("the registry did not answer within {limit:?}");
            Err(Error::new(ErrorKind::Timeout, "heartbeat", text))
        })
    }

    /// Hears of the others.
    async fn follow(self, mut changes: Box<dyn NodeWatch>) {
        let members = &self.inner.members;
        loop {
            loop {
                let event = tokio::select! {
                    biased;
                    () = members.reread.notified() => Some(NodeEvent::Lagged),
                    event = changes.next() => event,
                };
                let Some(event) = event else {
                    break;
                };
                if event != NodeEvent::Lagged {
                    self.hear(event);
                } else if let Err(error) = self.read().await {
                    // Who left meanwhile is not in the snapshot that follows: a fresh watch is needed.
                    tracing::warn!(%error, "the registry could not be read");
                    break;
                }
            }
            tracing::warn!("the watch on the registry ended; the last view is kept meanwhile");
            members.set_unwatched(true);
            changes = loop {
                let heartbeat = self.inner.settings.heartbeat;
                sleep(heartbeat / 2 + fraction(heartbeat / 2)).await;
                if let Ok(Ok(changes)) = timeout(heartbeat, self.watch_again()).await {
                    break changes;
                }
            };
            members.set_unwatched(false);
        }
    }

    fn hear(&self, event: NodeEvent) {
        let members = &self.inner.members;
        let told = match event {
            NodeEvent::Joined(node) | NodeEvent::Updated(node) => {
                tracing::debug!(node = %node.id, service = %node.service, "node is there");
                Told::There(node)
            }
            NodeEvent::Left(node) if members.is_own(&node) => {
                // It lives, and did not leave: whatever became of its entry became of those of others as well.
                tracing::warn!("the registry has lost this node; the last view is kept meanwhile");
                members.set_forgotten(true);
                members.again.notify_one();
                Told::Forgotten(self.inner.settings.heartbeat)
            }
            NodeEvent::Left(node) if members.is_forgotten() && !node.draining => {
                tracing::debug!(node = %node.id, "not heard: the registry has lost its nodes");
                return;
            }
            NodeEvent::Left(node) => {
                tracing::info!(node = %node.id, service = %node.service, "node left");
                Told::Left(node)
            }
            _ => return,
        };
        members.hear(&told);
    }

    /// Says that it drains, so that nobody takes it for dead, and goes.
    async fn leave(&self) {
        let mut node = self.inner.node.clone();
        node.draining = true;
        let told = timeout(A_WORD, self.registry.heartbeat(&node)).await;
        if !matches!(told, Ok(Ok(()))) {
            tracing::debug!(?told, "nobody was told that this node drains");
        }
        if let Err(error) = self.unregister(&node).await {
            tracing::warn!(%error, "could not leave the registry; others will see the time-out");
        }
    }

    async fn unregister(&self, node: &NodeInfo) -> Result<(), Error> {
        let left = timeout(A_WORD, self.registry.unregister(node)).await;
        left.unwrap_or_else(|_| {
            let text = "the registry did not answer in time";
            Err(Error::new(ErrorKind::Timeout, "unregister", text))
        })
    }
}

/// Any part of a time.
fn fraction(of: Duration) -> Duration {
    let most = u64::try_from(of.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(fastrand::u64(..=most))
}
