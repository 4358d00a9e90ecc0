//! Nodes in a key-value bucket: a key for each, written by revision, its liveness by the server's clock.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use catga_core::{Error, NodeId, NodeInfo};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout_at;

use super::clock::ServerClock;
use super::desk::{Desk, Means, Order, OwnNodes, Verb};
use super::feed::made_at;
use super::reports::Reports;
use super::roster::{Position, Question, Roster, Wanted, Watched};
use super::rubbish::Rubbish;
use super::trouble::Trouble;
use super::view::View;
use super::watch::Asking;
use crate::bucket::Bucket;
use crate::connection::Connection;
use crate::error;

/// How many values of a node are kept.
const HISTORY: i64 = 10;
/// How long what is not written again is kept: far longer than a node may be silent, which is judged here.
const MAX_AGE: Duration = Duration::from_secs(5 * 60);
/// The most bytes of all nodes.
const MAX_BYTES: i64 = 10 * 1024 * 1024;
/// The server takes nothing shorter.
const LEAST_PULSE: Duration = Duration::from_millis(100);
/// How many calls wait before their callers do.
const QUEUE: usize = 64;

/// The bucket, the task that follows it, and those that write it.
#[derive(Debug)]
pub(crate) struct Kv {
    connection: Arc<Connection>,
    bucket: Arc<Bucket>,
    means: Means,
    /// Who writes which node: as many as this process ever registered.
    desks: papaya::HashMap<NodeId, mpsc::Sender<Order>>,
    questions: mpsc::Sender<Question>,
    trouble: Arc<Trouble>,
}

impl Kv {
    pub(crate) fn start(
        connection: &Arc<Connection>,
        timeout: Duration,
        ignored: Arc<AtomicU64>,
    ) -> Self {
        let max_age = MAX_AGE.max(timeout.saturating_mul(2));
        let bucket = Bucket::new(connection.names.nodes_bucket(), max_age);
        let bucket = Arc::new(bucket.with_limits(HISTORY, MAX_BYTES));
        let (clock, moved) = (Arc::<ServerClock>::default(), Arc::<Notify>::default());
        let (trouble, own) = (Arc::<Trouble>::default(), Arc::<OwnNodes>::default());
        let pulse = Roster::pulse(timeout)
            .min(connection.settings.pull_heartbeat)
            .max(LEAST_PULSE);
        let view = View {
            connection: Arc::clone(connection),
            bucket: Arc::clone(&bucket),
            clock: Arc::clone(&clock),
            moved: Arc::clone(&moved),
            trouble: Arc::clone(&trouble),
            roster: Roster::new(timeout),
            timeout,
            rubbish: Rubbish::new(ignored),
            pulse,
            signs: pulse.min(Reports::every(timeout)).max(LEAST_PULSE),
            sequence: 0,
            waiting: Vec::new(),
            own: Arc::clone(&own),
            made: String::new(),
            is_current: false,
            reports: Reports::new(timeout),
            reported: None,
        };
        let means = Means {
            connection: Arc::clone(connection),
            bucket: Arc::clone(&bucket),
            clock,
            moved,
            trouble: Arc::clone(&trouble),
            timeout,
            may_listen: Arc::default(),
            own,
        };
        let (questions, asked) = mpsc::channel(QUEUE);
        tokio::spawn(view.run(asked));
        Self {
            connection: Arc::clone(connection),
            bucket,
            means,
            desks: papaya::HashMap::new(),
            questions,
            trouble,
        }
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
        let (operation, node, id) = (verb.as_str(), node.clone(), node.id.clone());
        let (reply, answer) = oneshot::channel();
        let order = Order { verb, node, reply };
        let desk = || {
            let (orders, ordered) = mpsc::channel(QUEUE);
            tokio::spawn(Desk::new(self.means.clone()).run(ordered));
            orders
        };
        let desk = self.desks.pin().get_or_insert_with(id, desk).clone();
        let sent = desk.send(order).await;
        sent.map_err(|_| error::closed(operation))?;
        answer.await.map_err(|_| error::closed(operation))?
    }

    pub(crate) async fn nodes(&self) -> Result<Vec<NodeInfo>, Error> {
        self.ask("nodes", Wanted::Nodes).await
    }

    pub(crate) async fn watch(&self) -> Result<Watched, Error> {
        self.ask("watch", Wanted::Watch).await
    }

    /// Asks who is there: all that was written before is in the answer.
    async fn ask<T>(
        &self,
        operation: &'static str,
        wanted: impl FnOnce(oneshot::Sender<T>) -> Wanted,
    ) -> Result<T, Error> {
        let looked = self.bucket.look(&self.connection, operation).await;
        let info = looked.map_err(error::of_bucket)?;
        let (reply, answer) = oneshot::channel();
        let question = Question {
            after: Some(Position {
                made: made_at(&info),
                sequence: info.state.last_sequence,
            }),
            wanted: wanted(reply),
        };
        let answered = async {
            let sent = self.questions.send(question).await;
            sent.map_err(|_| error::closed(operation))?;
            // Without an answer there is none to be had, or the registry is gone.
            let unanswered = || self.trouble.lasting(operation);
            answer
                .await
                .map_err(|_| unanswered().unwrap_or_else(|| error::closed(operation)))
        };
        match timeout_at(self.connection.call_deadline(), answered).await {
            Ok(answered) => answered,
            Err(_) => Err(self.trouble.slow(operation)),
        }
    }

    /// For who asks later, without keeping the registry.
    pub(crate) fn asking(&self) -> Asking {
        self.questions.downgrade()
    }
}
