//! The NATS driver: transport and subscriptions. Inbox, registry and dead letters are in `nats_stores`.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, stream};
use async_nats::{Client, HeaderMap, StatusCode, Subject};
use bytes::Bytes;
use catga_core::{
    Backend, BackendUrl, Capabilities, Capability, ConnectOptions, ConnectionState, Consumers,
    Delivery, Driver, Envelope, Error, ErrorKind, Headers, MessageId, Name, Published, QoS, Reason,
    Receipt, Reply, Serve, Settlement, Start, Subscribe, Subscription, SubscriptionStats, Target,
    Transport, async_trait,
};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::oneshot;

use crate::shared::{Room, Slot, err, given_back, lost, millis, pack, token, unknown, unpack};

pub const GENERATION: &str = "catga-generation";
type Pulled = Result<pull::Batch, Error>;
type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<async_nats::Message>>>>;

#[derive(Debug)]
pub struct NatsDriver;
#[async_trait]
impl Driver for NatsDriver {
    fn name(&self) -> &'static str {
        "nats"
    }
    fn schemes(&self) -> &'static [&'static str] {
        &["nats"]
    }
    fn options(&self) -> &'static [&'static str] {
        &[]
    }
    fn capabilities(&self) -> &'static [Capability] {
        &[
            Capability::AtLeastOnce,
            Capability::ExactlyOnce,
            Capability::Groups,
            Capability::DelayedNak,
            Capability::Persistent,
            Capability::Requests,
            Capability::Nodes,
        ]
    }
    async fn connect(&self, url: &BackendUrl, options: &ConnectOptions) -> Result<Backend, Error> {
        let client = async_nats::ConnectOptions::new()
            .reconnect_delay_callback(|_| Duration::from_millis(100))
            .connect(format!("nats://{}", url.hosts()))
            .await
            .map_err(|e| err(ErrorKind::Connect, "connect", e))?;
        let inbox = client.new_inbox();
        let mut replies = client
            .subscribe(format!("{inbox}.>"))
            .await
            .map_err(|e| err(ErrorKind::Connect, "connect", e))?;
        let waiting = Waiting::default();
        let map = Arc::clone(&waiting);
        tokio::spawn(async move {
            while let Some(m) = replies.next().await {
                if let Some(tx) = map.lock().unwrap().remove(m.subject.as_str()) {
                    let _ = tx.send(m);
                }
            }
        });
        let js = jetstream::new(client.clone());
        let nats = Arc::new(Nats {
            js,
            client,
            ns: options.namespace.clone(),
            inbox,
            waiting,
            ensured: Arc::default(),
        });
        let (inbox, registry, dead) = crate::nats_stores::open(&nats, options.node_timeout).await?;
        Ok(Backend::new("nats", nats)
            .with_inbox(inbox)
            .with_registry(registry)
            .with_dead_letters(dead))
    }
}

#[derive(Debug)]
pub struct Nats {
    pub js: jetstream::Context,
    pub client: Client,
    pub ns: Name,
    inbox: String,
    waiting: Waiting,
    ensured: Arc<Mutex<HashSet<Name>>>,
}

impl Nats {
    pub fn stream_name(&self, name: &Name) -> String {
        format!("{}~{}", self.ns, token(name))
    }
    async fn stream(&self, name: &Name) -> Result<stream::Stream, Error> {
        let (ns, stream) = (&self.ns, self.stream_name(name));
        self.js
            .get_or_create_stream(stream::Config {
                name: stream,
                subjects: vec![format!("{ns}.s.{name}"), format!("{ns}.d.*.{name}")],
                discard: stream::DiscardPolicy::New,
                duplicate_window: Duration::from_secs(120),
                ..Default::default()
            })
            .await
            .map_err(|e| err(ErrorKind::Unavailable, "ensure stream", e))
    }
    /// Publishes into JetStream; one mapping of outcomes for messages, dead letters and redrives.
    pub async fn store(
        &self,
        subject: String,
        m: PublishMessage,
        within: Duration,
    ) -> Result<Published, Error> {
        let ack = tokio::time::timeout(within, async {
            self.js.send_publish(subject, m).await?.await
        })
        .await;
        match ack {
            Ok(Ok(ack)) if ack.duplicate => Ok(Published::duplicate()),
            Ok(Ok(_)) => Ok(Published::new()),
            Err(_) => Err(unknown("publish", "no PubAck within the deadline")),
            Ok(Err(e)) => Err(match e.kind() {
                PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => unknown("publish", e),
                PublishErrorKind::MaxPayloadExceeded => {
                    err(ErrorKind::PayloadTooLarge, "publish", e)
                }
                PublishErrorKind::StreamNotFound => err(ErrorKind::NotFound, "publish", e),
                _ => {
                    let code = std::error::Error::source(&e)
                        .and_then(|s| s.downcast_ref::<jetstream::Error>())
                        .map(|s| s.error_code().0);
                    let kind = match code {
                        Some(10077 | 10023) => ErrorKind::LimitReached,
                        Some(10054) => ErrorKind::PayloadTooLarge,
                        _ => ErrorKind::Unavailable,
                    };
                    err(kind, "publish", format!("{e} (code {code:?})"))
                }
            }),
        }
    }
    /// Settles by request: an empty answer is the confirmation, "no responders" a consumer that is gone.
    async fn confirm(&self, ack: &Subject, body: Bytes) -> Result<(), Error> {
        match tokio::time::timeout(
            Duration::from_secs(2),
            self.client.request(ack.clone(), body),
        )
        .await
        {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(err(ErrorKind::Unavailable, "settle", e)),
            Err(_) => Err(unknown("settle", "no confirmation")),
        }
    }
}

pub fn message(envelope: &Envelope, id: &str) -> Result<PublishMessage, Error> {
    let bytes = envelope
        .payload()
        .as_bytes()
        .ok_or_else(|| err(ErrorKind::Encode, "publish", "not encoded"))?;
    let mut m = PublishMessage::build()
        .payload(bytes.clone())
        .message_id(id);
    if envelope.version() != 1 {
        m = m.header(Headers::VERSION, envelope.version().to_string());
    }
    for (k, v) in envelope.headers().iter() {
        m = m.header(k, v);
    }
    Ok(m)
}
pub fn envelope(
    name: Name,
    headers: &HeaderMap,
    payload: Bytes,
    id: Option<MessageId>,
) -> Envelope {
    let mut ours = Headers::new();
    let mut version = 1;
    for (k, v) in headers.iter() {
        let (k, v) = (k.to_string(), v[0].as_str());
        if k == Headers::VERSION {
            version = v.parse().unwrap_or(1);
        } else if !k.starts_with("Nats-") && !k.starts_with("catga-") {
            let _ = ours.insert(k, v);
        }
    }
    let id = id.or_else(|| {
        headers
            .get("Nats-Msg-Id")
            .and_then(|v| v.as_str().split(':').next()?.parse().ok())
    });
    let e = Envelope::received(name, QoS::AtLeastOnce, payload)
        .with_version(version)
        .with_headers(ours);
    match id {
        Some(id) => e.with_id(id),
        None => e,
    }
}

#[async_trait]
impl Transport for Nats {
    fn capabilities(&self) -> Capabilities {
        NatsDriver
            .capabilities()
            .iter()
            .fold(Capabilities::none(), |c, x| c.with(*x))
            .with_max_payload_bytes(self.client.max_payload())
    }
    fn state(&self) -> ConnectionState {
        match self.client.connection_state() {
            async_nats::connection::State::Connected => ConnectionState::Connected,
            _ => ConnectionState::Reconnecting,
        }
    }
    async fn publish(&self, envelope: &Envelope, deadline: Duration) -> Result<Published, Error> {
        let until = Instant::now() + deadline;
        let id = envelope.id().ok_or_else(|| {
            err(
                ErrorKind::Unsupported,
                "publish",
                "QoS 0 is not in the spike",
            )
        })?;
        let m = message(envelope, &id.to_string())?;
        // Nothing is sent before the stream is known, so a time-out here is a rejection.
        if !self.ensured.lock().unwrap().contains(envelope.name()) {
            tokio::time::timeout(deadline, self.stream(envelope.name()))
                .await
                .map_err(|_| {
                    err(
                        ErrorKind::Timeout,
                        "publish",
                        "the stream could not be ensured",
                    )
                })??;
            self.ensured.lock().unwrap().insert(envelope.name().clone());
        }
        self.store(
            format!("{}.s.{}", self.ns, envelope.name()),
            m,
            until - Instant::now(),
        )
        .await
    }
    async fn subscribe(&self, s: &Subscribe) -> Result<Box<dyn Subscription>, Error> {
        let stream = self.stream(&s.message).await?;
        let group = match &s.consumers {
            Consumers::Group(g) => token(g),
            Consumers::EachNode { group, node } => format!("{}~{}", token(group), token(node)),
            _ => return Err(err(ErrorKind::Unsupported, "subscribe", "consumers")),
        };
        let mut sources = Vec::new();
        for (durable, filter) in [
            (group.clone(), format!("{}.s.{}", self.ns, s.message)),
            (
                format!("{group}~~r"),
                format!("{}.d.{group}.{}", self.ns, s.message),
            ),
        ] {
            let consumer = stream
                .create_consumer(pull::Config {
                    durable_name: Some(durable),
                    filter_subject: filter,
                    ack_policy: AckPolicy::Explicit,
                    ack_wait: s.ack_wait,
                    max_deliver: -1,
                    max_ack_pending: 20_000,
                    deliver_policy: if s.start == Start::New {
                        jetstream::consumer::DeliverPolicy::New
                    } else {
                        jetstream::consumer::DeliverPolicy::All
                    },
                    ..Default::default()
                })
                .await
                .map_err(|e| err(ErrorKind::Conflict, "subscribe", e))?;
            sources.push(Source {
                consumer,
                pulling: None,
                batch: None,
            });
        }
        let nats = Arc::new(Nats {
            js: self.js.clone(),
            client: self.client.clone(),
            ns: self.ns.clone(),
            inbox: self.inbox.clone(),
            waiting: Arc::clone(&self.waiting),
            ensured: Arc::clone(&self.ensured),
        });
        Ok(Box::new(NatsSub {
            nats,
            group,
            sources,
            room: Arc::default(),
            subscribe: s.clone(),
            closed: false,
        }))
    }
    async fn serve(&self, s: &Serve) -> Result<Box<dyn Subscription>, Error> {
        let e = |e: async_nats::SubscribeError| err(ErrorKind::Unavailable, "serve", e);
        let shared = self
            .client
            .queue_subscribe(
                format!("{}.r.{}.{}", self.ns, s.service, s.request),
                s.service.to_string(),
            )
            .await
            .map_err(e)?;
        let own = self
            .client
            .subscribe(format!("{}.n.{}.{}", self.ns, s.node, s.request))
            .await
            .map_err(e)?;
        self.flush().await?;
        Ok(Box::new(NatsServe {
            client: self.client.clone(),
            from: futures_util::stream::select(shared, own),
            request: s.request.clone(),
        }))
    }
    async fn request(
        &self,
        to: &Target,
        envelope: &Envelope,
        attempt: u32,
        left: Duration,
    ) -> Result<Reply, Error> {
        let subject = match to {
            Target::Service(s) => format!("{}.r.{s}.{}", self.ns, envelope.name()),
            Target::Node(n) => format!("{}.n.{n}.{}", self.ns, envelope.name()),
            _ => return Err(err(ErrorKind::Unsupported, "request", "target")),
        };
        let id = envelope.id().expect("a request has an id");
        let reply = format!("{}.{id}.{attempt}.{}", self.inbox, left.as_millis());
        let (tx, rx) = oneshot::channel();
        self.waiting.lock().unwrap().insert(reply.clone(), tx);
        let payload = envelope.payload().as_bytes().expect("encoded").clone();
        let mut headers = HeaderMap::new();
        envelope
            .headers()
            .iter()
            .for_each(|(k, v)| headers.insert(k, v));
        let sent = async {
            if headers.is_empty() {
                self.client
                    .publish_with_reply(subject, reply.clone(), payload)
                    .await
            } else {
                self.client
                    .publish_with_reply_and_headers(subject, reply.clone(), headers, payload)
                    .await
            }
        };
        let answer = tokio::time::timeout(left, async {
            sent.await.ok()?;
            rx.await.ok()
        })
        .await;
        self.waiting.lock().unwrap().remove(&reply);
        match answer {
            Ok(Some(m)) if m.status == Some(StatusCode::NO_RESPONDERS) => Err(err(
                ErrorKind::NoResponders,
                "request",
                format!("nobody answers {} at {to}", envelope.name()),
            )),
            Ok(Some(m)) => unpack(&m.payload),
            Ok(None) => Err(err(ErrorKind::Unavailable, "request", "not sent")),
            Err(_) => Err(unknown("request", "no answer in time")),
        }
    }
    async fn flush(&self) -> Result<(), Error> {
        self.client
            .flush()
            .await
            .map_err(|e| err(ErrorKind::Unavailable, "flush", e))
    }
    async fn close(&self) -> Result<(), Error> {
        self.flush().await?;
        self.client
            .drain()
            .await
            .map_err(|e| err(ErrorKind::Unavailable, "close", e))
    }
}

struct Source {
    consumer: PullConsumer,
    /// A pull in a task of its own: `Batch` cannot be opened cancel-safely.
    pulling: Option<tokio::task::JoinHandle<Pulled>>,
    batch: Option<pull::Batch>,
}
impl Source {
    async fn next(&mut self, room: &Room, max: usize) -> Result<jetstream::Message, Error> {
        loop {
            if let Some(batch) = &mut self.batch {
                match batch.next().await {
                    Some(Ok(m)) => return Ok(m),
                    Some(Err(e)) => {
                        self.batch = None;
                        return Err(err(ErrorKind::Unavailable, "recv", e));
                    }
                    None => self.batch = None,
                }
            }
            if self.pulling.is_none() {
                let (n, consumer) = (room.wait(max).await, self.consumer.clone());
                self.pulling = Some(tokio::spawn(async move {
                    consumer
                        .batch()
                        .max_messages(n)
                        .expires(Duration::from_secs(2))
                        .messages()
                        .await
                        .map_err(|e| err(ErrorKind::Unavailable, "recv", e))
                }));
            }
            let opened = self.pulling.as_mut().expect("set above").await;
            self.pulling = None;
            self.batch = Some(opened.map_err(|e| err(ErrorKind::Unavailable, "recv", e))??);
        }
    }
}

struct NatsSub {
    nats: Arc<Nats>,
    group: String,
    sources: Vec<Source>,
    room: Arc<Room>,
    subscribe: Subscribe,
    closed: bool,
}
impl std::fmt::Debug for NatsSub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NatsSub({})", self.group)
    }
}
impl NatsSub {
    fn delivery(&self, m: jetstream::Message) -> Result<Delivery, Error> {
        let info = m.info().map_err(|e| err(ErrorKind::Decode, "recv", e))?;
        let (count, sequence, published) = (
            info.delivered as u32,
            info.stream_sequence,
            SystemTime::from(info.published),
        );
        let headers = m.headers.clone().unwrap_or_default();
        let generation = headers
            .get(GENERATION)
            .and_then(|g| g.as_str().parse().ok())
            .unwrap_or(0);
        let ack = m
            .reply
            .clone()
            .expect("a JetStream message has a reply subject");
        let e = envelope(
            self.subscribe.message.clone(),
            &headers,
            m.payload.clone(),
            None,
        );
        let receipt = NatsReceipt {
            nats: Arc::clone(&self.nats),
            ack,
            group: self.group.clone(),
            count,
            generation,
            published,
            sequence,
            qos: self.subscribe.qos,
            lease: self.subscribe.ack_wait,
            until: Instant::now() + self.subscribe.ack_wait,
            _slot: self.room.take(),
        };
        Ok(Delivery::new(e, Box::new(receipt))
            .with_count(count)
            .with_generation(generation))
    }
}
#[async_trait]
impl Subscription for NatsSub {
    async fn recv(&mut self, max: usize, into: &mut Vec<Delivery>) -> Result<(), Error> {
        if self.closed {
            return Err(err(ErrorKind::Closed, "recv", "closed"));
        }
        let (room, limit) = (Arc::clone(&self.room), self.subscribe.max_in_flight);
        let (a, b) = self.sources.split_at_mut(1);
        let m = tokio::select! { biased;
            m = b[0].next(&room, limit) => m?,
            m = a[0].next(&room, limit) => m?,
        };
        into.push(self.delivery(m)?);
        for _ in 1..max {
            let Some(Ok(m)) = self.sources[0]
                .batch
                .as_mut()
                .and_then(|b| b.next().now_or_never().flatten())
            else {
                break;
            };
            into.push(self.delivery(m)?);
        }
        Ok(())
    }
    async fn close(&mut self) -> Result<(), Error> {
        self.closed = true;
        for source in &mut self.sources {
            if let Some(p) = source.pulling.take() {
                source.batch = p.await.ok().and_then(Result::ok);
            }
            let Some(mut batch) = source.batch.take() else {
                continue;
            };
            while let Some(Ok(m)) = batch.next().now_or_never().flatten() {
                let _ = m.ack_with(jetstream::AckKind::Nak(None)).await;
            }
        }
        self.nats.flush().await
    }
    fn stats(&self) -> SubscriptionStats {
        SubscriptionStats::new(0, None)
    }
}

#[derive(Debug)]
struct NatsReceipt {
    nats: Arc<Nats>,
    ack: Subject,
    group: String,
    count: u32,
    generation: u32,
    published: SystemTime,
    sequence: u64,
    qos: QoS,
    lease: Duration,
    until: Instant,
    _slot: Slot,
}
#[async_trait]
impl Receipt for NatsReceipt {
    async fn settle(
        self: Box<Self>,
        envelope: Envelope,
        settlement: Settlement,
    ) -> Result<(), Error> {
        // The server takes the late answer of an expired delivery, so the lease is judged by our own clock.
        let expired = Instant::now() > self.until;
        if expired && !matches!(settlement, Settlement::Ack) {
            return Err(lost("settle"));
        }
        match settlement {
            Settlement::Ack => self
                .nats
                .client
                .publish(self.ack.clone(), "+ACK".into())
                .await
                .map_err(|e| err(ErrorKind::Unavailable, "ack", e)),
            Settlement::Complete(c) if c.claim.is_some() => Err(err(
                ErrorKind::Unsupported,
                "settle",
                "nats cannot complete a claim with the ack",
            )),
            Settlement::Complete(_) if self.qos == QoS::ExactlyOnce => {
                self.nats.confirm(&self.ack, "+ACK".into()).await
            }
            Settlement::Complete(_) => self
                .nats
                .client
                .publish(self.ack.clone(), "+ACK".into())
                .await
                .map_err(|e| err(ErrorKind::Unavailable, "ack", e)),
            Settlement::Nak { after } => {
                self.nats
                    .confirm(
                        &self.ack,
                        format!("-NAK {{\"delay\": {}}}", after.as_nanos()).into(),
                    )
                    .await
            }
            Settlement::Release => self.nats.confirm(&self.ack, "-NAK".into()).await,
            Settlement::DeadLetter(reason) => {
                self.bury(&envelope, &reason).await?;
                self.nats.confirm(&self.ack, "+TERM".into()).await
            }
            Settlement::Term => self.nats.confirm(&self.ack, "+TERM".into()).await,
            _ => Err(err(ErrorKind::Unsupported, "settle", "settlement")),
        }
    }
    async fn extend(&mut self) -> Result<(), Error> {
        if Instant::now() > self.until {
            return Err(lost("extend"));
        }
        let sent = Instant::now();
        self.nats.confirm(&self.ack, "+WPI".into()).await?;
        self.until = sent + self.lease;
        Ok(())
    }
}
impl NatsReceipt {
    async fn bury(&self, envelope: &Envelope, reason: &Reason) -> Result<(), Error> {
        let id = envelope
            .id()
            .map_or_else(|| self.sequence.to_string(), |id| id.to_string());
        // A reason has line breaks, which a header cannot have: JSON escapes them.
        let m = message(
            envelope,
            &format!("{id}:{}:x{}", self.group, self.generation),
        )?
        .header(
            "catga-reason",
            serde_json::to_string(reason).expect("plain data"),
        )
        .header("catga-deliveries", self.count.to_string())
        .header("catga-published", millis(self.published).to_string())
        .header(GENERATION, self.generation.to_string());
        self.nats
            .store(
                format!("{}.x.{}.{}", self.nats.ns, self.group, envelope.name()),
                m,
                Duration::from_secs(2),
            )
            .await
            .map(|_| ())
    }
}

struct NatsServe {
    client: Client,
    from: futures_util::stream::Select<async_nats::Subscriber, async_nats::Subscriber>,
    request: Name,
}
impl std::fmt::Debug for NatsServe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NatsServe({})", self.request)
    }
}
impl NatsServe {
    fn delivery(&self, m: async_nats::Message) -> Option<Delivery> {
        let reply = m.reply?;
        let mut tail = reply.as_str().rsplitn(4, '.');
        let left = Duration::from_millis(tail.next()?.parse().ok()?);
        let attempt = tail.next()?.parse().ok()?;
        let id = tail.next()?.parse().ok()?;
        let e = envelope(
            self.request.clone(),
            &m.headers.unwrap_or_default(),
            m.payload,
            Some(id),
        );
        let receipt = NatsReply {
            client: self.client.clone(),
            reply,
        };
        Some(
            Delivery::new(e, Box::new(receipt))
                .with_count(attempt)
                .with_time_left(left),
        )
    }
}
#[async_trait]
impl Subscription for NatsServe {
    async fn recv(&mut self, _max: usize, into: &mut Vec<Delivery>) -> Result<(), Error> {
        loop {
            let m = self
                .from
                .next()
                .await
                .ok_or_else(|| err(ErrorKind::Closed, "recv", "closed"))?;
            if let Some(d) = self.delivery(m) {
                into.push(d);
                return Ok(());
            }
        }
    }
    async fn close(&mut self) -> Result<(), Error> {
        let (a, b) = self.from.get_mut();
        let _ = (a.unsubscribe().await, b.unsubscribe().await);
        // Until the server knows, others are not told "no responders".
        self.client
            .flush()
            .await
            .map_err(|e| err(ErrorKind::Unavailable, "close", e))?;
        while let Some(Some(m)) = self.from.next().now_or_never() {
            if let Some(d) = self.delivery(m) {
                d.settle(Settlement::Release).await?;
            }
        }
        Ok(())
    }
    fn stats(&self) -> SubscriptionStats {
        SubscriptionStats::default()
    }
}
#[derive(Debug)]
struct NatsReply {
    client: Client,
    reply: Subject,
}
#[async_trait]
impl Receipt for NatsReply {
    async fn settle(self: Box<Self>, _: Envelope, settlement: Settlement) -> Result<(), Error> {
        let reply = match settlement {
            Settlement::Complete(c) => c.response.ok_or_else(|| {
                err(
                    ErrorKind::Unsupported,
                    "settle",
                    "a request is completed with a response",
                )
            })?,
            _ => given_back(),
        };
        self.client
            .publish(self.reply.clone(), pack(&reply).into())
            .await
            .map_err(|e| err(ErrorKind::Unavailable, "settle", e))
    }
    async fn extend(&mut self) -> Result<(), Error> {
        Ok(())
    }
}
