//! Nodes that say of themselves that they live, where nobody keeps it: who comes late asks, and who is silent is gone.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use catga_core::{Error, NodeInfo};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;

use super::desk::{Order, Verb};
use super::host::Host;
use super::roster::{Position, Question, Wanted, Watched};
use super::watch::Asking;
use crate::connection::Connection;
use crate::error;

/// How many calls wait before their callers do.
const QUEUE: usize = 64;

/// The task that speaks for the nodes of this process, and hears the others.
#[derive(Debug)]
pub(crate) struct PubSub {
    connection: Arc<Connection>,
    orders: mpsc::Sender<Order>,
    questions: mpsc::Sender<Question>,
}

impl PubSub {
    /// Listens, asks who is there, and waits a moment for the answers.
    pub(crate) async fn start(
        connection: &Arc<Connection>,
        timeout: Duration,
        ignored: Arc<AtomicU64>,
    ) -> Result<Self, Error> {
        let mut host = Host::listen(Arc::clone(connection), timeout, ignored).await?;
        host.ask_around().await?;
        let (questions, asked) = mpsc::channel(QUEUE);
        let (orders, ordered) = mpsc::channel(QUEUE);
        tokio::spawn(host.run(ordered, asked));
        Ok(Self {
            connection: Arc::clone(connection),
            orders,
            questions,
        })
    }

    pub(crate) async fn register(&self, node: &NodeInfo) -> Result<(), Error> {
        self.order(Verb::Register, node).await
    }

    pub(crate) async fn heartbeat(&self, node: &NodeInfo) -> Result<(), Error> {
        self.order(Verb::Heartbeat, node).await
    }

    pub(crate) async fn unregister(&self, node: &NodeInfo) -> Result<(), Error> {
        self.order(Verb::Unregister, node).await
    }

    async fn order(&self, verb: Verb, node: &NodeInfo) -> Result<(), Error> {
        let (operation, node) = (verb.as_str(), node.clone());
        self.catch_up(operation).await?;
        let (reply, answer) = oneshot::channel();
        let order = Order { verb, node, reply };
        let sent = self.orders.send(order).await;
        sent.map_err(|_| error::closed(operation))?;
        answer.await.map_err(|_| error::closed(operation))??;
        // Said, when the server has heard it.
        self.catch_up(operation).await
    }

    pub(crate) async fn nodes(&self) -> Result<Vec<NodeInfo>, Error> {
        self.ask("nodes", Wanted::Nodes).await
    }

    pub(crate) async fn watch(&self) -> Result<Watched, Error> {
        self.ask("watch", Wanted::Watch).await
    }

    async fn ask<T>(
        &self,
        operation: &'static str,
        wanted: impl FnOnce(oneshot::Sender<T>) -> Wanted,
    ) -> Result<T, Error> {
        self.catch_up(operation).await?;
        let (reply, answer) = oneshot::channel();
        let question = Question {
            after: Some(Position::default()),
            wanted: wanted(reply),
        };
        let answered = async {
            let sent = self.questions.send(question).await;
            sent.map_err(|_| error::closed(operation))?;
            answer.await.map_err(|_| error::closed(operation))
        };
        match timeout_at(self.connection.call_deadline(), answered).await {
            Ok(answered) => answered,
            Err(_) => Err(error::slow_registry(operation)),
        }
    }

    /// Comes back when what others had said to the server is here: the answer comes behind it, by the same connection.
    async fn catch_up(&self, operation: &'static str) -> Result<(), Error> {
        let by = self.connection.call_deadline();
        self.connection.connected(operation, by).await?;
        self.connection.round_trip(operation).await
    }

    /// For who asks later, without keeping the registry.
    pub(crate) fn asking(&self) -> Asking {
        self.questions.downgrade()
    }
}
