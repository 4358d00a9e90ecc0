//! Who comes and goes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use catga::prelude::Catga;
use catga::{HealthStatus, NodeEvent, NodeId, NodeInfo};

const EVERY: Duration = Duration::from_millis(100);

/// Changes of the nodes, beginning with everybody who is there.
pub(crate) struct Changes {
    catga: Catga,
    known: BTreeMap<NodeId, NodeInfo>,
    ready: VecDeque<NodeEvent>,
}

impl Changes {
    pub(crate) fn of(catga: &Catga) -> Self {
        Self {
            catga: catga.clone(),
            known: BTreeMap::new(),
            ready: VecDeque::new(),
        }
    }

    /// The next change; `None` when the application has shut down.
    pub(crate) async fn next(&mut self) -> Option<NodeEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            self.look();
            if self.ready.is_empty() {
                tokio::time::sleep(EVERY).await;
                if self.catga.health().status == HealthStatus::Down {
                    return None;
                }
            }
        }
    }

    fn look(&mut self) {
        let nodes = self.catga.nodes().into_iter();
        let now: BTreeMap<_, _> = nodes.map(|node| (node.id.clone(), node)).collect();
        for (id, before) in &self.known {
            if now
                .get(id)
                .is_none_or(|now| now.incarnation != before.incarnation)
            {
                self.ready.push_back(NodeEvent::Left(before.clone()));
            }
        }
        for (id, node) in &now {
            match self.known.get(id) {
                Some(before) if before.incarnation == node.incarnation => {
                    if before.load != node.load || before.draining != node.draining {
                        self.ready.push_back(NodeEvent::Updated(node.clone()));
                    }
                }
                _ => self.ready.push_back(NodeEvent::Joined(node.clone())),
            }
        }
        self.known = now;
    }
}
