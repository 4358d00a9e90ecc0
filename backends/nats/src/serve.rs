//! A node's side of requests: taking them, and answering.

mod receipt;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_nats::{HeaderMap, Message, Subject, Subscriber};
use catga_core::{
    Bytes, Delivery, Envelope, Error, ErrorKind, Name, QoS, RemoteError, Reply, Retry, Serve,
    StatsReader, Subscription, SubscriptionStats, async_trait,
};
use futures_util::StreamExt;
use tokio::select;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use self::receipt::RequestReceipt;
use crate::connection::Connection;
use crate::request::{Asked, write};
use crate::room::Room;
use crate::{error, wire};

/// How many requests wait here before others are told to go elsewhere.
const QUEUE: usize = 1024;

/// A node that takes the requests of one name.
#[derive(Debug)]
pub(crate) struct ServeSubscription {
    connection: Arc<Connection>,
    request: Name,
    room: Arc<Room>,
    max_in_flight: Arc<AtomicUsize>,
    arrived: mpsc::Receiver<Arrived>,
    /// Where what is put off comes again.
    again: mpsc::Sender<Arrived>,
    taker: JoinHandle<()>,
    /// Tells the taker to unsubscribe.
    leaving: Arc<Notify>,
    left: bool,
}

/// A request, and when it came: from then on its caller's time runs here.
#[derive(Debug)]
struct Arrived {
    envelope: Envelope,
    caller: Caller,
}

/// Who waits for an answer.
#[derive(Clone, Debug)]
struct Caller {
    reply: Subject,
    /// What it tells; others may ask too, and expect an answer as long as they wait.
    asked: Option<Asked>,
    at: Instant,
}

impl Arrived {
    /// Reads a request; `None` for one that nobody waits for.
    fn read(request: &Name, message: Message) -> Option<Self> {
        let reply = message.reply?;
        let asked = Asked::read(&reply);
        let envelope = wire::envelope(
            request.clone(),
            QoS::AtLeastOnce,
            message.headers.as_ref(),
            message.payload,
        );
        let envelope = match asked {
            Some(asked) => envelope.with_id(asked.id),
            None => envelope,
        };
        let at = Instant::now();
        let caller = Caller { reply, asked, at };
        Some(Self { envelope, caller })
    }
}

impl ServeSubscription {
    /// Joins the servers: when this returns, requests find this node.
    pub(crate) async fn join(connection: Arc<Connection>, serve: &Serve) -> Result<Self, Error> {
        let names = &connection.names;
        let to_service = names.to_service(&serve.service, &serve.request);
        let to_node = names.to_node(&serve.node, &serve.request);
        let queue = Some(serve.service.as_str().to_owned());
        let of_service = connection.subscribe("serve", to_service, queue).await?;
        // Of two processes with one id, while that is so, one is to run a request.
        let queue = Some(serve.node.as_str().to_owned());
        let of_node = connection.subscribe("serve", to_node, queue).await?;
        let (sender, arrived) = mpsc::channel(QUEUE);
        let leaving = Arc::new(Notify::new());
        let taker = Taker {
            leaving: Arc::clone(&leaving),
            connection: Arc::clone(&connection),
            request: serve.request.clone(),
            arrived: sender.clone(),
        };
        Ok(Self {
            connection,
            request: serve.request.clone(),
            room: Arc::default(),
            max_in_flight: Arc::new(AtomicUsize::new(serve.max_in_flight.max(1))),
            arrived,
            again: sender,
            taker: tokio::spawn(taker.run(of_service, of_node)),
            leaving,
            left: false,
        })
    }

    /// A delivery, unless its caller has given up.
    fn delivery(&self, Arrived { envelope, caller }: Arrived, now: Instant) -> Option<Delivery> {
        let asked = caller.asked;
        let left = asked.and_then(|asked| asked.time_left);
        let left = left.map(|left| left.saturating_sub(now.saturating_duration_since(caller.at)));
        if left.is_some_and(|left| left.is_zero()) {
            return None;
        }
        let receipt = RequestReceipt {
            connection: Arc::clone(&self.connection),
            caller: Some(caller),
            again: self.again.clone(),
            request: self.request.clone(),
            _place: self.room.take(),
        };
        let delivery = Delivery::new(envelope, Box::new(receipt));
        let delivery = delivery.with_count(asked.map_or(1, |asked| asked.attempt));
        Some(match left {
            Some(left) => delivery.with_time_left(left),
            None => delivery,
        })
    }

    /// Ends the subscriptions; who waits here is told to go elsewhere.
    fn leave(&mut self) {
        if std::mem::replace(&mut self.left, true) {
            return;
        }
        // From here on the taker sends away what still comes.
        self.arrived.close();
        // Nobody has begun them.
        let mut waiting = Vec::new();
        while let Ok(arrived) = self.arrived.try_recv() {
            waiting.push(arrived.caller.reply);
        }
        if !waiting.is_empty()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let connection = Arc::clone(&self.connection);
            let request = self.request.clone();
            runtime.spawn(async move {
                for reply in waiting {
                    refuse(&connection, &request, reply).await;
                }
            });
        }
    }
}

/// Notes when requests come, also while nobody receives.
struct Taker {
    leaving: Arc<Notify>,
    connection: Arc<Connection>,
    request: Name,
    arrived: mpsc::Sender<Arrived>,
}

impl Taker {
    async fn run(self, mut of_service: Subscriber, mut of_node: Subscriber) {
        loop {
            let message = select! {
                biased;
                () = self.leaving.notified() => break,
                message = of_node.next() => message,
                message = of_service.next() => message,
            };
            let Some(message) = message else {
                return;
            };
            let Some(arrived) = Arrived::read(&self.request, message) else {
                continue;
            };
            if let Err(refused) = self.arrived.try_send(arrived) {
                let reply = refused.into_inner().caller.reply;
                refuse(&self.connection, &self.request, reply).await;
            }
        }
        for mut subscriber in [of_node, of_service] {
            // What is on its way comes before it ends.
            if subscriber.drain().await.is_ok() {
                while let Some(message) = subscriber.next().await {
                    if let Some(reply) = message.reply {
                        refuse(&self.connection, &self.request, reply).await;
                    }
                }
            }
        }
    }
}

/// Sends away a request that nobody here has begun, nor will.
async fn refuse(connection: &Connection, request: &Name, reply: Subject) {
    let text = format!("this node takes no more requests `{request}` now: ask another");
    let error = Error::new(ErrorKind::Unavailable, "request", text).with_retry(Retry::Now);
    // Who is not told asks again when its time is over.
    let _ = answer(connection, reply, &Reply::err(RemoteError::new(&error))).await;
}

async fn answer(connection: &Connection, to: Subject, reply: &Reply) -> Result<(), Error> {
    let (headers, payload) = written(connection, reply);
    let by = connection.call_deadline();
    connection.publish("settle", to, headers, payload, by).await
}

/// A reply that the server takes: what is too large is an error that says so.
fn written(connection: &Connection, reply: &Reply) -> (Option<HeaderMap>, Bytes) {
    let (headers, payload) = write(reply);
    if payload.len() > connection.max_payload() {
        let text = format!(
            "the response has {} bytes, and the server takes {}",
            payload.len(),
            connection.max_payload()
        );
        let error = Error::new(ErrorKind::PayloadTooLarge, "request", text).with_unknown_outcome();
        return write(&Reply::err(RemoteError::new(&error)));
    }
    (headers, payload)
}

#[async_trait]
impl Subscription for ServeSubscription {
    async fn recv(&mut self, max: usize, into: &mut Vec<Delivery>) -> Result<(), Error> {
        let before = into.len();
        let connection = Arc::clone(&self.connection);
        // For all that are taken in one go: the clock costs as much as the rest.
        let mut now = None;
        loop {
            if self.left || connection.closed.is_raised() {
                self.leave();
                return Err(error::closed("receive"));
            }
            let limit = self.max_in_flight.load(Ordering::Relaxed);
            let has_room = self.room.held() < limit;
            if has_room
                && into.len() - before < max.max(1)
                && let Ok(arrived) = self.arrived.try_recv()
            {
                let now = *now.get_or_insert_with(Instant::now);
                into.extend(self.delivery(arrived, now));
                continue;
            }
            if into.len() > before {
                return Ok(());
            }
            select! {
                biased;
                () = connection.closed.raised() => {}
                arrived = self.arrived.recv(), if has_room => match arrived {
                    Some(arrived) => {
                        let now = *now.insert(Instant::now());
                        into.extend(self.delivery(arrived, now));
                    }
                    None => return Err(error::closed("receive")),
                },
                () = self.room.freed(), if !has_room => now = None,
            }
        }
    }

    async fn close(&mut self) -> Result<(), Error> {
        self.leave();
        // Until the server knows, it sends requests here.
        if !self.taker.is_finished()
            && self.connection.link.is_connected()
            && !self.connection.closed.is_raised()
        {
            self.leaving.notify_one();
            let _ = timeout_at(self.connection.call_deadline(), &mut self.taker).await;
            self.connection.round_trip("close").await?;
        }
        Ok(())
    }

    fn set_max_in_flight(&mut self, max_in_flight: usize) {
        self.max_in_flight
            .store(max_in_flight.max(1), Ordering::Relaxed);
    }

    fn stats_reader(&self) -> StatsReader {
        StatsReader::new(SubscriptionStats::default)
    }
}

impl Drop for ServeSubscription {
    fn drop(&mut self) {
        self.leave();
        self.taker.abort();
    }
}
