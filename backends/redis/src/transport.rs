//! Moving messages over Redis.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use catga_core::{
    Capabilities, Capability, ConnectionState, Envelope, Error, Published, QoS, Reply, Serve,
    Subscribe, Subscription, Target, Transport, async_trait,
};
use redis::Value;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::connection::Connection;
use crate::request;
use crate::ring::RingSubscription;
use crate::route::Route;
use crate::serve::ServeSubscription;
use crate::subscription::StreamSubscription;
use crate::time::{from_now, millis};
use crate::wire::Event;
use crate::writer::{Job, Outcome, Then, judge};
use crate::{error, script, wire};

/// What this backend can do.
pub(crate) const CAPABILITIES: &[Capability] = &[
    Capability::AtMostOnce,
    Capability::AtLeastOnce,
    Capability::ExactlyOnce,
    Capability::Groups,
    Capability::EachNode,
    Capability::Ordered,
    Capability::DelayedNak,
    Capability::UncountedRelease,
    Capability::Persistent,
    Capability::Requests,
    Capability::Inbox,
    Capability::Nodes,
    Capability::FusedCompletion,
    Capability::FusedDeadLetter,
];

/// The most events that wait for a group that is too slow for them.
const EVENTS: usize = 10_000;

/// A connection's transport.
#[derive(Debug)]
pub(crate) struct RedisTransport {
    connection: Arc<Connection>,
}

/// What was handed over, and where its outcome will be told.
struct Begun {
    /// What is said with it: that the partition has a stream.
    says: Option<(Arc<Route>, u16)>,
    outcome: oneshot::Receiver<Outcome>,
}

impl RedisTransport {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self { connection }
    }

    /// QoS 0: to the channel, and to the stream of groups where there is one.
    fn event(&self, envelope: &Envelope) -> Result<Job, Error> {
        let connection = &*self.connection;
        let max = connection.server.settings.max_payload;
        let payload = wire::payload("publish", envelope, max)?;
        let route = connection.route(envelope.name());
        let mut publish = wire::command("PUBLISH", 3, payload.len());
        publish.arg(&route.event).arg(Event {
            envelope,
            payload: &payload,
        });
        if !route.may_have_groups() {
            return Ok(Job {
                before: None,
                cmd: publish,
                bytes: payload.len(),
                slot: route.slot,
                then: Then::Note(route),
            });
        }
        let mut add = wire::command("XADD", 16, payload.len());
        add.arg(&route.event)
            .arg("NOMKSTREAM")
            .arg("MAXLEN")
            .arg("~")
            .arg(EVENTS)
            .arg("*");
        wire::add_fields(&mut add, envelope, envelope.id(), &payload);
        Ok(Job {
            before: Some(publish),
            cmd: add,
            bytes: payload.len(),
            slot: route.slot,
            then: Then::Note(route),
        })
    }

    /// QoS 1 and 2: to the stream of its partition.
    fn stored(&self, envelope: &mut Envelope, whole: bool) -> Result<(Job, Begun), Error> {
        let connection = &*self.connection;
        let settings = &connection.server.settings;
        let payload = wire::payload("publish", envelope, settings.max_payload)?;
        let id = envelope.id_or_new();
        let route = connection.route(envelope.name());
        let partition = envelope.partition().unwrap_or(0);
        let stream = match partition {
            0 => Cow::Borrowed(route.stream.as_str()),
            partition => Cow::Owned(connection.server.names.stream(envelope.name(), partition)),
        };
        let (mut before, mut says) = (None, None);
        if partition > 0 && route.is_to_be_said(partition) {
            let mut say = redis::cmd("SADD");
            say.arg(connection.server.names.partitions(envelope.name()))
                .arg(partition);
            before = Some(say);
            says = Some((Arc::clone(&route), partition));
        }
        // While a replica is away each try is stored, and told to be so by none: there would be as many copies.
        let once = envelope.qos() == QoS::ExactlyOnce || settings.wait_replicas.is_some();
        let add = if once {
            let mark = connection
                .server
                .names
                .published(envelope.name(), &id.to_string());
            let mut add = script::ADD_ONCE.call(2);
            add.arg(&*stream).arg(mark);
            add.arg(millis(settings.duplicate_window))
                .arg(u8::from(!settings.manage));
            wire::add_fields(&mut add, envelope, Some(id), &payload);
            if whole {
                script::ADD_ONCE.whole(&add)
            } else {
                add
            }
        } else {
            let mut add = wire::command("XADD", 8, payload.len());
            add.arg(&*stream);
            if !settings.manage {
                add.arg("NOMKSTREAM");
            }
            add.arg("*");
            wire::add_fields(&mut add, envelope, Some(id), &payload);
            add
        };
        let (teller, outcome) = oneshot::channel();
        route.added.fetch_add(1, Ordering::Relaxed);
        let job = Job {
            before,
            cmd: add,
            bytes: payload.len(),
            slot: route.slot,
            then: Then::Tell(teller),
        };
        Ok((job, Begun { says, outcome }))
    }

    /// Either guarantee, first half. What fails here is not stored.
    async fn begin(
        &self,
        envelope: &mut Envelope,
        whole: bool,
        by: Instant,
    ) -> Result<Option<Begun>, Error> {
        let server = &self.connection.server;
        server.check_open("publish")?;
        let (job, begun) = match envelope.qos() {
            QoS::AtMostOnce => (self.event(envelope)?, None),
            QoS::AtLeastOnce | QoS::ExactlyOnce => {
                let (job, begun) = self.stored(envelope, whole)?;
                (job, Some(begun))
            }
        };
        // What is handed on at QoS 0 waits for a connection, or is lost.
        if begun.is_some() && !server.link.is_connected() {
            // A box: the futures of the others stay small.
            Box::pin(server.link.live("publish", by)).await?;
        }
        self.connection.writer.send("publish", job, by).await?;
        Ok(begun)
    }

    /// Either guarantee, second half; with the script itself for a server that does not know it.
    async fn finish(
        &self,
        envelope: &mut Envelope,
        begun: Option<Begun>,
        by: Instant,
    ) -> Result<Published, Error> {
        match self.end(envelope, begun, by).await {
            Err(error) if error.context("code") == Some("NOSCRIPT") => {
                let again = async {
                    let begun = self.begin(envelope, true, by).await?;
                    self.end(envelope, begun, by).await
                };
                Box::pin(again).await
            }
            ended => ended,
        }
    }

    /// Either guarantee, second half.
    async fn end(
        &self,
        envelope: &Envelope,
        begun: Option<Begun>,
        by: Instant,
    ) -> Result<Published, Error> {
        let Some(Begun { says, outcome }) = begun else {
            return Ok(Published::new());
        };
        // For an error to name.
        let stream = || {
            let names = &self.connection.server.names;
            names.stream(envelope.name(), envelope.partition().unwrap_or(0))
        };
        let outcome = match timeout_at(by, outcome).await {
            Ok(Ok(outcome)) => outcome,
            // The writer ended with the connection.
            Ok(Err(_)) => return Err(error::closed_meanwhile("publish")),
            Err(_) => return Err(error::unanswered("publish", &stream())),
        };
        let added = judge(stream, outcome)?;
        if let Some((route, partition)) = says {
            route.was_said(partition);
        }
        match added {
            Value::Int(0) => Ok(Published::duplicate()),
            Value::Nil => Err(error::missing("publish", &format!("stream `{}`", stream()))),
            _ => Ok(Published::new()),
        }
    }
}

#[async_trait]
impl Transport for RedisTransport {
    fn capabilities(&self) -> Capabilities {
        let capabilities: Capabilities = CAPABILITIES.iter().copied().collect();
        capabilities.with_max_payload_bytes(self.connection.server.settings.max_payload)
    }

    fn state(&self) -> ConnectionState {
        self.connection.state()
    }

    async fn publish(
        &self,
        envelope: &mut Envelope,
        deadline: Duration,
    ) -> Result<Published, Error> {
        let by = from_now(deadline);
        let begun = self.begin(envelope, false, by).await?;
        self.finish(envelope, begun, by).await
    }

    fn try_publish(&self, envelope: &mut Envelope) -> Option<Result<Published, Error>> {
        let server = &self.connection.server;
        if envelope.qos() != QoS::AtMostOnce {
            return None;
        }
        let job = match server
            .check_open("publish")
            .and_then(|()| self.event(envelope))
        {
            Ok(job) => job,
            Err(error) => return Some(Err(error)),
        };
        let queued = self.connection.writer.try_send("publish", job)?;
        Some(queued.map(|()| Published::new()))
    }

    async fn publish_many(
        &self,
        envelopes: &mut [Envelope],
        deadline: Duration,
    ) -> Vec<Result<Published, Error>> {
        let by = from_now(deadline);
        let mut begun = Vec::with_capacity(envelopes.len());
        for envelope in envelopes.iter_mut() {
            begun.push(self.begin(envelope, false, by).await);
        }
        let mut outcomes = Vec::with_capacity(begun.len());
        for (envelope, begun) in envelopes.iter_mut().zip(begun) {
            outcomes.push(match begun {
                Ok(begun) => self.finish(envelope, begun, by).await,
                Err(error) => Err(error),
            });
        }
        outcomes
    }

    async fn subscribe(&self, subscribe: &Subscribe) -> Result<Box<dyn Subscription>, Error> {
        let server = &self.connection.server;
        server.check_open("subscribe")?;
        // What this process published before is older than the subscription.
        let by = server.call_deadline();
        server.link.live("subscribe", by).await?;
        self.connection.writer.flush("subscribe", by).await?;
        let connection = Arc::clone(&self.connection);
        match subscribe.qos {
            QoS::AtMostOnce if subscribe.ordered.is_some() => {
                Err(error::ordered_at_qos_0(&subscribe.message))
            }
            QoS::AtMostOnce => Ok(Box::new(
                RingSubscription::join(connection, subscribe).await?,
            )),
            QoS::AtLeastOnce | QoS::ExactlyOnce => Ok(Box::new(
                StreamSubscription::join(connection, subscribe).await?,
            )),
        }
    }

    async fn serve(&self, serve: &Serve) -> Result<Box<dyn Subscription>, Error> {
        self.connection.server.check_open("serve")?;
        let connection = Arc::clone(&self.connection);
        Ok(Box::new(ServeSubscription::join(connection, serve).await?))
    }

    async fn request(
        &self,
        to: &Target,
        envelope: &Envelope,
        attempt: u32,
        time_left: Option<Duration>,
    ) -> Result<Reply, Error> {
        self.connection.server.check_open("request")?;
        request::request(&self.connection, to, envelope, attempt, time_left).await
    }

    async fn flush(&self) -> Result<(), Error> {
        self.connection.flush("flush").await
    }

    async fn close(&self) -> Result<(), Error> {
        self.connection.close().await
    }
}
