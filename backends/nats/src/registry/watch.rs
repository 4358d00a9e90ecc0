//! A watch on the nodes.

use std::collections::VecDeque;

use catga_core::{NodeEvent, NodeWatch, async_trait};
use tokio::select;
use tokio::sync::{mpsc, oneshot};

use super::roster::{Question, Wanted, Watched};
use crate::closed::Closed;

/// Asks a roster. It does not keep the registry alive.
pub(crate) type Asking = mpsc::WeakSender<Question>;

/// A watch on a roster.
#[derive(Debug)]
pub(crate) struct RosterWatch {
    asking: Asking,
    closed: Closed,
    /// Events that come before those in the channel: a snapshot.
    ready: VecDeque<NodeEvent>,
    /// The channel; none while a fresh one is asked for.
    events: Option<mpsc::Receiver<NodeEvent>>,
    /// The answer to that question. Kept here, so that a dropped `next` goes on where it was.
    fresh: Option<oneshot::Receiver<Watched>>,
}

impl RosterWatch {
    pub(crate) fn new(watched: Watched, asking: Asking, closed: Closed) -> Self {
        let mut this = Self {
            asking,
            closed,
            ready: VecDeque::new(),
            events: None,
            fresh: None,
        };
        this.begin(watched);
        this
    }

    fn begin(&mut self, (snapshot, events): Watched) {
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
                let asking = self.asking.upgrade()?;
                let permit = asking.reserve().await.ok()?;
                let (reply, answer) = oneshot::channel();
                permit.send(Question {
                    after: None,
                    wanted: Wanted::Watch(reply),
                });
                self.fresh = Some(answer);
            }
            let answer = self.fresh.as_mut()?.await;
            self.fresh = None;
            let watched = answer.ok()?;
            self.ready.push_back(NodeEvent::Lagged);
            self.begin(watched);
        }
    }
}

#[async_trait]
impl NodeWatch for RosterWatch {
    async fn next(&mut self) -> Option<NodeEvent> {
        let closed = self.closed.clone();
        select! {
            biased;
            () = closed.raised() => None,
            event = self.event() => event,
        }
    }
}
