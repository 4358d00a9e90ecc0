//! The nodes of a namespace: a record for each, changed by scripts that look whose it is, judged by the server's clock.
//!
//! It has connections of its own, made by the runtime that asks it first: a thread that does nothing but keep the
//! membership is not held up by what else the process does.

mod desk;
mod entry;
mod observer;
mod view;
mod watch;

use std::fmt;
use std::sync::Arc;

use catga_core::{Error, ErrorKind, NodeInfo, NodeRegistry, NodeWatch, async_trait};

use crate::connection::Connection;
use crate::{script, value};

use desk::{Desk, Said};
use watch::RedisWatch;

/// The registry of a namespace.
pub(crate) struct RedisRegistry {
    /// Open as long as somebody has the registry.
    _connection: Arc<Connection>,
    desk: Arc<Desk>,
}

impl RedisRegistry {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self {
            desk: Arc::new(Desk::new(&connection.server)),
            _connection: connection,
        }
    }
}

impl fmt::Debug for RedisRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisRegistry")
            .field("nodes", &self.desk.index())
            .field("kind", &self.desk.server().settings.discovery)
            .field("left_out", &self.desk.rubbish().count())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl NodeRegistry for RedisRegistry {
    fn is_networked(&self) -> bool {
        true
    }

    async fn register(&self, node: &NodeInfo) -> Result<(), Error> {
        let say = async |instead: Option<&str>| {
            let desk = &self.desk;
            desk.say(&script::NODE_REGISTER, "register", node, instead)
                .await
        };
        let said = match say(None).await? {
            // The place of a node is its own, whatever was written there.
            Said::Rubbish(incarnation) => say(Some(&incarnation)).await?,
            said => said,
        };
        match said {
            Said::Heard => Ok(()),
            said => Err(duplicate(node, &said)),
        }
    }

    async fn heartbeat(&self, node: &NodeInfo) -> Result<(), Error> {
        let said = self
            .desk
            .say(&script::NODE_HEARTBEAT, "heartbeat", node, None);
        match said.await? {
            Said::Heard => Ok(()),
            Said::Unknown | Said::Rubbish(_) => Err(Error::new(
                ErrorKind::NotFound,
                "heartbeat",
                format!(
                    "the node `{}` was silent for too long and given up, or the registry was lost: register it again",
                    node.id
                ),
            )),
            Said::Other(_) => Err(lost(node, "heartbeat")),
        }
    }

    async fn unregister(&self, node: &NodeInfo) -> Result<(), Error> {
        let mut call = self.desk.call(&script::NODE_UNREGISTER, Some(node));
        call.arg(node.id.as_str())
            .arg(node.incarnation.as_uuid().to_string());
        let run = self.desk.run(&script::NODE_UNREGISTER, "unregister", &call);
        match value::int(&run.await?) {
            Some(2) => Err(lost(node, "unregister")),
            // One that was given up before is out already.
            _ => Ok(()),
        }
    }

    async fn nodes(&self) -> Result<Vec<NodeInfo>, Error> {
        let snapshot = self.desk.list("nodes").await?;
        let live = snapshot.nodes.into_iter().filter(|(_, live)| *live);
        let mut nodes = live.map(|(node, _)| node).collect();
        self.desk.observers().add_kept(&mut nodes);
        Ok(nodes)
    }

    async fn watch(&self) -> Result<Box<dyn NodeWatch>, Error> {
        Ok(Box::new(RedisWatch::begin(Arc::clone(&self.desk)).await?))
    }

    fn ignored(&self) -> u64 {
        self.desk.rubbish().count()
    }
}

/// Another live node has the id.
fn duplicate(node: &NodeInfo, said: &Said) -> Error {
    let free = match said {
        Said::Other(left) => {
            format!("; where it is this node before it crashed, its id is free in {left:.1?}")
        }
        // Something of somebody else's was put there in between.
        _ => String::new(),
    };
    Error::new(
        ErrorKind::DuplicateNode,
        "register",
        format!(
            "another live node has the id `{}`: give each node its own{free}",
            node.id
        ),
    )
}

/// Another incarnation has the id.
fn lost(node: &NodeInfo, operation: &'static str) -> Error {
    Error::new(
        ErrorKind::LostOwnership,
        operation,
        format!(
            "another incarnation of the node `{}` is registered: this one was given up, and is not to come back",
            node.id
        ),
    )
}
