//! The nodes of a bus, as a connection sees them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use catga_core::{Error, NodeEvent, NodeInfo, NodeRegistry, NodeWatch, async_trait};
use tokio::select;
use tokio::sync::{mpsc, oneshot};

use crate::bus::Connection;
use crate::closed::Closed;
use crate::error;
use crate::members::{Command, Watch};

/// The registry of a bus.
#[derive(Debug)]
pub(crate) struct MemoryRegistry {
    connection: Arc<Connection>,
    node_timeout: Duration,
}

impl MemoryRegistry {
    pub(crate) fn new(connection: Arc<Connection>, node_timeout: Duration) -> Self {
        Self {
            connection,
            node_timeout,
        }
    }

    async fn ask<T>(
        &self,
        operation: &'static str,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Error> {
        self.connection.check_open(operation)?;
        let (reply, answer) = oneshot::channel();
        let sent = self.connection.bus.members.send(command(reply)).await;
        sent.map_err(|_| error::gone(operation))?;
        answer.await.map_err(|_| error::gone(operation))
    }
}

#[async_trait]
impl NodeRegistry for MemoryRegistry {
    async fn register(&self, node: &NodeInfo) -> Result<(), Error> {
        let (node, timeout) = (node.clone(), self.node_timeout);
        self.ask("register", |reply| Command::Register {
            node,
            timeout,
            reply,
        })
        .await?
    }

    async fn heartbeat(&self, node: &NodeInfo) -> Result<(), Error> {
        let node = node.clone();
        self.ask("heartbeat", |reply| Command::Heartbeat { node, reply })
            .await?
    }

    async fn unregister(&self, node: &NodeInfo) -> Result<(), Error> {
        let node = node.clone();
        self.ask("unregister", |reply| Command::Unregister { node, reply })
            .await?
    }

    async fn nodes(&self) -> Result<Vec<NodeInfo>, Error> {
        self.ask("nodes", |reply| Command::Nodes { reply }).await
    }

    async fn watch(&self) -> Result<Box<dyn NodeWatch>, Error> {
        let watch = self.ask("watch", |reply| Command::Watch { reply }).await?;
        let mut this = MemoryWatch {
            members: self.connection.bus.members.downgrade(),
            closed: self.connection.closed.clone(),
            ready: VecDeque::new(),
            events: None,
            fresh: None,
        };
        this.begin(watch);
        Ok(Box::new(this))
    }
}

/// A watch. It does not keep the bus alive.
#[derive(Debug)]
struct MemoryWatch {
    members: mpsc::WeakSender<Command>,
    closed: Closed,
    /// Events that come before those in the channel: a snapshot.
    ready: VecDeque<NodeEvent>,
    /// The channel; none while a fresh one is asked for.
    events: Option<mpsc::Receiver<NodeEvent>>,
    /// The answer to that question. Kept here, so that a dropped `next` goes on where it was.
    fresh: Option<oneshot::Receiver<Watch>>,
}

impl MemoryWatch {
    fn begin(&mut self, (snapshot, events): Watch) {
        self.ready
            .extend(snapshot.into_iter().map(NodeEvent::Joined));
        self.events = Some(events);
    }

    /// The next event; `None` when the registry is gone.
    async fn event(&mut self) -> Option<NodeEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if let Some(events) = &mut self.events {
                if let Some(event) = events.recv().await {
                    return Some(event);
                }
                self.events = None;
            }
            // The channel ended: this watch was too slow, or the registry is gone.
            if self.fresh.is_none() {
                let members = self.members.upgrade()?;
                let permit = members.reserve().await.ok()?;
                let (reply, answer) = oneshot::channel();
                permit.send(Command::Watch { reply });
                self.fresh = Some(answer);
            }
            let answer = self.fresh.as_mut()?.await;
            self.fresh = None;
            let watch = answer.ok()?;
            self.ready.push_back(NodeEvent::Lagged);
            self.begin(watch);
        }
    }
}

#[async_trait]
impl NodeWatch for MemoryWatch {
    async fn next(&mut self) -> Option<NodeEvent> {
        let closed = self.closed.clone();
        select! {
            biased;
            () = closed.raised() => None,
            event = self.event() => event,
        }
    }
}
