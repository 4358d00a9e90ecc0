//! A node's side of requests: taking them from the stream of its service and its own, and answering.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use catga_core::{
    Delivery, Envelope, Error, ErrorKind, MessageId, Name, QoS, ReasonKind, Receipt, RemoteError,
    Reply, Retry, Serve, Settlement, StatsReader, Subscription, SubscriptionStats, async_trait,
};
use redis::Value;
use tokio::select;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use crate::closed::Closed;
use crate::connection::Connection;
use crate::reader::{BLOCK, Blocking, Line, pause};
use crate::request::{Asked, write_reply};
use crate::room::{Place, Room};
use crate::route::hash;
use crate::server::Server;
use crate::time::millis;
use crate::wire::{self, EntryId, Read};
use crate::writer::{Job, Then};
use crate::{error, script, value};

/// The group of all streams of requests.
const GROUP: &str = "serve";
/// The first and the longest wait between two tries.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
/// The most requests of one read.
const MOST: usize = 256;

/// A node that takes the requests of one name.
#[derive(Debug)]
pub(crate) struct ServeSubscription {
    desk: Arc<Desk>,
    arrived: mpsc::UnboundedReceiver<Arrived>,
    blocking: Arc<Blocking>,
    tasks: Vec<JoinHandle<()>>,
    left: bool,
}

/// What the tasks and the receipts of a server of requests share.
#[derive(Debug)]
struct Desk {
    connection: Arc<Connection>,
    request: Name,
    /// That of the service, and that of the node.
    streams: [String; 2],
    consumer: String,
    room: Arc<Room>,
    max_in_flight: AtomicUsize,
    /// What was read, and not received yet.
    waiting: AtomicUsize,
    /// The server's clock less ours, in milliseconds, at least.
    clock: AtomicI64,
    leaving: Closed,
    again: mpsc::UnboundedSender<Arrived>,
}

/// A request, and when its caller began to wait by our clock.
#[derive(Clone, Debug)]
struct Arrived {
    envelope: Envelope,
    asked: Asked,
    since: Instant,
    /// Whether it was sent to this node by name.
    by_name: bool,
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

impl Desk {
    /// Says that this node reads here, and sets our clock by the server's.
    async fn announce(&self, operation: &'static str) -> Result<(), Error> {
        let server = &self.connection.server;
        for stream in &self.streams {
            let mut call = script::SERVING.call(1);
            call.arg(stream).arg(GROUP).arg(&self.consumer);
            call.arg(millis(server.settings.node_timeout));
            let told = server
                .run(operation, stream, &script::SERVING, &call)
                .await?;
            let told = value::list(told);
            let ours = now_millis();
            let theirs = told.get(1).and_then(value::int).unwrap_or(ours);
            // As if the answer had taken no time: a request is rather taken for younger than it is, so that its time is not over
            // here while its caller still waits. The number of an entry has no parts of a millisecond.
            self.clock.store(theirs - ours - 1, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn keep_announcing(self: Arc<Self>) {
        let server = &self.connection.server;
        let every = server.settings.node_timeout / 3;
        let mut wait = every;
        loop {
            pause(wait, &self.leaving, &server.closed).await;
            if self.leaving.is_raised() || server.closed.is_raised() {
                return;
            }
            wait = match self.announce("serve").await {
                Ok(()) => every,
                Err(error) => {
                    tracing::debug!(request = %self.request, %error, "nobody may know that requests are read here");
                    BACK_OFF.1.min(every)
                }
            };
        }
    }

    fn free(&self) -> usize {
        let taken = self.room.held() + self.waiting.load(Ordering::SeqCst);
        self.max_in_flight
            .load(Ordering::Relaxed)
            .saturating_sub(taken)
    }

    /// Reads as many as there are places; the rest waits at the server, for whoever has one.
    async fn read(self: Arc<Self>, blocking: Arc<Blocking>) {
        let server = Arc::clone(&self.connection.server);
        let (leaving, closed) = (self.leaving.clone(), server.closed.clone());
        let mut line = Line::new(&server, blocking);
        let mut wait = BACK_OFF.0;
        while !leaving.is_raised() && !closed.is_raised() {
            let free = self.free().min(MOST);
            if free == 0 {
                select! {
                    biased;
                    () = leaving.raised() => {}
                    () = closed.raised() => {}
                    () = self.room.fetch.notified() => {}
                    () = sleep(BLOCK) => {}
                }
                continue;
            }
            let connected = select! {
                biased;
                () = leaving.raised() => return,
                () = closed.raised() => return,
                connected = line.connect() => connected,
            };
            let failed = match connected {
                Ok(()) => match line.ask(&self.read_command(free), BLOCK).await {
                    Ok(found) => {
                        wait = BACK_OFF.0;
                        self.take(found);
                        continue;
                    }
                    Err(error) if error::is_no_group(&error) => self.announce("receive").await,
                    Err(error) => Err(error::of("receive", &self.streams[0], &error)),
                },
                Err(error) => Err(error),
            };
            if let Err(error) = failed {
                tracing::debug!(request = %self.request, %error, "no requests can be read now");
                pause(wait, &leaving, &closed).await;
                wait = (wait * 2).min(BACK_OFF.1);
            }
        }
    }

    fn read_command(&self, free: usize) -> redis::Cmd {
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(GROUP).arg(&self.consumer);
        // The count is for each of the streams.
        read.arg("COUNT").arg(free.div_ceil(self.streams.len()));
        read.arg("BLOCK")
            .arg(millis(BLOCK))
            .arg("NOACK")
            .arg("STREAMS");
        for stream in &self.streams {
            read.arg(stream);
        }
        read.arg(">").arg(">");
        read
    }

    fn take(&self, found: Value) {
        for stream in value::list(found) {
            let mut parts = value::list(stream);
            let entries = value::list(parts.pop().unwrap_or_default());
            let by_name = parts.first().and_then(value::text) == Some(&self.streams[1]);
            for entry in entries {
                let Some(arrived) = self.arrival(entry, by_name) else {
                    continue;
                };
                self.waiting.fetch_add(1, Ordering::SeqCst);
                if let Err(left) = self.again.send(arrived) {
                    self.waiting.fetch_sub(1, Ordering::SeqCst);
                    self.refuse(&left.0.asked.reply, false);
                }
            }
        }
    }

    fn arrival(&self, entry: Value, by_name: bool) -> Option<Arrived> {
        let (id, read): (EntryId, Read) = wire::entry(&self.request, QoS::AtLeastOnce, entry)?;
        let Some(asked) = Asked::read(&read) else {
            tracing::debug!(request = %self.request, "a request that nobody waits for");
            return None;
        };
        let age = now_millis() + self.clock.load(Ordering::Relaxed);
        let age = u64::try_from(age).unwrap_or(0).saturating_sub(id.millis);
        let now = Instant::now();
        Some(Arrived {
            envelope: read.envelope.with_id(asked.id),
            asked,
            since: now.checked_sub(Duration::from_millis(age)).unwrap_or(now),
            by_name,
        })
    }

    /// A delivery, unless its caller has given up.
    fn delivery(self: &Arc<Self>, arrived: Arrived) -> Option<Delivery> {
        let left = arrived.asked.time_left;
        let left = left.map(|left| left.saturating_sub(arrived.since.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            return None;
        }
        let attempt = arrived.asked.attempt;
        let receipt = RequestReceipt {
            desk: Arc::clone(self),
            asked: Some(arrived.asked),
            since: arrived.since,
            by_name: arrived.by_name,
            _place: self.room.take(),
        };
        let delivery = Delivery::new(arrived.envelope, Box::new(receipt)).with_count(attempt);
        Some(match left {
            Some(left) => delivery.with_time_left(left),
            None => delivery,
        })
    }

    fn job(&self, address: &str, reply: &Reply) -> Job {
        let (channel, mut frame) = write_reply(address, reply);
        let max = self.connection.server.settings.max_payload;
        if frame.len() > max {
            let text = format!(
                "the response has {} bytes, and {max} are allowed",
                frame.len()
            );
            let error = Error::new(ErrorKind::PayloadTooLarge, "request", text);
            let error = RemoteError::new(&error.with_unknown_outcome());
            (_, frame) = write_reply(address, &Reply::err(error));
        }
        let mut publish = wire::command("PUBLISH", 3, frame.len());
        publish.arg(channel).arg(frame);
        Job {
            before: None,
            cmd: publish,
            slot: hash(channel),
            then: Then::Nothing,
        }
    }

    async fn answer(&self, address: &str, reply: &Reply) -> Result<(), Error> {
        let server = &self.connection.server;
        server.check_open("settle")?;
        let by = server.call_deadline();
        server.link.live("settle", by).await?;
        let job = self.job(address, reply);
        self.connection.writer.send("settle", job, by).await
    }

    /// Tells a caller to ask somebody else. One that is not told asks again when its time is over.
    fn refuse(&self, address: &str, began: bool) {
        let job = self.job(address, &self.given_back(began));
        let _ = self.connection.writer.try_send("settle", job);
    }

    /// Leaves a request that was not begun to the other nodes of its service. What was sent to this one by name is nobody
    /// else's.
    async fn hand_on(&self, arrived: Arrived) {
        let Arrived {
            envelope,
            mut asked,
            since,
            by_name,
        } = arrived;
        if by_name {
            // Who is not told asks again when its time is over.
            let _ = self.answer(&asked.reply, &self.nobody()).await;
            return;
        }
        let left = asked
            .time_left
            .map(|left| left.saturating_sub(since.elapsed()));
        asked.time_left = left;
        let payload = envelope.payload().as_bytes().cloned().unwrap_or_default();
        let mut add = redis::cmd("XADD");
        add.arg(&self.streams[0]).arg("NOMKSTREAM").arg("*");
        asked.add(&mut add);
        wire::add_fields(&mut add, &envelope, None, &payload);
        let server = &self.connection.server;
        let by = server.call_deadline();
        let added = server.call("close", &self.streams[0], &add, by).await;
        let told = match &added {
            Ok(Value::BulkString(_)) => return,
            // Another may have it already.
            Err(error) if error.may_be_stored() => self.given_back(true),
            _ => self.nobody(),
        };
        let _ = self.answer(&asked.reply, &told).await;
    }

    fn nobody(&self) -> Reply {
        let text = format!("the node that took `{}` left before it began", self.request);
        let error = Error::new(ErrorKind::NoResponders, "request", text);
        Reply::err(RemoteError::new(&error))
    }

    fn given_back(&self, began: bool) -> Reply {
        let text = format!(
            "the request `{}` was given back by this node: ask again",
            self.request
        );
        let error = Error::new(ErrorKind::Unavailable, "request", text).with_retry(Retry::Now);
        Reply::err(RemoteError::new(&if began {
            error.with_unknown_outcome()
        } else {
            error
        }))
    }

    async fn retire(&self) -> Result<(), Error> {
        let server: &Server = &self.connection.server;
        for stream in &self.streams {
            let mut call = script::RETIRE.call(1);
            call.arg(stream).arg(GROUP).arg(&self.consumer);
            let left = server.run("close", stream, &script::RETIRE, &call).await?;
            for entry in value::list(left) {
                if let Some(arrived) = self.arrival(entry, false) {
                    self.answer(&arrived.asked.reply, &self.nobody()).await?;
                }
            }
        }
        Ok(())
    }
}

fn now_millis() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
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

/// The right and the duty to answer one request. Dropped unsettled, its caller is told to ask again.
#[derive(Debug)]
struct RequestReceipt {
    desk: Arc<Desk>,
    /// Taken when it is settled.
    asked: Option<Asked>,
    since: Instant,
    by_name: bool,
    _place: Place,
}

impl RequestReceipt {
    async fn answer(&mut self, reply: &Reply) -> Result<(), Error> {
        let asked = self.asked.take().expect("settled once, by value");
        self.desk.answer(&asked.reply, reply).await
    }

    async fn fail(&mut self, kind: ErrorKind, message: impl Into<String>) -> Result<(), Error> {
        // Who settles a request without an answer has had it in hand.
        let error = Error::new(kind, "request", message)
            .with_retry(Retry::Never)
            .with_unknown_outcome();
        self.answer(&Reply::err(RemoteError::new(&error))).await
    }

    /// It waits here, and comes again; where this node leaves meanwhile, its caller asks somebody else.
    fn put_off(&mut self, envelope: Envelope, after: Duration, began: bool) {
        let Some(asked) = self.asked.take() else {
            return;
        };
        let arrived = Arrived {
            envelope,
            asked,
            since: self.since,
            by_name: self.by_name,
        };
        let desk = Arc::clone(&self.desk);
        tokio::spawn(async move {
            select! {
                biased;
                () = desk.connection.server.closed.raised() => {}
                () = desk.leaving.raised() => {}
                () = sleep(after) => {}
            }
            let address = arrived.asked.reply.clone();
            desk.waiting.fetch_add(1, Ordering::SeqCst);
            if desk.leaving.is_raised() || desk.again.send(arrived).is_err() {
                desk.waiting.fetch_sub(1, Ordering::SeqCst);
                desk.refuse(&address, began);
            }
        });
    }
}

impl Drop for RequestReceipt {
    fn drop(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.desk.refuse(&asked.reply, true);
        }
    }
}

#[async_trait]
impl Receipt for RequestReceipt {
    async fn settle(
        mut self: Box<Self>,
        envelope: Envelope,
        settlement: Settlement,
    ) -> Result<(), Error> {
        match settlement {
            // No claim of ours is known here.
            Settlement::Complete(completion) if completion.claim.is_some() => {
                Err(error::foreign_claim("settle"))
            }
            Settlement::Complete(completion) => match completion.response {
                Some(reply) => self.answer(&reply).await,
                None => {
                    let text = "the request was handled without a response";
                    self.fail(ErrorKind::Handler, text).await
                }
            },
            Settlement::Ack => {
                let text = "the request was acked without a response";
                self.fail(ErrorKind::Handler, text).await
            }
            Settlement::Nak { after } => {
                self.put_off(envelope, after, true);
                Ok(())
            }
            Settlement::Defer { after } => {
                self.put_off(envelope, after, false);
                Ok(())
            }
            Settlement::Release { began } => {
                let reply = self.desk.given_back(began);
                self.answer(&reply).await
            }
            Settlement::Term => {
                self.fail(ErrorKind::Handler, "the request was dropped")
                    .await
            }
            Settlement::DeadLetter { reason, .. } => {
                let kind = match reason.kind {
                    ReasonKind::Decode => ErrorKind::Decode,
                    ReasonKind::NoHandler => ErrorKind::NoHandler,
                    _ => ErrorKind::Handler,
                };
                self.fail(kind, reason.to_string()).await
            }
            _ => Err(error::unknown_settlement()),
        }
    }

    /// An answer is queued: no task is made to wait for nothing.
    fn try_settle(&mut self, settlement: &Settlement) -> Option<Result<(), Error>> {
        let Settlement::Complete(completion) = settlement else {
            return None;
        };
        let server = &self.desk.connection.server;
        if completion.claim.is_some() || server.closed.is_raised() || !server.link.is_connected() {
            return None;
        }
        let response = completion.response.as_ref()?;
        let job = self.desk.job(&self.asked.as_ref()?.reply, response);
        let told = self.desk.connection.writer.try_send("settle", job)?;
        self.asked = None;
        Some(told)
    }

    /// A request has no lease: its caller's deadline bounds it.
    async fn extend(&mut self) -> Result<(), Error> {
        Ok(())
    }
}
