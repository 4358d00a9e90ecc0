//! QoS 0: a bounded ring, filled from a channel, or for a group from a stream that nobody acks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use catga_core::{
    Consumers, Delivery, Envelope, Error, MessageId, Name, QoS, StatsReader, Subscribe,
    Subscription, SubscriptionStats, async_trait,
};
use crossbeam_queue::ArrayQueue;
use tokio::select;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, consume_budget};

use crate::closed::Closed;
use crate::connection::Connection;
use crate::hub::{Listener, Listening};
use crate::names::Member;
use crate::reader::{BLOCK, Blocking, Line, pause};
use crate::server::Server;
use crate::time::millis;
use crate::{error, value, wire};

/// How long publishers may believe that no group listens.
const BELIEVED: Duration = Duration::from_millis(200);
/// The most entries of one read.
const MOST: usize = 256;
/// The first and the longest wait between two tries.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// What waits for one subscription; when it is full the oldest goes.
#[derive(Debug)]
struct Ring {
    queue: ArrayQueue<Envelope>,
    ready: Notify,
    dropped: AtomicU64,
}

impl Ring {
    fn push(&self, envelope: Envelope) {
        if self.queue.force_push(envelope).is_some() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.ready.notify_one();
    }
}

/// A subscription at QoS 0.
#[derive(Debug)]
pub(crate) struct RingSubscription {
    connection: Arc<Connection>,
    ring: Arc<Ring>,
    /// Of a node that gets everything.
    listening: Option<Listening>,
    /// Of a group.
    filler: Option<(Arc<EventGroup>, AbortHandle)>,
    stop: Closed,
    left: bool,
}

impl RingSubscription {
    /// Subscribes: when this returns, what is published goes into the ring.
    pub(crate) async fn join(
        connection: Arc<Connection>,
        subscribe: &Subscribe,
    ) -> Result<Self, Error> {
        let ring = Arc::new(Ring {
            queue: ArrayQueue::new(connection.server.settings.ring),
            ready: Notify::new(),
            dropped: AtomicU64::new(0),
        });
        let (stop, name) = (Closed::default(), subscribe.message.clone());
        let (mut listening, mut filler) = (None, None);
        match &subscribe.consumers {
            Consumers::EachNode { .. } => {
                let by = connection.server.call_deadline();
                let channel = connection.server.names.event(&name);
                let into = Arc::clone(&ring);
                let listener: Listener = Arc::new(move |frame| {
                    match wire::read_frame(name.clone(), QoS::AtMostOnce, frame) {
                        Some(read) => into.push(read.envelope),
                        None => {
                            tracing::debug!(message = %name, "what was published is no message of ours");
                        }
                    }
                });
                let heard = connection.hub.listen("subscribe", channel, listener, by);
                listening = Some(heard.await?);
            }
            consumers => {
                let member = Member::of(consumers).to_string();
                let group = EventGroup::join(&connection.server, &name, member).await?;
                let group = Arc::new(group);
                let task = Arc::clone(&group).fill(
                    Arc::clone(&connection.server),
                    Arc::clone(&ring),
                    stop.clone(),
                );
                filler = Some((group, tokio::spawn(task).abort_handle()));
            }
        }
        Ok(Self {
            connection,
            ring,
            listening,
            filler,
            stop,
            left: false,
        })
    }

    /// Ends the subscription. What waits is lost, and counts as dropped.
    fn leave(&mut self) {
        if std::mem::replace(&mut self.left, true) {
            return;
        }
        self.listening = None;
        self.stop.raise();
        if let Some((group, filler)) = self.filler.take() {
            // Its connection goes with it: nobody reads for nobody.
            filler.abort();
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                let server = Arc::clone(&self.connection.server);
                // A close waits for it.
                let underway = server.pending.begin();
                runtime.spawn(async move {
                    let _underway = underway;
                    group.leave(&server).await;
                });
            }
        }
        while self.ring.queue.pop().is_some() {
            self.ring.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A member of a group at QoS 0.
#[derive(Debug)]
struct EventGroup {
    message: Name,
    stream: String,
    group: String,
    consumer: String,
}

impl EventGroup {
    async fn join(server: &Server, message: &Name, group: String) -> Result<Self, Error> {
        let this = Self {
            message: message.clone(),
            stream: server.names.event(message),
            group,
            consumer: format!("c{}", MessageId::new().as_uuid().simple()),
        };
        if this.ensure(server).await? {
            // Until then publishers may leave out the stream that was not there.
            tokio::time::sleep(BELIEVED).await;
        } else {
            this.skip_what_nobody_waited_for(server).await?;
        }
        let mut add = redis::cmd("XGROUP");
        add.arg("CREATECONSUMER")
            .arg(&this.stream)
            .arg(&this.group)
            .arg(&this.consumer);
        server
            .call("subscribe", &this.stream, &add, server.call_deadline())
            .await?;
        Ok(this)
    }

    async fn ensure(&self, server: &Server) -> Result<bool, Error> {
        Connection::make_group(server, "subscribe", &self.stream, &self.group, "$").await
    }

    /// A group that nobody was in for a while begins with what is new.
    async fn skip_what_nobody_waited_for(&self, server: &Server) -> Result<(), Error> {
        let (stream, by) = (&self.stream, server.call_deadline());
        let mut ask = redis::cmd("XINFO");
        ask.arg("CONSUMERS").arg(stream).arg(&self.group);
        let members = server.call("subscribe", stream, &ask, by).await?;
        let away = millis(server.settings.node_timeout);
        let (mut there, mut gone) = (false, Vec::new());
        for member in value::list(members) {
            let idle = value::field(&member, "idle").map_or(0, value::count);
            if idle < away {
                there = true;
            } else if let Some(name) = value::field(&member, "name").and_then(value::text) {
                gone.push(name.to_owned());
            }
        }
        let mut ask = redis::cmd("EXISTS");
        ask.arg(self.left());
        let left = server.call("subscribe", stream, &ask, by).await?;
        if !there && value::int(&left) == Some(0) {
            let mut skip = redis::cmd("XGROUP");
            skip.arg("SETID").arg(stream).arg(&self.group).arg("$");
            server.call("subscribe", stream, &skip, by).await?;
        }
        for name in gone {
            // Nothing is ever pending where nobody acks.
            let mut forget = redis::cmd("XGROUP");
            forget
                .arg("DELCONSUMER")
                .arg(stream)
                .arg(&self.group)
                .arg(name);
            server.call("subscribe", stream, &forget, by).await?;
        }
        Ok(())
    }

    /// Says for one node timeout that somebody was there.
    fn left(&self) -> String {
        format!("{}:left:{}", self.stream, self.group)
    }

    async fn leave(&self, server: &Server) {
        if server.closed.is_raised() || !server.link.is_connected() {
            return;
        }
        let mut note = redis::cmd("SET");
        note.arg(self.left()).arg("").arg("PX");
        note.arg(millis(server.settings.node_timeout));
        let mut leave = redis::cmd("XGROUP");
        leave.arg("DELCONSUMER").arg(&self.stream);
        leave.arg(&self.group).arg(&self.consumer);
        for cmd in [note, leave] {
            let by = server.call_deadline();
            if let Err(error) = server.call("close", &self.stream, &cmd, by).await {
                tracing::debug!(message = %self.message, %error, "a member left without a word");
                return;
            }
        }
    }

    async fn fill(self: Arc<Self>, server: Arc<Server>, ring: Arc<Ring>, stop: Closed) {
        let mut line = Line::new(&server, Arc::new(Blocking::default()));
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(&self.group).arg(&self.consumer);
        read.arg("COUNT").arg(MOST).arg("BLOCK").arg(millis(BLOCK));
        read.arg("NOACK").arg("STREAMS").arg(&self.stream).arg(">");
        let (closed, mut wait) = (server.closed.clone(), BACK_OFF.0);
        let mut last = wire::EntryId::default();
        while !stop.is_raised() && !closed.is_raised() {
            let connected = select! {
                biased;
                () = closed.raised() => return,
                connected = line.connect() => connected,
            };
            let answer = match connected {
                Ok(()) => line.ask(&read, BLOCK).await.map_err(|error| {
                    (
                        error::is_no_group(&error),
                        error::of("receive", &self.stream, &error),
                    )
                }),
                Err(error) => Err((false, error)),
            };
            match answer {
                Ok(found) => {
                    wait = BACK_OFF.0;
                    for stream in value::list(found) {
                        for entry in value::list(value::list(stream).pop().unwrap_or_default()) {
                            let Some((id, read)) =
                                wire::entry(&self.message, QoS::AtMostOnce, entry)
                            else {
                                continue;
                            };
                            // A server that was killed may have forgotten what it handed out.
                            if id > last {
                                last = id;
                                ring.push(read.envelope);
                            }
                        }
                    }
                    continue;
                }
                Err((true, _)) => {
                    tracing::warn!(message = %self.message, group = self.group, "the group was gone, and is made again");
                    if let Err(error) = self.ensure(&server).await {
                        tracing::debug!(message = %self.message, %error, "the group was not made again");
                    }
                }
                Err((false, error)) => {
                    tracing::debug!(message = %self.message, %error, "nothing can be received now");
                }
            }
            pause(wait, &stop, &closed).await;
            wait = (wait * 2).min(BACK_OFF.1);
        }
    }
}

#[async_trait]
impl Subscription for RingSubscription {
    async fn recv(&mut self, max: usize, into: &mut Vec<Delivery>) -> Result<(), Error> {
        // A full ring must not keep its consumer from yielding to the tasks beside it.
        consume_budget().await;
        loop {
            if self.left || self.connection.server.closed.is_raised() {
                self.leave();
                return Err(error::closed("receive"));
            }
            let before = into.len();
            let waiting = std::iter::from_fn(|| self.ring.queue.pop()).take(max.max(1));
            into.extend(waiting.map(Delivery::unacknowledged));
            if into.len() > before {
                return Ok(());
            }
            select! {
                biased;
                () = self.connection.server.closed.raised() => {}
                () = self.ring.ready.notified() => {}
            }
        }
    }

    async fn close(&mut self) -> Result<(), Error> {
        self.leave();
        Ok(())
    }

    /// Nobody settles what is handled at most once: no number of deliveries is held.
    fn set_max_in_flight(&mut self, _max_in_flight: usize) {}

    fn stats_reader(&self) -> StatsReader {
        let ring = Arc::clone(&self.ring);
        StatsReader::new(move || {
            let dropped = ring.dropped.load(Ordering::Relaxed);
            SubscriptionStats::new(dropped, Some(ring.queue.len() as u64))
        })
    }
}

impl Drop for RingSubscription {
    fn drop(&mut self) {
        self.leave();
    }
}
