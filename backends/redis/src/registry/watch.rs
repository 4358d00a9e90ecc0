//! A watch on the nodes, as one watcher has it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use catga_core::{Error, ErrorKind, NodeEvent, NodeInfo, NodeWatch, async_trait};
use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout_at};

use super::desk::Desk;
use super::observer;
use crate::error;

/// How many events wait for a watcher before it counts as lagging.
pub(super) const BUFFER: usize = 256;
/// The wait before a new watch is asked for again.
const AGAIN: Duration = Duration::from_millis(50);

/// The nodes now, and the changes from now on.
pub(super) type Begun = Result<(Vec<NodeInfo>, mpsc::Receiver<NodeEvent>), Error>;

/// A watch. It does not keep the connection open.
#[derive(Debug)]
pub(super) struct RedisWatch {
    desk: Arc<Desk>,
    /// Events that come before those in the channel: a snapshot.
    ready: VecDeque<NodeEvent>,
    /// The channel; none while a fresh one is asked for.
    events: Option<mpsc::Receiver<NodeEvent>>,
    /// The answer to that question. Kept here, so that a dropped `next` goes on where it was.
    fresh: Option<oneshot::Receiver<Begun>>,
}

impl RedisWatch {
    pub(super) async fn begin(desk: Arc<Desk>) -> Result<Self, Error> {
        let server = desk.server();
        server.check_open("watch")?;
        let by = server.call_deadline();
        let begun = async {
            loop {
                if let Some(answer) = observer::ask(&desk).await
                    && let Ok(begun) = answer.await
                {
                    return begun;
                }
                sleep(AGAIN).await;
            }
        };
        let begun = select! {
            biased;
            () = server.closed.raised() => Err(error::closed("watch")),
            begun = timeout_at(by, begun) => match begun {
                Ok(begun) => begun,
                Err(_) => Err(error::not_connected("watch", desk.observers().problem().as_deref())),
            },
        };
        let (snapshot, events) = begun?;
        let mut this = Self {
            desk,
            ready: VecDeque::new(),
            events: None,
            fresh: None,
        };
        this.go_on(snapshot, events);
        Ok(this)
    }

    fn go_on(&mut self, snapshot: Vec<NodeInfo>, events: mpsc::Receiver<NodeEvent>) {
        self.ready
            .extend(snapshot.into_iter().map(NodeEvent::Joined));
        self.events = Some(events);
    }

    /// The next event; `None` when nobody may watch any more.
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
            if self.desk.observers().have_lost_it() {
                tracing::warn!("the registry cannot be followed; the nodes may be others by now");
                return None;
            }
            // The channel ended: this watch was too slow, or the runtime of who observes is gone.
            let Some(fresh) = &mut self.fresh else {
                self.fresh = observer::ask(&self.desk).await;
                if self.fresh.is_none() {
                    sleep(AGAIN).await;
                }
                continue;
            };
            let answer = fresh.await;
            self.fresh = None;
            match answer {
                Ok(Ok((snapshot, events))) => {
                    self.ready.push_back(NodeEvent::Lagged);
                    self.go_on(snapshot, events);
                }
                Ok(Err(error)) if error.kind() != ErrorKind::Unavailable => {
                    tracing::warn!(%error, "the nodes cannot be watched any more");
                    return None;
                }
                _ => sleep(AGAIN).await,
            }
        }
    }
}

#[async_trait]
impl NodeWatch for RedisWatch {
    async fn next(&mut self) -> Option<NodeEvent> {
        let closed = self.desk.server().closed.clone();
        select! {
            biased;
            () = closed.raised() => None,
            event = self.event() => event,
        }
    }
}
