//! The task that knows the nodes of a bus.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use catga_core::{Error, ErrorKind, Load, NodeEvent, NodeId, NodeInfo};
use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::error;
use crate::timer::{Timer, from_now};

/// How many events wait for a watcher before it counts as lagging.
pub(crate) const WATCH_BUFFER: usize = 256;
/// How many commands wait before their senders do.
const QUEUE: usize = 64;

/// The nodes now, and the changes from now on.
pub(crate) type Watch = (Vec<NodeInfo>, mpsc::Receiver<NodeEvent>);

#[derive(Debug)]
pub(crate) enum Command {
    Register {
        node: NodeInfo,
        timeout: Duration,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    Heartbeat {
        node: NodeInfo,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    Unregister {
        node: NodeInfo,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    Nodes {
        reply: oneshot::Sender<Vec<NodeInfo>>,
    },
    Watch {
        reply: oneshot::Sender<Watch>,
    },
}

/// Starts the task. It ends when all senders are gone.
pub(crate) fn spawn() -> mpsc::Sender<Command> {
    let (commands, mut queue) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut members = Members::default();
        let mut timer = Timer::new();
        loop {
            select! {
                biased;
                () = timer.fired() => {}
                command = queue.recv() => match command {
                    Some(command) => members.obey(command),
                    None => return,
                },
            }
            members.expire(Instant::now());
            timer.arm(members.next_deadline());
        }
    });
    commands
}

#[derive(Debug, Default)]
struct Members {
    nodes: BTreeMap<NodeId, Live>,
    watchers: Vec<mpsc::Sender<NodeEvent>>,
}

#[derive(Debug)]
struct Live {
    info: NodeInfo,
    /// The load that watchers know.
    announced: Load,
    timeout: Duration,
    deadline: Instant,
}

impl Members {
    // Who asked may be gone; then nobody misses the reply.
    fn obey(&mut self, command: Command) {
        match command {
            Command::Register {
                node,
                timeout,
                reply,
            } => {
                let _ = reply.send(self.register(node, timeout));
            }
            Command::Heartbeat { node, reply } => {
                let _ = reply.send(self.heartbeat(node));
            }
            Command::Unregister { node, reply } => {
                let _ = reply.send(self.unregister(&node));
            }
            Command::Nodes { reply } => {
                let _ = reply.send(self.infos());
            }
            Command::Watch { reply } => {
                let (events, receiver) = mpsc::channel(WATCH_BUFFER);
                if reply.send((self.infos(), receiver)).is_ok() {
                    self.watchers.push(events);
                }
            }
        }
    }

    fn register(&mut self, mut node: NodeInfo, timeout: Duration) -> Result<(), Error> {
        match self.nodes.get(&node.id) {
            Some(live) if live.info.incarnation != node.incarnation => Err(Error::new(
                ErrorKind::DuplicateNode,
                "register",
                format!(
                    "another live node has the id `{}`: give each node its own",
                    node.id
                ),
            )),
            Some(_) => self.heartbeat(node),
            None => {
                let now = SystemTime::now();
                (node.started_at, node.last_seen) = (now, now);
                self.nodes.insert(
                    node.id.clone(),
                    Live {
                        info: node.clone(),
                        announced: node.load,
                        timeout,
                        deadline: from_now(timeout),
                    },
                );
                self.announce(&NodeEvent::Joined(node));
                Ok(())
            }
        }
    }

    fn heartbeat(&mut self, mut node: NodeInfo) -> Result<(), Error> {
        let live = self.live(&node, "heartbeat")?.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                "heartbeat",
                format!(
                    "the node `{}` was silent for too long and given up: register it again",
                    node.id
                ),
            )
        })?;
        live.deadline = from_now(live.timeout);
        node.started_at = live.info.started_at;
        node.last_seen = SystemTime::now();
        let moved = node.load.as_percent().abs_diff(live.announced.as_percent());
        let told = moved >= Load::STEP || differs(&live.info, &node);
        live.info = node;
        if told {
            live.announced = live.info.load;
            let event = NodeEvent::Updated(live.info.clone());
            self.announce(&event);
        }
        Ok(())
    }

    fn unregister(&mut self, node: &NodeInfo) -> Result<(), Error> {
        // One that was given up before is out already.
        if self.live(node, "unregister")?.is_some()
            && let Some(live) = self.nodes.remove(&node.id)
        {
            self.announce(&NodeEvent::Left(live.info));
        }
        Ok(())
    }

    /// The entry of this very incarnation; another one's is an error.
    fn live(
        &mut self,
        node: &NodeInfo,
        operation: &'static str,
    ) -> Result<Option<&mut Live>, Error> {
        match self.nodes.get_mut(&node.id) {
            Some(live) if live.info.incarnation != node.incarnation => {
                Err(error::lost_node(operation, &node.id))
            }
            live => Ok(live),
        }
    }

    fn infos(&self) -> Vec<NodeInfo> {
        self.nodes.values().map(|live| live.info.clone()).collect()
    }

    fn expire(&mut self, now: Instant) {
        let silent: Vec<NodeId> = self
            .nodes
            .iter()
            .filter(|(_, live)| live.deadline <= now)
            .map(|(id, _)| id.clone())
            .collect();
        for id in silent {
            if let Some(live) = self.nodes.remove(&id) {
                self.announce(&NodeEvent::Left(live.info));
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.nodes.values().map(|live| live.deadline).min()
    }

    /// Tells the watchers. One without room loses its channel here: it reads what is in it, finds
    /// the end, and asks for a new snapshot.
    fn announce(&mut self, event: &NodeEvent) {
        self.watchers
            .retain(|watcher| watcher.try_send(event.clone()).is_ok());
    }
}

/// Whether watchers want to hear of a change, its load apart.
fn differs(before: &NodeInfo, after: &NodeInfo) -> bool {
    before.draining != after.draining
        || before.metadata != after.metadata
        || before.endpoint != after.endpoint
        || before.requests != after.requests
        || before.service != after.service
}
