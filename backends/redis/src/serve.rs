//! A node's side of requests: taking them from the stream of its service and its own, and answering.

mod desk;
mod receipt;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use catga_core::{
    Delivery, Error, MessageId, Serve, StatsReader, Subscription, SubscriptionStats, async_trait,
};
use tokio::select;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout_at;

use self::desk::{Arrived, Desk};
use crate::closed::Closed;
use crate::connection::Connection;
use crate::error;
use crate::reader::{BLOCK, Blocking};

/// A node that takes the requests of one name.
#[derive(Debug)]
pub(crate) struct ServeSubscription {
    desk: Arc<Desk>,
    arrived: mpsc::UnboundedReceiver<Arrived>,
    blocking: Arc<Blocking>,
    tasks: Vec<JoinHandle<()>>,
    left: bool,
}

impl ServeSubscription {
    /// Joins the servers: when this returns, requests find this node.
    pub(crate) async fn join(connection: Arc<Connection>, serve: &Serve) -> Result<Self, Error> {
        let names = &connection.server.names;
        let streams = [
            names.request(&serve.service, &serve.request),
            names.request_to_node(&serve.node, &serve.request),
        ];
        // How many there are is bound by the places that are free when they are read.
        let (again, arrived) = mpsc::unbounded_channel();
        let desk = Arc::new(Desk {
            request: serve.request.clone(),
            streams,
            consumer: format!("c{}", MessageId::new().as_uuid().simple()),
            room: Arc::default(),
            max_in_flight: AtomicUsize::new(serve.max_in_flight.max(1)),
            waiting: AtomicUsize::new(0),
            clock: AtomicI64::new(0),
            leaving: Closed::default(),
            again,
            connection,
        });
        desk.announce("serve").await?;
        let blocking = Arc::new(Blocking::default());
        let tasks = vec![
            tokio::spawn(Arc::clone(&desk).read(Arc::clone(&blocking))),
            tokio::spawn(Arc::clone(&desk).keep_announcing()),
        ];
        Ok(Self {
            desk,
            arrived,
            blocking,
            tasks,
            left: false,
        })
    }

    /// Ends the reading; who waits here, or in a stream that nobody reads any more, is told to go elsewhere.
    fn leaving(&mut self) -> Option<impl Future<Output = ()> + Send + use<>> {
        if std::mem::replace(&mut self.left, true) {
            return None;
        }
        self.desk.leaving.raise();
        self.arrived.close();
        let mut unbegun = Vec::new();
        while let Ok(arrived) = self.arrived.try_recv() {
            unbegun.push(arrived);
        }
        let (desk, blocking) = (Arc::clone(&self.desk), Arc::clone(&self.blocking));
        let tasks = std::mem::take(&mut self.tasks);
        // A close waits for it.
        let underway = desk.connection.server.pending.begin();
        Some(async move {
            let _underway = underway;
            let server = &desk.connection.server;
            blocking.wake(server).await;
            let by = server.call_deadline() + BLOCK;
            for task in tasks {
                // One that hangs ends with its connection.
                let _ = timeout_at(by, task).await;
            }
            if server.closed.is_raised() || !server.link.is_connected() {
                return;
            }
            for arrived in unbegun {
                desk.hand_on(arrived).await;
            }
            if let Err(error) = desk.retire().await {
                tracing::debug!(request = %desk.request, %error, "a node left without a word");
            }
        })
    }
}

#[async_trait]
impl Subscription for ServeSubscription {
    async fn recv(&mut self, max: usize, into: &mut Vec<Delivery>) -> Result<(), Error> {
        let before = into.len();
        let desk = Arc::clone(&self.desk);
        let server = &desk.connection.server;
        loop {
            if self.left || server.closed.is_raised() {
                return Err(error::closed("receive"));
            }
            let has_room = desk.room.held() < desk.max_in_flight.load(Ordering::Relaxed);
            if has_room
                && into.len() - before < max.max(1)
                && let Ok(arrived) = self.arrived.try_recv()
            {
                into.extend(desk.delivery(arrived));
                desk.waiting.fetch_sub(1, Ordering::SeqCst);
                desk.room.fetch.notify_one();
                continue;
            }
            if into.len() > before {
                return Ok(());
            }
            select! {
                biased;
                () = server.closed.raised() => {}
                arrived = self.arrived.recv(), if has_room => match arrived {
                    Some(arrived) => {
                        into.extend(desk.delivery(arrived));
                        desk.waiting.fetch_sub(1, Ordering::SeqCst);
                        desk.room.fetch.notify_one();
                    }
                    None => return Err(error::closed("receive")),
                },
                () = desk.room.freed(), if !has_room => {}
            }
        }
    }

    async fn close(&mut self) -> Result<(), Error> {
        if let Some(leaving) = self.leaving() {
            // Not left half-way when nobody waits for it any more.
            let _ = tokio::spawn(leaving).await;
        }
        Ok(())
    }

    fn set_max_in_flight(&mut self, max_in_flight: usize) {
        let most = max_in_flight.max(1);
        self.desk.max_in_flight.store(most, Ordering::Relaxed);
        self.desk.room.fetch.notify_one();
    }

    fn stats_reader(&self) -> StatsReader {
        StatsReader::new(SubscriptionStats::default)
    }
}

impl Drop for ServeSubscription {
    fn drop(&mut self) {
        if let (Some(leaving), Ok(runtime)) =
            (self.leaving(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(leaving);
        }
    }
}
