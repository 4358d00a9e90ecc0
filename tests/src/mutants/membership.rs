//! Bugs in who is there.

use std::sync::Arc;

use catga::Error;
use catga_core::{NodeEvent, NodeInfo, NodeRegistry, NodeWatch, async_trait};

use super::Mutant;

/// A node registry with a bug.
#[derive(Debug)]
pub(super) struct MutatedRegistry {
    pub(super) mutant: Mutant,
    pub(super) registry: Arc<dyn NodeRegistry>,
}

#[async_trait]
impl NodeRegistry for MutatedRegistry {
    fn is_networked(&self) -> bool {
        self.registry.is_networked()
    }

    async fn register(&self, node: &NodeInfo) -> Result<(), Error> {
        self.registry.register(node).await
    }

    async fn heartbeat(&self, node: &NodeInfo) -> Result<(), Error> {
        self.registry.heartbeat(node).await
    }

    async fn unregister(&self, node: &NodeInfo) -> Result<(), Error> {
        match self.mutant {
            Mutant::NeverUnregisters => Ok(()),
            _ => self.registry.unregister(node).await,
        }
    }

    async fn nodes(&self) -> Result<Vec<NodeInfo>, Error> {
        match self.mutant {
            Mutant::ForgetsWhoWasThere => Ok(Vec::new()),
            _ => self.registry.nodes().await,
        }
    }

    async fn watch(&self) -> Result<Box<dyn NodeWatch>, Error> {
        let watch = self.registry.watch().await?;
        let snapshot = match self.mutant {
            Mutant::ForgetsWhoWasThere => self.registry.nodes().await?.len(),
            _ => 0,
        };
        Ok(Box::new(MutatedWatch {
            mutant: self.mutant,
            watch,
            skip: snapshot,
        }))
    }
}

/// A watch with a bug.
#[derive(Debug)]
struct MutatedWatch {
    mutant: Mutant,
    watch: Box<dyn NodeWatch>,
    /// Events of the snapshot that nobody gets to see.
    skip: usize,
}

#[async_trait]
impl NodeWatch for MutatedWatch {
    async fn next(&mut self) -> Option<NodeEvent> {
        while self.skip > 0 {
            self.skip -= 1;
            self.watch.next().await?;
        }
        let event = self.watch.next().await?;
        if self.mutant == Mutant::HidesLag && event == NodeEvent::Lagged {
            return self.watch.next().await;
        }
        Some(event)
    }
}
