//! What a server of requests shares with its receipts: reading them, handing them on, and answering.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use catga_core::{Delivery, Envelope, Error, ErrorKind, Name, QoS, RemoteError, Reply, Retry};
use redis::Value;
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::receipt::RequestReceipt;
use crate::closed::Closed;
use crate::connection::Connection;
use crate::reader::{BLOCK, Blocking, Line, pause};
use crate::request::{Asked, write_reply};
use crate::room::Room;
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

/// What the tasks and the receipts of a server of requests share.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) connection: Arc<Connection>,
    pub(super) request: Name,
    /// That of the service, and that of the node.
    pub(super) streams: [String; 2],
    pub(super) consumer: String,
    pub(super) room: Arc<Room>,
    pub(super) max_in_flight: AtomicUsize,
    /// What was read, and not received yet.
    pub(super) waiting: AtomicUsize,
    /// The server's clock less ours, in milliseconds, at least.
    pub(super) clock: AtomicI64,
    pub(super) leaving: Closed,
    pub(super) again: mpsc::UnboundedSender<Arrived>,
}

/// A request, and when its caller began to wait by our clock.
#[derive(Clone, Debug)]
pub(super) struct Arrived {
    pub(super) envelope: Envelope,
    pub(super) asked: Asked,
    pub(super) since: Instant,
    /// Whether it was sent to this node by name.
    pub(super) by_name: bool,
}

impl Desk {
    /// Says that this node reads here, and sets our clock by the server's.
    pub(super) async fn announce(&self, operation: &'static str) -> Result<(), Error> {
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

    pub(super) async fn keep_announcing(self: Arc<Self>) {
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
    pub(super) async fn read(self: Arc<Self>, blocking: Arc<Blocking>) {
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
    pub(super) fn delivery(self: &Arc<Self>, arrived: Arrived) -> Option<Delivery> {
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

    pub(super) fn job(&self, address: &str, reply: &Reply) -> Job {
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
        let bytes = frame.len();
        let mut publish = wire::command("PUBLISH", 3, bytes);
        publish.arg(channel).arg(frame);
        Job {
            before: None,
            cmd: publish,
            bytes,
            slot: hash(channel),
            then: Then::Nothing,
        }
    }

    pub(super) async fn answer(&self, address: &str, reply: &Reply) -> Result<(), Error> {
        let server = &self.connection.server;
        server.check_open("settle")?;
        let by = server.call_deadline();
        server.link.live("settle", by).await?;
        let job = self.job(address, reply);
        self.connection.writer.send("settle", job, by).await
    }

    /// Tells a caller to ask somebody else. One that is not told asks again when its time is over.
    pub(super) fn refuse(&self, address: &str, began: bool) {
        let job = self.job(address, &self.given_back(began));
        let _ = self.connection.writer.try_send("settle", job);
    }

    /// Leaves a request that was not begun to the other nodes of its service. What was sent to this one by name is nobody
    /// else's.
    pub(super) async fn hand_on(&self, arrived: Arrived) {
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

    pub(super) fn given_back(&self, began: bool) -> Reply {
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

    pub(super) async fn retire(&self) -> Result<(), Error> {
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
