//! The task that follows the registry for all watchers of a process: it subscribes first and then reads who is there, so
//! that there is no gap; it counts the revisions, so that a message that is lost is noticed; it takes out who is silent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use catga_core::{Error, ErrorKind, NodeEvent, NodeInfo};
use futures_util::{FutureExt, StreamExt};
use redis::Msg;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::desk::Desk;
use super::entry::Change;
use super::view::{Gap, View};
use super::watch::{BUFFER, Begun};
use crate::error;
use crate::link::jittered;
use crate::options::Discovery;

/// How often a silent connection is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// The first and the longest wait between two tries to connect.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));
/// How often it is looked who is silent: a part of the node timeout, within bounds.
const SWEEP: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(3));
/// How long a message may take behind the change that it tells of, before it counts as lost.
const ON_ITS_WAY: Duration = Duration::from_millis(100);
/// The least time between two readings of everything.
const BREATH: Duration = Duration::from_millis(20);
/// The most messages that are heard before something else is done.
const AT_ONCE: usize = 1024;
/// How many wait for a watch before they have to wait for that, too.
const QUEUE: usize = 64;

/// Somebody wants to watch.
type Ask = oneshot::Sender<Begun>;

/// The way to the observer, who is there as long as somebody watches.
#[derive(Debug, Default)]
pub(super) struct Observers {
    queue: ArcSwapOption<mpsc::Sender<Ask>>,
    problem: ArcSwapOption<Error>,
    /// Whether the registry could not be followed for so long that watches end.
    lost: AtomicBool,
    /// What was known when that was: the next observer goes on from there.
    last: ArcSwapOption<View>,
    /// Who was there then, and did not leave since.
    kept: ArcSwapOption<Vec<NodeInfo>>,
}

impl Observers {
    /// Why nothing is observed.
    pub(super) fn problem(&self) -> Option<Arc<Error>> {
        self.problem.load_full()
    }

    /// Adds who was there when the registry was lost sight of, and has still the time to come back, as watchers see it.
    pub(super) fn add_kept(&self, nodes: &mut Vec<NodeInfo>) {
        let observed = self.queue.load();
        if observed.as_ref().is_none_or(|queue| queue.is_closed()) {
            return;
        }
        for kept in self.kept.load().iter().flat_map(|kept| kept.iter()) {
            if !nodes.iter().any(|node| node.id == kept.id) {
                nodes.push(kept.clone());
            }
        }
    }

    /// Whether nobody can say for now who is there.
    pub(super) fn have_lost_it(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }
}

/// Asks for a watch; `None` when the observer was just ending.
pub(super) async fn ask(desk: &Arc<Desk>) -> Option<oneshot::Receiver<Begun>> {
    let queue = queue(desk)?;
    let permit = queue.reserve().await.ok()?;
    let (ask, answer) = oneshot::channel();
    permit.send(ask);
    Some(answer)
}

/// The way to the observer, who is made when there is none.
fn queue(desk: &Arc<Desk>) -> Option<Arc<mpsc::Sender<Ask>>> {
    let known = &desk.observers().queue;
    let before = known.load();
    if let Some(queue) = &*before
        && !queue.is_closed()
    {
        return Some(Arc::clone(queue));
    }
    let (sender, receiver) = mpsc::channel(QUEUE);
    let sender = Arc::new(sender);
    let found = known.compare_and_swap(&before, Some(Arc::clone(&sender)));
    if found.as_ref().map(Arc::as_ptr) != before.as_ref().map(Arc::as_ptr) {
        return found.clone();
    }
    let last = desk.observers().last.swap(None);
    let observer = Observer {
        desk: Arc::clone(desk),
        queue: receiver,
        open: true,
        waiting: Vec::new(),
        watchers: Vec::new(),
        view: last.and_then(Arc::into_inner).unwrap_or_default(),
        stale: Stale::No,
        read_at: Instant::now(),
        look_at: Instant::now(),
        fresh: SWEEP.0,
    };
    tokio::spawn(observer.run());
    Some(sender)
}

struct Observer {
    desk: Arc<Desk>,
    queue: mpsc::Receiver<Ask>,
    /// Whether somebody may still ask.
    open: bool,
    waiting: Vec<Ask>,
    watchers: Vec<mpsc::Sender<NodeEvent>>,
    view: View,
    stale: Stale,
    /// When everything was read.
    read_at: Instant,
    /// When it is to be looked who is silent, and how old a sweep by somebody else may be then.
    look_at: Instant,
    fresh: Duration,
}

/// Whether the view is behind the registry.
enum Stale {
    No,
    Yes,
    /// It is, unless the messages up to this one arrive.
    Unless(String, u64),
}

/// Why the registry is not followed any more.
enum Ended {
    /// Nobody watches.
    Alone,
    /// The connection was lost; whether it was of use before.
    Lost(bool),
}

impl Observer {
    async fn run(mut self) {
        let closed = self.desk.server().closed.clone();
        select! {
            biased;
            () = closed.raised() => {}
            () = self.observe() => {}
        }
    }

    async fn observe(&mut self) {
        let mut wait = BACK_OFF.0;
        let mut followed = Instant::now();
        loop {
            match self.connect().await {
                Ok((sink, stream)) => {
                    match self.follow(sink, stream).await {
                        Ended::Alone => {
                            // Who asked gave up just before it was answered, perhaps.
                            if self.desk.observers().kept.load().is_some() {
                                self.keep_view();
                            }
                            return;
                        }
                        Ended::Lost(true) => {
                            wait = BACK_OFF.0;
                            followed = Instant::now();
                        }
                        Ended::Lost(false) => {}
                    }
                    tracing::debug!("the nodes are not followed now; it is begun again");
                }
                Err(error) => {
                    tracing::debug!(%error, "the nodes cannot be followed");
                    self.refuse(error);
                }
            }
            if followed.elapsed() >= self.desk.node_timeout() {
                self.end_watches();
            }
            if self.is_alone() {
                self.keep_view();
                return;
            }
            sleep(jittered(wait)).await;
            // Nobody is to be taken for silent because the server was found late.
            let most = BACK_OFF
                .1
                .min(self.desk.node_timeout() / 10)
                .max(BACK_OFF.0);
            wait = (wait * 2).min(most);
        }
    }

    /// Listens to the changes, before it is read who is there.
    async fn connect(&self) -> Result<(PubSubSink, PubSubStream), Error> {
        let (server, index) = (self.desk.server(), self.desk.index());
        let patience = server.settings.call_timeout;
        let (mut sink, stream) = server.factory.pubsub().await?.split();
        match timeout(patience, sink.subscribe(index)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error::of("watch", index, &error)),
            Err(_) => return Err(error::unanswered("watch", index)),
        }
        if server.settings.discovery == Discovery::Keys && self.desk.tells_of_keys().await {
            let database = server.settings.database;
            let pattern = format!("__keyspace@{database}__:{index}:*");
            let heard = timeout(patience, sink.psubscribe(pattern)).await;
            if !matches!(heard, Ok(Ok(()))) {
                tracing::debug!(
                    "the server tells of keys that expire, and this user may not listen to it"
                );
            }
        }
        Ok((sink, stream))
    }

    /// Tells watchers of changes, until the connection breaks or nobody watches.
    async fn follow(&mut self, mut sink: PubSubSink, mut stream: PubSubStream) -> Ended {
        let every = (self.desk.node_timeout() / 10).clamp(SWEEP.0, SWEEP.1);
        self.fresh = every / 2;
        let mut worked = self.read().await;
        self.look_at = Instant::now() + jittered(every);
        let mut ping = Instant::now() + KEEP_ALIVE;
        loop {
            select! {
                biased;
                asked = self.queue.recv(), if self.open => match asked {
                    Some(ask) => {
                        self.waiting.push(ask);
                        self.look_at = Instant::now();
                    }
                    None => self.open = false,
                },
                () = sleep_until(self.look_at) => {
                    if self.is_alone() {
                        return Ended::Alone;
                    }
                    // What has come is older than what the server says now.
                    for _ in 0..AT_ONCE {
                        match stream.next().now_or_never() {
                            Some(Some(message)) => self.hear(&message),
                            Some(None) => return Ended::Lost(worked),
                            None => break,
                        }
                    }
                    worked |= self.look().await;
                    self.fresh = every / 2;
                    self.look_at = Instant::now() + match self.stale {
                        Stale::No => jittered(every),
                        _ => ON_ITS_WAY,
                    };
                }
                () = sleep_until(ping) => {
                    let patience = self.desk.server().settings.call_timeout;
                    let answer = timeout(patience, sink.ping::<redis::Value>()).await;
                    if !matches!(answer, Ok(Ok(_))) {
                        return Ended::Lost(worked);
                    }
                    ping = Instant::now() + KEEP_ALIVE;
                }
                message = stream.next() => match message {
                    Some(message) => self.hear(&message),
                    None => return Ended::Lost(worked),
                },
            }
        }
    }

    fn hear(&mut self, message: &Msg) {
        if message.get_channel_name() != self.desk.index() {
            if is_gone(message) {
                // All processes are told at once; one of them looks.
                self.fresh = BREATH;
                let soon = Instant::now() + jittered(2 * BREATH);
                self.look_at = self.look_at.min(soon);
            }
            return;
        }
        let rubbish = self.desk.rubbish();
        let Some(change) = Change::read(message.get_payload_bytes()) else {
            let shown = String::from_utf8_lossy(message.get_payload_bytes());
            rubbish.note(&shown, "a message is none of ours");
            return;
        };
        match self.view.follow(&change, rubbish) {
            Ok(events) => {
                self.tell(&events);
                if matches!(&self.stale, Stale::Unless(epoch, revision) if self.view.has(epoch, *revision))
                {
                    self.stale = Stale::No;
                    self.welcome();
                }
            }
            Err(Gap) => {
                self.stale = Stale::Yes;
                self.look_at = self.look_at.min(self.read_at + BREATH);
            }
        }
    }

    /// Looks who is silent, and whether something was missed; whether the server answered.
    async fn look(&mut self) -> bool {
        let patience = self.desk.node_timeout();
        let late = self.view.give_up_missing(Instant::now(), patience);
        self.tell(&late);
        if !matches!(self.stale, Stale::No) {
            return self.read().await;
        }
        let (epoch, revision) = match self.desk.sweep(self.fresh).await {
            Ok(now) => now,
            Err(error) => {
                tracing::debug!(%error, "it could not be looked who is silent");
                self.refuse(error);
                return false;
            }
        };
        if self.view.is_beyond(&epoch, revision) {
            // An older registry than was known: another server has taken over.
            return self.read().await;
        }
        if self.view.has(&epoch, revision) {
            self.welcome();
        } else {
            // By messages that are on their way, or else.
            self.stale = Stale::Unless(epoch, revision);
        }
        true
    }

    /// Reads who is there, for those who watch and those who want to; whether that could be.
    async fn read(&mut self) -> bool {
        self.read_at = Instant::now();
        let snapshot = match self.desk.list("watch").await {
            Ok(snapshot) => snapshot,
            Err(error) => {
                self.stale = Stale::Yes;
                self.refuse(error);
                return false;
            }
        };
        self.stale = Stale::No;
        self.desk.observers().lost.store(false, Ordering::SeqCst);
        let events = self.view.take(snapshot, Instant::now());
        self.tell(&events);
        self.welcome();
        true
    }

    /// Lets those who wait for it watch, from the view, which is the registry as it was after they asked.
    fn welcome(&mut self) {
        self.desk.observers().problem.store(None);
        for ask in self.waiting.drain(..) {
            let (sender, receiver) = mpsc::channel(BUFFER);
            if ask.send(Ok((self.view.infos(), receiver))).is_ok() {
                self.watchers.push(sender);
            }
        }
    }

    /// Tells the watchers. One without room loses its channel here: it reads what is in it, finds the end, and asks for
    /// a new watch.
    fn tell(&mut self, events: &[NodeEvent]) {
        for event in events {
            if let NodeEvent::Left(node) = event {
                let kept = &self.desk.observers().kept;
                if let Some(known) = kept.load_full() {
                    let mut rest = (*known).clone();
                    rest.retain(|kept| kept.incarnation != node.incarnation);
                    kept.store((!rest.is_empty()).then(|| Arc::new(rest)));
                }
            }
            self.watchers
                .retain(|watcher| watcher.try_send(event.clone()).is_ok());
        }
    }

    /// The next observer goes on from what this one knows.
    fn keep_view(&mut self) {
        let view = std::mem::take(&mut self.view);
        self.desk.observers().last.store(Some(Arc::new(view)));
    }

    /// Whoever watches is to know that what it has heard may be old.
    fn end_watches(&mut self) {
        let observers = self.desk.observers();
        let known = self.view.infos();
        if !known.is_empty() {
            observers.kept.store(Some(Arc::new(known)));
        }
        observers.lost.store(true, Ordering::SeqCst);
        self.watchers.clear();
    }

    /// Who waits hears at once what waiting does not help against.
    fn refuse(&mut self, error: Error) {
        self.gather();
        if matches!(
            error.kind(),
            ErrorKind::Permission | ErrorKind::Conflict | ErrorKind::Decode
        ) {
            for ask in self.waiting.drain(..) {
                // Who asked may be gone.
                let _ = ask.send(Err(Error::new(
                    error.kind(),
                    "watch",
                    error.message().to_owned(),
                )
                .with_retry(error.retry())));
            }
        }
        self.desk.observers().problem.store(Some(Arc::new(error)));
    }

    fn gather(&mut self) {
        while let Ok(ask) = self.queue.try_recv() {
            self.waiting.push(ask);
        }
        self.waiting.retain(|ask| !ask.is_closed());
    }

    /// Whether nobody watches any more, or wants to. Then nobody can, either, without another observer.
    fn is_alone(&mut self) -> bool {
        self.gather();
        self.watchers.retain(|watcher| !watcher.is_closed());
        let alone = |this: &Self| this.watchers.is_empty() && this.waiting.is_empty();
        if alone(self) {
            self.queue.close();
            self.gather();
        }
        alone(self)
    }
}

/// Whether a key is told to be gone.
fn is_gone(message: &Msg) -> bool {
    matches!(
        message.get_payload_bytes(),
        b"expired" | b"del" | b"evicted"
    )
}
