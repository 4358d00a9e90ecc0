//! The task that hands out the requests of one name.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use catga_core::{Envelope, Error, ErrorKind, Name, NodeId, Reply, Target};
use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::closed::Closed;
use crate::error;
use crate::timer::{FAR, Timer};

/// How many commands wait before their senders do.
const QUEUE: usize = 1024;
/// How many commands are obeyed before requests are handed out.
const BATCH: usize = 64;

pub(crate) type ServerId = u64;

/// A request on its way. It has one owner: the queue, the channel to a server, or the receipt.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) envelope: Envelope,
    pub(crate) to: Target,
    pub(crate) attempt: u32,
    pub(crate) deadline: Instant,
    /// Whether the caller named that deadline.
    pub(crate) bounded: bool,
    /// Whether a server has had it, so that it may have run.
    pub(crate) started: bool,
    pub(crate) reply: oneshot::Sender<Result<Reply, Error>>,
}

impl Job {
    /// Whether somebody still waits for the answer.
    pub(crate) fn is_wanted(&self, now: Instant) -> bool {
        self.deadline > now && !self.reply.is_closed()
    }

    fn refuse(self, error: Error) {
        let error = if self.started {
            error.with_unknown_outcome()
        } else {
            error
        };
        // The caller may be gone, and then nobody misses it.
        let _ = self.reply.send(Err(error));
    }
}

/// What callers and servers say.
#[derive(Debug)]
pub(crate) enum Command {
    Request(Job),
    Fetch(Fetch),
}

/// A server waits for requests.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) server: ServerId,
    pub(crate) max: usize,
    /// The end of the server's connection.
    pub(crate) closed: Closed,
    pub(crate) reply: oneshot::Sender<Vec<Job>>,
}

/// What is said from a `Drop`, or is one for each request that is out.
#[derive(Debug)]
pub(crate) enum Control {
    Join {
        server: ServerId,
        service: Name,
        node: NodeId,
        max_in_flight: usize,
        reply: oneshot::Sender<()>,
    },
    Leave(ServerId),
    /// A server may hold more or fewer requests.
    Limit {
        server: ServerId,
        max_in_flight: usize,
    },
    /// A server has done with one request.
    Done(ServerId),
    /// A server gives a request back, to be handed out after a delay.
    GiveBack {
        server: ServerId,
        job: Job,
        after: Duration,
    },
}

/// The way to the requests of one name.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) commands: mpsc::Sender<Command>,
    /// Without a bound, because `Drop` cannot wait: there are never more than requests that are out.
    pub(crate) control: mpsc::UnboundedSender<Control>,
    next_server: AtomicU64,
}

impl Desk {
    pub(crate) fn new_server(&self) -> ServerId {
        self.next_server.fetch_add(1, Ordering::Relaxed)
    }
}

pub(crate) fn spawn(name: Name, capacity: usize) -> Arc<Desk> {
    let (commands, command_queue) = mpsc::channel(QUEUE);
    let (control, control_queue) = mpsc::unbounded_channel();
    let actor = Actor {
        name,
        capacity,
        servers: BTreeMap::new(),
        queues: HashMap::new(),
        delayed: BTreeMap::new(),
        next_delayed: 0,
        parked: VecDeque::new(),
    };
    tokio::spawn(actor.run(command_queue, control_queue));
    Arc::new(Desk {
        commands,
        control,
        next_server: AtomicU64::new(0),
    })
}

#[derive(Debug)]
struct Server {
    service: Name,
    node: NodeId,
    max_in_flight: usize,
    held: usize,
}

impl Server {
    fn serves(&self, target: &Target) -> bool {
        match target {
            Target::Service(service) => *service == self.service,
            Target::Node(node) => *node == self.node,
            _ => false,
        }
    }
}

/// What tells the queues apart: names of services and of nodes may be equal.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Key {
    Service(Name),
    Node(NodeId),
}

impl Key {
    fn of(target: &Target) -> Option<Self> {
        match target {
            Target::Service(service) => Some(Self::Service(service.clone())),
            Target::Node(node) => Some(Self::Node(node.clone())),
            _ => None,
        }
    }
}

struct Actor {
    name: Name,
    capacity: usize,
    servers: BTreeMap<ServerId, Server>,
    queues: HashMap<Key, VecDeque<Job>>,
    delayed: BTreeMap<(Instant, u64), Job>,
    next_delayed: u64,
    parked: VecDeque<Fetch>,
}

impl Actor {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut control: mpsc::UnboundedReceiver<Control>,
    ) {
        let mut timer = Timer::new();
        loop {
            // Both senders go together, so that one closed channel ends the task.
            select! {
                biased;
                () = timer.fired() => {}
                said = control.recv() => match said {
                    Some(said) => self.control(said),
                    None => return,
                },
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
            }
            while let Ok(said) = control.try_recv() {
                self.control(said);
            }
            for _ in 0..BATCH {
                let Ok(command) = commands.try_recv() else {
                    break;
                };
                self.obey(command);
            }
            let now = Instant::now();
            self.wake(now);
            self.dispatch(now);
            timer.arm(self.delayed.first_key_value().map(|((at, _), _)| *at));
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Request(job) => self.enqueue(job),
            Command::Fetch(fetch) => self.parked.push_back(fetch),
        }
    }

    fn control(&mut self, control: Control) {
        match control {
            Control::Join {
                server,
                service,
                node,
                max_in_flight,
                reply,
            } => {
                let joined = Server {
                    service,
                    node,
                    max_in_flight: max_in_flight.max(1),
                    held: 0,
                };
                self.servers.insert(server, joined);
                // Who gave up meanwhile sends `Leave`.
                let _ = reply.send(());
            }
            Control::Leave(server) => self.leave(server),
            Control::Limit {
                server,
                max_in_flight,
            } => {
                if let Some(server) = self.servers.get_mut(&server) {
                    server.max_in_flight = max_in_flight.max(1);
                }
            }
            Control::Done(server) => self.done(server),
            Control::GiveBack { server, job, after } => {
                self.done(server);
                self.take_back(job, after);
            }
        }
    }

    fn done(&mut self, server: ServerId) {
        if let Some(server) = self.servers.get_mut(&server) {
            server.held = server.held.saturating_sub(1);
        }
    }

    /// Puts a request back in front, or aside until its delay is over.
    fn take_back(&mut self, job: Job, after: Duration) {
        let now = Instant::now();
        let due = now + after.min(FAR);
        if due >= job.deadline || !job.is_wanted(now) {
            let left = job.deadline.saturating_duration_since(now);
            let error = Error::new(
                ErrorKind::Timeout,
                "request",
                format!(
                    "`{}` was to be tried again in {after:?} and its caller waits for {left:?}",
                    self.name
                ),
            );
            return job.refuse(error);
        }
        if !self.is_served(&job.to) {
            return self.refuse_unserved(job);
        }
        if !after.is_zero() {
            self.next_delayed += 1;
            self.delayed.insert((due, self.next_delayed), job);
        } else if let Some(key) = Key::of(&job.to) {
            self.queues.entry(key).or_default().push_front(job);
        }
    }

    fn is_served(&self, target: &Target) -> bool {
        self.servers.values().any(|server| server.serves(target))
    }

    fn enqueue(&mut self, job: Job) {
        let key = Key::of(&job.to).filter(|_| self.is_served(&job.to));
        let Some(key) = key else {
            return self.refuse_unserved(job);
        };
        let queue = self.queues.entry(key).or_default();
        if queue.len() >= self.capacity {
            let now = Instant::now();
            queue.retain(|job| job.is_wanted(now));
        }
        if queue.len() >= self.capacity {
            let error = error::requests_full(&self.name, self.capacity);
            return job.refuse(error);
        }
        queue.push_back(job);
    }

    /// A server goes: what only it would have taken is answered at once.
    fn leave(&mut self, server: ServerId) {
        self.parked.retain(|fetch| fetch.server != server);
        if self.servers.remove(&server).is_none() {
            return;
        }
        let queues = std::mem::take(&mut self.queues);
        for (key, queue) in queues {
            // A queue is of one target, so that its first request speaks for all.
            if queue.front().is_some_and(|job| self.is_served(&job.to)) {
                self.queues.insert(key, queue);
            } else {
                for job in queue {
                    self.refuse_unserved(job);
                }
            }
        }
        for (due, job) in std::mem::take(&mut self.delayed) {
            if self.is_served(&job.to) {
                self.delayed.insert(due, job);
            } else {
                self.refuse_unserved(job);
            }
        }
    }

    fn refuse_unserved(&self, job: Job) {
        let error = error::no_responders(&self.name, &job.to);
        job.refuse(error);
    }

    /// Queues what was aside for long enough.
    fn wake(&mut self, now: Instant) {
        while let Some(first) = self.delayed.first_entry()
            && first.key().0 <= now
        {
            let job = first.remove();
            self.enqueue(job);
        }
    }

    /// Answers the servers that wait, first come first served, as far as there is something for them.
    fn dispatch(&mut self, now: Instant) {
        if self.queues.values().all(VecDeque::is_empty) {
            return;
        }
        let mut at = 0;
        while at < self.parked.len() {
            let fetch = &self.parked[at];
            if fetch.reply.is_closed() || fetch.closed.is_raised() {
                self.parked.remove(at);
                continue;
            }
            let (server, max) = (fetch.server, fetch.max);
            let jobs = self.take(server, max, now);
            if jobs.is_empty() {
                at += 1;
                continue;
            }
            let count = jobs.len();
            let fetch = self.parked.remove(at).expect("`at` is within the queue");
            match fetch.reply.send(jobs) {
                Ok(()) => {
                    if let Some(server) = self.servers.get_mut(&server) {
                        server.held += count;
                    }
                }
                Err(unread) => {
                    for job in unread.into_iter().rev() {
                        self.take_back(job, Duration::ZERO);
                    }
                }
            }
        }
    }

    /// Up to `max` requests for a server within its limit: those to its node first.
    fn take(&mut self, server: ServerId, max: usize, now: Instant) -> Vec<Job> {
        let Some(server) = self.servers.get(&server) else {
            return Vec::new();
        };
        let room = max.min(server.max_in_flight.saturating_sub(server.held));
        let keys = [
            Key::Node(server.node.clone()),
            Key::Service(server.service.clone()),
        ];
        let mut jobs = Vec::new();
        for key in keys {
            let Some(queue) = self.queues.get_mut(&key) else {
                continue;
            };
            while jobs.len() < room
                && let Some(job) = queue.pop_front()
            {
                if job.is_wanted(now) {
                    jobs.push(job);
                }
            }
        }
        jobs
    }
}
