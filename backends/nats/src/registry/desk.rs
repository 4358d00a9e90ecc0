//! Writes a node into the bucket by the revision at which it was seen: a task that does one thing after the other, so that
//! what is asked later finds what was asked before, also when nobody waits for it any more.
//!
//! While it is there, a process listens on a subject of its incarnation. Who wants the id asks there: where nobody listens
//! the process is gone, and its id free before its time is over.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use catga_core::{Bytes, Error, ErrorKind, Incarnation, NodeId, NodeInfo};
use futures_util::StreamExt;
use tokio::select;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::clock::ServerClock;
use super::entry;
use super::trouble::Trouble;
use crate::bucket::{Bucket, Entry, Put};
use crate::connection::{Connection, is_no_responders};
use crate::error;
use crate::time::from_now;

/// How often a write is tried against others before it is given up.
const TRIES: u32 = 8;
/// How long a replica that is behind may take.
const SOON: Duration = Duration::from_millis(20);

/// How long somebody who is there may take to say so.
const ANSWER: Duration = Duration::from_secs(1);
/// For how long nobody answers for a process that is gone. A live one is back on a server that was restarted before: the client
/// waits for up to 3 s between two tries.
const BACK: Duration = Duration::from_millis(3500);

/// Something to be written.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) verb: Verb,
    pub(crate) node: NodeInfo,
    pub(crate) reply: oneshot::Sender<Result<(), Error>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Register,
    Heartbeat,
    Unregister,
}

impl Verb {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Heartbeat => "heartbeat",
            Self::Unregister => "unregister",
        }
    }
}

/// What all that write have in common.
#[derive(Clone, Debug)]
pub(crate) struct Means {
    pub(crate) connection: Arc<Connection>,
    pub(crate) bucket: Arc<Bucket>,
    pub(crate) clock: Arc<ServerClock>,
    /// Told when the bucket is not what it was.
    pub(crate) moved: Arc<Notify>,
    /// Why the bucket cannot be followed.
    pub(crate) trouble: Arc<Trouble>,
    pub(crate) timeout: Duration,
    /// Whether it is known that we may listen.
    pub(crate) may_listen: Arc<AtomicBool>,
    /// What was written here.
    pub(crate) own: Arc<OwnNodes>,
}

/// The incarnations that this process wrote last.
pub(crate) type OwnNodes = papaya::HashMap<NodeId, Incarnation>;

/// Who writes one node.
#[derive(Debug)]
pub(crate) struct Desk {
    means: Means,
    /// What was written here last.
    written: Option<Written>,
    listening: HashMap<Incarnation, Listening>,
    /// When the present order is given up.
    by: Instant,
    absent: Option<Absent>,
}

/// One for whom nobody answered, and who has not written since.
#[derive(Debug)]
struct Absent {
    revision: u64,
    /// Since when nobody does, and on which connection that was asked.
    since: Instant,
    lost: u64,
}

/// Answers for an incarnation until it is dropped.
#[derive(Debug)]
struct Listening(AbortHandle);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl std::ops::Deref for Desk {
    type Target = Means;

    fn deref(&self) -> &Means {
        &self.means
    }
}

/// A node as it was written here.
#[derive(Clone, Debug)]
struct Written {
    node: NodeInfo,
    revision: u64,
    at: Instant,
}

/// What stands under the id of a node.
enum Stands {
    /// Nothing that is a node, at this revision.
    Nobody(u64),
    /// This very incarnation.
    Itself(u64, NodeInfo, Duration),
    /// Another one, which was heard of so long ago.
    Another(u64, Incarnation, Duration),
}

impl Desk {
    pub(crate) fn new(means: Means) -> Self {
        Self {
            means,
            written: None,
            listening: HashMap::new(),
            by: Instant::now(),
            absent: None,
        }
    }

    /// Obeys until the connection or the registry is gone.
    pub(crate) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let closed = self.connection.closed.clone();
        loop {
            let order = select! {
                biased;
                () = closed.raised() => return,
                order = orders.recv() => order,
            };
            let Some(Order { verb, node, reply }) = order else {
                return;
            };
            if reply.is_closed() && verb != Verb::Unregister {
                continue;
            }
            let by = from_now(self.connection.settings.call_timeout * 2);
            self.by = by;
            let outcome = match timeout_at(by, self.obey(verb, &node)).await {
                Ok(outcome) => outcome.map_err(error::of_bucket),
                Err(_) => Err(self.trouble.slow(verb.as_str())),
            };
            let gone = |error: &Error| error.kind() == ErrorKind::NotFound;
            if verb != Verb::Unregister && outcome.as_ref().is_err_and(gone) {
                self.moved.notify_one();
            }
            // Who asked may be gone; what was done is known here.
            let _ = reply.send(outcome);
        }
    }

    async fn obey(&mut self, verb: Verb, node: &NodeInfo) -> Result<(), Error> {
        match verb {
            Verb::Register => {
                let registered = self.register(node).await;
                if registered.is_ok() {
                    self.listening.retain(|known, _| *known == node.incarnation);
                } else {
                    self.listening.remove(&node.incarnation);
                }
                registered
            }
            Verb::Heartbeat => self.heartbeat(node).await,
            Verb::Unregister => self.unregister(node).await,
        }
    }

    async fn register(&mut self, node: &NodeInfo) -> Result<(), Error> {
        const REGISTER: &str = "register";
        // Too much is said before anything is asked.
        entry::encode(REGISTER, node, node)?;
        let manage = self.connection.settings.manage;
        self.listen(REGISTER, node).await?;
        for tried in 0..TRIES {
            self.settle(tried).await;
            // Without a bucket nothing is heard of the clock, and why there is none is to be told.
            self.bucket.ensure(&self.connection, REGISTER).await?;
            let now = self.now(REGISTER).await?;
            let mut node = node.clone();
            node.started_at = now;
            let known = self.known(&node);
            let stands = match known {
                Some(known) => {
                    let age = known.at.elapsed();
                    Stands::Itself(known.revision, known.node.clone(), age)
                }
                // Most ids are new: they are taken without a look.
                None if tried == 0 => Stands::Nobody(0),
                None => self.stands(REGISTER, &node).await?,
            };
            let revision = match stands {
                Stands::Nobody(revision) => revision,
                Stands::Itself(revision, present, _) => {
                    node.started_at = present.started_at;
                    revision
                }
                Stands::Another(revision, other, age) => {
                    let free = from_now(self.timeout.saturating_sub(age));
                    if self.is_there(&node, other, revision, free).await {
                        let left = free.saturating_duration_since(Instant::now());
                        return Err(error::duplicate_node(&node, left));
                    }
                    tracing::info!(node = %node.id, ?age, "takes over the id of one that is gone");
                    revision
                }
            };
            match self.put(REGISTER, node, revision, now).await {
                Ok(Put::Written(_)) => return Ok(()),
                Ok(Put::Moved) => self.written = None,
                // The bucket is gone: the next try makes it anew.
                Err(error) if error.kind() == ErrorKind::NotFound && manage => {
                    self.written = None;
                    self.moved.notify_one();
                }
                Err(error) => return Err(error),
            }
        }
        Err(error::slow_registry(REGISTER))
    }

    async fn heartbeat(&mut self, node: &NodeInfo) -> Result<(), Error> {
        const HEARTBEAT: &str = "heartbeat";
        for tried in 0..TRIES {
            self.settle(tried).await;
            let (revision, started_at) = match self.known(node) {
                Some(known) => (known.revision, known.node.started_at),
                None => match self.stands(HEARTBEAT, node).await? {
                    Stands::Itself(revision, present, age) if age < self.timeout => {
                        (revision, present.started_at)
                    }
                    Stands::Another(_, _, age) if age < self.timeout => {
                        self.listening.remove(&node.incarnation);
                        return Err(error::lost_node(HEARTBEAT, node));
                    }
                    _ => return Err(error::unknown_node(HEARTBEAT, node)),
                },
            };
            // Who lives answers for it, whatever became of an attempt to register again.
            self.listen(HEARTBEAT, node).await?;
            let now = self.now(HEARTBEAT).await?;
            let mut next = node.clone();
            next.started_at = started_at;
            match self.put(HEARTBEAT, next, revision, now).await {
                Ok(Put::Written(_)) => return Ok(()),
                Ok(Put::Moved) => self.written = None,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(error::unknown_node(HEARTBEAT, node).with_source(error));
                }
                Err(error) => return Err(error),
            }
        }
        Err(error::slow_registry(HEARTBEAT))
    }

    async fn unregister(&mut self, node: &NodeInfo) -> Result<(), Error> {
        const UNREGISTER: &str = "unregister";
        self.listening.remove(&node.incarnation);
        for tried in 0..TRIES {
            self.settle(tried).await;
            let revision = match self.known(node) {
                Some(known) => known.revision,
                None => match self.stands(UNREGISTER, node).await? {
                    Stands::Itself(revision, ..) => revision,
                    Stands::Another(_, _, age) if age < self.timeout => {
                        return Err(error::lost_node(UNREGISTER, node));
                    }
                    // It was given up before.
                    _ => return Ok(()),
                },
            };
            self.written = None;
            let (bucket, key) = (&self.bucket, node.id.as_str());
            let deleted = bucket.delete(&self.connection, UNREGISTER, key, revision);
            match deleted.await {
                Ok(Put::Written(_)) => return Ok(()),
                Ok(Put::Moved) => {}
                // With the bucket everything is gone.
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Err(error::slow_registry(UNREGISTER))
    }

    /// Answers for an incarnation from now on.
    async fn listen(&mut self, operation: &'static str, node: &NodeInfo) -> Result<(), Error> {
        if self.listening.contains_key(&node.incarnation) {
            return Ok(());
        }
        let connection = Arc::clone(&self.connection);
        let subject = connection.names.incarnation(&node.id, node.incarnation);
        // Whether the server lets us takes a moment to tell: one is told for all.
        let mut asked = if self.may_listen.load(Ordering::Relaxed) {
            let made = connection.client.subscribe(subject).await;
            made.map_err(|error| error::not_subscribed(operation, error))?
        } else {
            let made = connection.subscribe(operation, subject, None).await?;
            self.may_listen.store(true, Ordering::Relaxed);
            made
        };
        let answering = tokio::spawn(async move {
            while let Some(question) = asked.next().await {
                if let Some(reply) = question.reply {
                    let here = Bytes::from_static(b"here");
                    let _ = connection.try_publish("answer", reply, None, here);
                }
            }
        });
        let listening = Listening(answering.abort_handle());
        self.listening.insert(node.incarnation, listening);
        Ok(())
    }

    /// Whether an incarnation of a node is there, whose id is `free` at some time whoever listens for it. Nobody has to listen
    /// when it is asked twice, so far apart that it is not one that is only connecting again; where the time of this order is
    /// too short for that, the next one asks again.
    async fn is_there(
        &mut self,
        node: &NodeInfo,
        other: Incarnation,
        revision: u64,
        free: Instant,
    ) -> bool {
        loop {
            if Instant::now() >= free {
                return false;
            }
            let lost = self.connection.link.lost();
            if !self.nobody_listens(node, other).await {
                self.absent = None;
                return true;
            }
            let known = self.absent.take();
            let same = |known: &Absent| known.revision == revision && known.lost == lost;
            let absent = known.filter(same).unwrap_or_else(|| Absent {
                revision,
                since: Instant::now(),
                lost,
            });
            let again = absent.since + BACK;
            self.absent = Some(absent);
            if Instant::now() >= again {
                return false;
            }
            // There has to be time for the answer, and for the write.
            let again = again.min(free);
            if again + ANSWER >= self.by {
                return true;
            }
            sleep_until(again).await;
        }
    }

    /// Whether nobody listens for an incarnation of a node. Who is paused says nothing, and is there.
    async fn nobody_listens(&self, node: &NodeInfo, other: Incarnation) -> bool {
        let subject = self.connection.names.incarnation(&node.id, other);
        let by = self.connection.call_deadline().min(from_now(ANSWER));
        let asked = self
            .connection
            .ask("register", subject, || None, Bytes::new(), by);
        asked.await.is_ok_and(|answer| is_no_responders(&answer))
    }

    /// This incarnation as it was written here last, unless that is too long ago.
    fn known(&self, node: &NodeInfo) -> Option<&Written> {
        let known = self.written.as_ref()?;
        let same = known.node.incarnation == node.incarnation;
        (same && known.at.elapsed() < self.timeout).then_some(known)
    }

    /// Waits a little before what was read is read again.
    async fn settle(&self, tried: u32) {
        if tried > 0 {
            sleep(SOON.mul_f64(fastrand::f64()) * tried).await;
        }
    }

    /// What stands under the id of a node. What is no node is nobody.
    async fn stands(&self, operation: &'static str, node: &NodeInfo) -> Result<Stands, Error> {
        let (bucket, key) = (&self.bucket, node.id.as_str());
        let Some(entry) = bucket.get(&self.connection, operation, key).await? else {
            return Ok(Stands::Nobody(0));
        };
        let Entry {
            revision,
            time,
            value,
        } = entry;
        let present = value.and_then(|value| entry::node(key, &value).ok());
        self.now(operation).await?;
        let age = self.clock.age(time);
        Ok(match present {
            None => Stands::Nobody(revision),
            Some(present) if present.incarnation == node.incarnation => {
                Stands::Itself(revision, present, age)
            }
            Some(present) => Stands::Another(revision, present.incarnation, age),
        })
    }

    /// The server's time, as soon as it was heard.
    async fn now(&self, operation: &'static str) -> Result<SystemTime, Error> {
        select! {
            biased;
            now = self.clock.known() => Ok(now),
            error = self.trouble.until_lasting(operation) => {
                // What was wrong may be mended by now.
                self.moved.notify_one();
                Err(error)
            }
        }
    }

    async fn put(
        &mut self,
        operation: &'static str,
        mut node: NodeInfo,
        revision: u64,
        now: SystemTime,
    ) -> Result<Put, Error> {
        node.last_seen = now;
        let bytes = entry::encode(operation, &node, &node)?;
        let at = Instant::now();
        let (bucket, key) = (&self.bucket, node.id.as_str());
        let put = bucket.put(&self.connection, operation, key, revision, bytes);
        // A stream that is just being deleted takes it and says nothing: who waits for that for long is given up meanwhile.
        let Ok(put) = timeout_at(from_now(self.timeout / 4), put).await else {
            return Ok(Put::Moved);
        };
        let put = put?;
        if let Put::Written(revision) = put {
            self.own.pin().insert(node.id.clone(), node.incarnation);
            self.written = Some(Written { node, revision, at });
        }
        Ok(put)
    }
}
