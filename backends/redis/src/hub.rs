//! What is published to channels: one connection for all of them, made again when it breaks.
//!
//! The client's own stream ends with its connection, and does not subscribe again.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use catga_core::Error;
use futures_util::{FutureExt, StreamExt};
use redis::Msg;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::error;
use crate::link::jittered;
use crate::replies::Replies;
use crate::server::Server;

/// How often a silent connection is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// The first and the longest wait between two tries to connect.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
/// The most messages that are handed out before orders are looked at.
const AT_ONCE: usize = 64;
/// How many orders wait before their senders do.
const QUEUE: usize = 256;

/// Takes what is published to a channel: quickly, since all channels wait for it.
pub(crate) type Listener = Arc<dyn Fn(Vec<u8>) + Send + Sync>;

enum Order {
    Listen {
        channel: String,
        number: u64,
        listener: Listener,
        ready: oneshot::Sender<()>,
    },
    Leave {
        channel: String,
        number: u64,
    },
}

/// The way to the task that owns the connection.
pub(crate) struct Hub {
    orders: mpsc::Sender<Order>,
    replies: Arc<Replies>,
    /// Whether replies are listened to.
    listening: tokio::sync::OnceCell<Listening>,
    server: Arc<Server>,
}

/// A channel that is listened to, until this is dropped.
pub(crate) struct Listening {
    orders: mpsc::Sender<Order>,
    channel: String,
    number: u64,
}

impl Hub {
    pub(crate) fn spawn(server: Arc<Server>, replies: Arc<Replies>) -> Self {
        let (orders, queue) = mpsc::channel(QUEUE);
        let task = Task {
            server: Arc::clone(&server),
            replies: Arc::clone(&replies),
            channels: HashMap::new(),
        };
        tokio::spawn(task.run(queue));
        Self {
            orders,
            replies,
            listening: tokio::sync::OnceCell::new(),
            server,
        }
    }

    /// Listens to a channel: when this returns, what is published comes.
    pub(crate) async fn listen(
        &self,
        operation: &'static str,
        channel: String,
        listener: Listener,
        by: Instant,
    ) -> Result<Listening, Error> {
        let number = fastrand::u64(..);
        let (ready, heard) = oneshot::channel();
        let listening = Listening {
            orders: self.orders.clone(),
            channel: channel.clone(),
            number,
        };
        let order = Order::Listen {
            channel,
            number,
            listener,
            ready,
        };
        let sent = self.orders.send(order).await;
        sent.map_err(|_| error::closed(operation))?;
        match timeout_at(by, heard).await {
            Ok(Ok(())) => Ok(listening),
            Ok(Err(_)) if self.server.closed.is_raised() => Err(error::closed(operation)),
            Ok(Err(_)) => Err(Error::new(
                catga_core::ErrorKind::Permission,
                operation,
                format!(
                    "the server does not let this user listen to `{}`: grant it, as the README of catga-redis lists",
                    listening.channel
                ),
            )),
            Err(_) => Err(error::not_connected(operation, None)),
        }
    }

    /// Listens to the replies to our requests, from the first on.
    pub(crate) async fn listen_to_replies(
        &self,
        operation: &'static str,
        by: Instant,
    ) -> Result<(), Error> {
        if self.listening.initialized() {
            return Ok(());
        }
        let listen = async || {
            let replies = Arc::clone(&self.replies);
            let listener: Listener = Arc::new(move |frame| replies.deliver(frame));
            let channel = self.replies.channel().to_owned();
            self.listen(operation, channel, listener, by).await
        };
        // A box, as for all that is seldom waited for: the futures of requests stay small.
        Box::pin(self.listening.get_or_try_init(listen))
            .await
            .map(drop)
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hub")
    }
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listening").field(&self.channel).finish()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let order = Order::Leave {
            channel: std::mem::take(&mut self.channel),
            number: self.number,
        };
        if let Err(mpsc::error::TrySendError::Full(order)) = self.orders.try_send(order)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let orders = self.orders.clone();
            runtime.spawn(async move { orders.send(order).await });
        }
    }
}

/// Who listens to a channel.
struct Ear {
    number: u64,
    listener: Listener,
    /// Told when the server has confirmed it.
    ready: Option<oneshot::Sender<()>>,
}

struct Task {
    server: Arc<Server>,
    replies: Arc<Replies>,
    channels: HashMap<String, Vec<Ear>>,
}

impl Task {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let closed = self.server.closed.clone();
        let mut wait = BACK_OFF.0;
        loop {
            let connected = select! {
                biased;
                () = closed.raised() => return,
                connected = self.connect(&mut orders) => connected,
            };
            match connected {
                // All handles are gone.
                None => return,
                Some(Ok((sink, stream))) => {
                    wait = BACK_OFF.0;
                    select! {
                        biased;
                        () = closed.raised() => return,
                        ended = self.serve(sink, stream, &mut orders) => {
                            self.replies.set_listening(false);
                            if ended {
                                return;
                            }
                        }
                    }
                    tracing::debug!("the connection for channels was lost; it is being made again");
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "channels cannot be listened to");
                    let again = Instant::now() + jittered(wait);
                    wait = (wait * 2).min(BACK_OFF.1);
                    loop {
                        select! {
                            biased;
                            () = closed.raised() => return,
                            order = orders.recv() => match order {
                                Some(order) => { self.note(order); }
                                None => return,
                            },
                            () = sleep_until(again) => break,
                        }
                    }
                }
            }
        }
    }

    /// Connects as soon as somebody listens.
    async fn connect(
        &mut self,
        orders: &mut mpsc::Receiver<Order>,
    ) -> Option<Result<(PubSubSink, PubSubStream), Error>> {
        while self.channels.is_empty() {
            let order = orders.recv().await?;
            self.note(order);
        }
        Some(
            self.server
                .factory
                .pubsub()
                .await
                .map(redis::aio::PubSub::split),
        )
    }

    /// Notes who listens; the channel when it is new, or nobody listens to it any more.
    fn note(&mut self, order: Order) -> Option<(String, bool)> {
        match order {
            Order::Listen {
                channel,
                number,
                listener,
                ready,
            } => {
                let ear = Ear {
                    number,
                    listener,
                    ready: Some(ready),
                };
                self.channels.entry(channel.clone()).or_default().push(ear);
                Some((channel, true))
            }
            Order::Leave { channel, number } => {
                let ears = self.channels.get_mut(&channel)?;
                ears.retain(|ear| ear.number != number);
                if !ears.is_empty() {
                    return None;
                }
                self.channels.remove(&channel);
                Some((channel, false))
            }
        }
    }

    /// Hands out what comes, until the connection breaks; whether everything has ended.
    async fn serve(
        &mut self,
        mut sink: PubSubSink,
        mut stream: PubSubStream,
        orders: &mut mpsc::Receiver<Order>,
    ) -> bool {
        let all: Vec<_> = self.channels.keys().cloned().collect();
        for channel in all {
            if !self.subscribe(&mut sink, &channel).await {
                return false;
            }
        }
        // Who waited for a reply meanwhile has to ask again.
        let listening = self.channels.contains_key(self.replies.channel());
        self.replies.set_listening(listening);
        let patience = self.server.settings.call_timeout;
        loop {
            select! {
                biased;
                order = orders.recv() => {
                    let Some(order) = order else {
                        return true;
                    };
                    let kept = match self.note(order) {
                        None => true,
                        Some((channel, true)) => self.subscribe(&mut sink, &channel).await,
                        Some((channel, false)) => {
                            matches!(timeout(patience, sink.unsubscribe(channel)).await, Ok(Ok(())))
                        }
                    };
                    if !kept {
                        return false;
                    }
                }
                message = stream.next() => match message {
                    Some(message) => {
                        self.hand_out(&message);
                        // What has come with it goes with it: to look at all else costs as much as to hand one out. Not more than a
                        // task may do in its turn: who handles them is to have one, too.
                        for _ in 1..AT_ONCE {
                            match stream.next().now_or_never() {
                                Some(Some(message)) => self.hand_out(&message),
                                // One that has ended says so again.
                                _ => break,
                            }
                        }
                    }
                    None => return false,
                },
                () = sleep(KEEP_ALIVE) => {
                    let ping = timeout(patience, sink.ping::<redis::Value>()).await;
                    if !matches!(ping, Ok(Ok(_))) {
                        return false;
                    }
                }
            }
        }
    }

    /// Whether the connection is of use.
    async fn subscribe(&mut self, sink: &mut PubSubSink, channel: &str) -> bool {
        let patience = self.server.settings.call_timeout;
        match timeout(patience, sink.subscribe(channel)).await {
            Ok(Ok(())) => {
                for ear in self.channels.get_mut(channel).into_iter().flatten() {
                    if let Some(ready) = ear.ready.take() {
                        // Who asked may be gone.
                        let _ = ready.send(());
                    }
                }
                true
            }
            Ok(Err(error)) if error::is_answer(&error) => {
                tracing::warn!(channel, %error, "a channel cannot be listened to");
                // Who waits for it is told by the end of its channel.
                self.channels.remove(channel);
                true
            }
            _ => false,
        }
    }

    fn hand_out(&self, message: &Msg) {
        let channel = message.get_channel_name();
        for ear in self.channels.get(channel).into_iter().flatten() {
            (ear.listener)(message.get_payload_bytes().to_vec());
        }
    }
}
