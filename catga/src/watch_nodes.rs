//! Who comes and goes, told to the application.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Weak};

use catga_core::NodeEvent;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::app::Inner;
use crate::members::Change;

/// A watch on the nodes: from [`Catga::watch_nodes`](crate::Catga::watch_nodes).
pub struct NodeChanges {
    inner: Weak<Inner>,
    changes: broadcast::Receiver<Change>,
    /// Events that come before those in the channel: a snapshot.
    ready: VecDeque<NodeEvent>,
    /// The view that the snapshot was taken of.
    version: u64,
}

impl NodeChanges {
    pub(crate) fn of(inner: &Arc<Inner>) -> Self {
        // First, so that nothing is missed between; what is in both is left out by its version.
        let changes = inner.members.watch();
        let mut this = Self {
            inner: Arc::downgrade(inner),
            changes,
            ready: VecDeque::new(),
            version: 0,
        };
        this.begin(inner);
        this
    }

    fn begin(&mut self, inner: &Inner) {
        let view = inner.members.view();
        let live = view.nodes.live.values();
        self.ready
            .extend(live.map(|member| NodeEvent::Joined(member.info.clone())));
        self.version = view.version;
    }

    /// The next change: at first each node that is there, this one included, as `Joined`; then who joined, changed (its load by
    /// [`Load::STEP`](crate::Load::STEP) or more), or left. `Left` also tells of a node that was silent for longer than the node timeout.
    ///
    /// 256 changes wait for a watcher; one that is slower than that is told [`Lagged`](NodeEvent::Lagged), and gets a new
    /// snapshot: who is not in it has left.
    ///
    /// `None` when the application has shut down.
    ///
    /// # Cancel safety
    /// Dropping the future loses no event.
    pub async fn next(&mut self) -> Option<NodeEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let ended = self.inner.upgrade()?.lifecycle.end();
            let received = tokio::select! {
                biased;
                received = self.changes.recv() => received,
                () = ended => return None,
            };
            match received {
                Ok((version, event)) if version > self.version => return Some(event),
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => {
                    let inner = self.inner.upgrade()?;
                    // What waits is in the snapshot.
                    self.changes = inner.members.watch();
                    self.begin(&inner);
                    return Some(NodeEvent::Lagged);
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

impl fmt::Debug for NodeChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeChanges")
            .field("ready", &self.ready.len())
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
