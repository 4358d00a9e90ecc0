//! Who was there and is not any more: the registry lists the living.

use std::sync::Arc;
use std::time::Duration;

use catga::prelude::Catga;
use catga::{NodeEvent, NodeInfo};
use tokio::sync::watch;
use tokio::time::Instant;

/// So long a node that went is shown as offline, and so many of them.
const SHOWN: Duration = Duration::from_secs(600);
const MOST: usize = 100;

/// The nodes that went.
#[derive(Clone, Debug)]
pub(crate) struct Roster(watch::Receiver<Arc<[Gone]>>);

#[derive(Clone, Debug)]
struct Gone {
    node: NodeInfo,
    at: Instant,
}

impl Roster {
    /// Follows an application until it ends.
    pub(crate) fn of(catga: &Catga) -> Self {
        let mut changes = catga.watch_nodes();
        let (tell, told) = watch::channel(Arc::default());
        tokio::spawn(async move {
            let mut gone: Vec<Gone> = Vec::new();
            while let Some(event) = changes.next().await {
                match event {
                    NodeEvent::Joined(node) => gone.retain(|gone| gone.node.id != node.id),
                    NodeEvent::Left(node) => {
                        let at = Instant::now();
                        gone.retain(|gone| gone.node.id != node.id && gone.at.elapsed() < SHOWN);
                        gone.truncate(MOST - 1);
                        gone.insert(0, Gone { node, at });
                    }
                    _ => continue,
                }
                tell.send_replace(gone.clone().into());
            }
        });
        Self(told)
    }

    /// Those who went lately.
    pub(crate) fn gone(&self) -> Vec<NodeInfo> {
        let gone = self.0.borrow();
        let lately = gone.iter().filter(|gone| gone.at.elapsed() < SHOWN);
        lately.map(|gone| gone.node.clone()).collect()
    }
}
