//! Moving messages over NATS.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::StorageType;
use async_nats::{HeaderMap, Subject};
use catga_core::{
    Bytes, Capabilities, Capability, ConnectionState, Envelope, Error, ErrorKind, Name, Published,
    QoS, Reply, Retry, Serve, Subscribe, Subscription, Target, Transport, async_trait,
};
use tokio::time::{Instant, timeout_at};

use crate::connection::{Connection, Sent};
use crate::registry::NatsRegistry;
use crate::request;
use crate::ring::RingSubscription;
use crate::serve::ServeSubscription;
use crate::streams::Route;
use crate::subscription::StreamSubscription;
use crate::time::from_now;
use crate::{error, store, wire};

/// What this backend can do.
pub(crate) const CAPABILITIES: &[Capability] = &[
    Capability::AtMostOnce,
    Capability::AtLeastOnce,
    Capability::ExactlyOnce,
    Capability::Groups,
    Capability::EachNode,
    Capability::Ordered,
    Capability::DelayedNak,
    Capability::Persistent,
    Capability::Requests,
    Capability::Inbox,
    Capability::Nodes,
];

/// The most publishes of one call whose answers are awaited at once: more adds latency and no throughput.
const WINDOW: usize = 256;

/// How long a stream may take to answer a publish: after that its leader is likely to be gone, with the answer, while
/// the connection is not. The runtime publishes again with the same id.
const ANSWER: Duration = Duration::from_secs(2);

/// A connection's transport.
#[derive(Debug)]
pub(crate) struct NatsTransport {
    connection: Arc<Connection>,
    /// Closed with it.
    registry: Arc<NatsRegistry>,
}

/// What the client is handed.
type Outbound = (Subject, Option<HeaderMap>, Bytes);

/// What became of a publish so far.
type Begun = Result<Option<Sent>, Error>;

impl NatsTransport {
    pub(crate) fn new(connection: Arc<Connection>, registry: Arc<NatsRegistry>) -> Self {
        Self {
            connection,
            registry,
        }
    }

    /// QoS 0: what goes into the client's queue.
    fn event(&self, envelope: &Envelope) -> Result<Outbound, Error> {
        let connection = &*self.connection;
        let payload = wire::payload("publish", envelope, connection.max_payload())?;
        let id = envelope.id().map(|id| id.to_string());
        let headers = wire::headers(envelope, id.as_deref());
        let subject = connection
            .subjects
            .event(&connection.names, envelope.name());
        Ok((subject, headers, payload))
    }

    /// QoS 0: into the client's queue.
    async fn emit(&self, envelope: &Envelope, by: Instant) -> Result<(), Error> {
        let (subject, headers, payload) = self.event(envelope)?;
        self.connection
            .publish("publish", subject, headers, payload, by)
            .await
    }

    /// QoS 1 and 2, first half: hands it to the client. What fails here is not stored.
    async fn send(&self, envelope: &mut Envelope, by: Instant) -> Result<Sent, Error> {
        let connection = &*self.connection;
        let payload = wire::payload("publish", envelope, connection.max_payload())?;
        let id = envelope.id_or_new().to_string();
        let envelope = &*envelope;
        let headers = || wire::headers(envelope, Some(&id));
        let name = envelope.name();
        let route = match connection.routes.known(name) {
            Some(route) => route,
            // A box, as for all that is seldom waited for: the futures of the others stay small.
            None => Box::pin(self.find_route(name, by)).await?,
        };
        let subject = match envelope.partition() {
            None | Some(0) => route.subject.clone(),
            Some(partition) => connection.names.stored(name, partition),
        };
        connection
            .send("publish", subject, &"", headers, payload, by)
            .await
    }

    /// The stream of a message that was not published to before.
    async fn find_route(&self, name: &Name, by: Instant) -> Result<Arc<Route>, Error> {
        let connection = &*self.connection;
        let route = connection.routes.route(connection, "publish", name);
        let route = timeout_at(by, route).await;
        route.map_err(|_| no_route(name))?.map_err(certain)
    }

    /// QoS 1 and 2, second half: waits until it is stored.
    async fn stored(&self, name: &Name, sent: &mut Sent, by: Instant) -> Result<Published, Error> {
        let connection = &*self.connection;
        let by = by.min(sent.at() + ANSWER);
        let answer = connection.answer(sent, by).await?;
        let stored = store::read(
            "publish",
            sent.subject(),
            &answer,
            connection.settings.manage,
        );
        match stored.as_ref().map_err(Error::kind) {
            Err(ErrorKind::NotFound) => connection.routes.forget(name),
            Err(ErrorKind::LimitReached) => connection.full.notify_one(),
            _ => {}
        }
        stored.map(Published::from)
    }

    /// Either guarantee, first half.
    async fn begin(&self, envelope: &mut Envelope, by: Instant) -> Begun {
        self.connection.check_open("publish")?;
        match envelope.qos() {
            QoS::AtMostOnce => Box::pin(self.emit(envelope, by)).await.map(|()| None),
            QoS::AtLeastOnce | QoS::ExactlyOnce => self.send(envelope, by).await.map(Some),
        }
    }

    /// Either guarantee, second half.
    async fn end(&self, name: &Name, begun: Begun, by: Instant) -> Result<Published, Error> {
        match begun? {
            None => Ok(Published::new()),
            Some(mut sent) => self.stored(name, &mut sent, by).await,
        }
    }
}

/// Looking for a stream stores nothing, whatever became of it.
fn certain(error: Error) -> Error {
    if error.may_be_stored() {
        let retry = error.retry();
        Error::new(
            error.kind(),
            "publish",
            "its stream could not be looked for",
        )
        .with_retry(retry)
        .with_source(error)
    } else {
        error
    }
}

fn no_route(name: &Name) -> Error {
    let text = format!("the stream of `{name}` could not be looked for in time");
    Error::new(ErrorKind::Unavailable, "publish", text).with_retry(Retry::Now)
}

#[async_trait]
impl Transport for NatsTransport {
    fn capabilities(&self) -> Capabilities {
        let in_memory = self.connection.settings.stream.storage == Some(StorageType::Memory);
        CAPABILITIES
            .iter()
            .copied()
            .filter(|capability| !(in_memory && *capability == Capability::Persistent))
            .collect::<Capabilities>()
            .with_max_payload_bytes(self.connection.max_payload())
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
        let begun = self.begin(envelope, by).await;
        self.end(envelope.name(), begun, by).await
    }

    fn try_publish(&self, envelope: &mut Envelope) -> Option<Result<Published, Error>> {
        if envelope.qos() != QoS::AtMostOnce {
            return None;
        }
        let outbound = self
            .connection
            .check_open("publish")
            .and_then(|()| self.event(envelope));
        let (subject, headers, payload) = match outbound {
            Ok(outbound) => outbound,
            Err(error) => return Some(Err(error)),
        };
        let queued = self
            .connection
            .try_publish("publish", subject, headers, payload)?;
        Some(queued.map(|()| Published::new()))
    }

    async fn publish_many(
        &self,
        envelopes: &mut [Envelope],
        deadline: Duration,
    ) -> Vec<Result<Published, Error>> {
        let by = from_now(deadline);
        let mut outcomes = Vec::with_capacity(envelopes.len());
        let mut window: VecDeque<(Name, Begun)> = VecDeque::with_capacity(WINDOW);
        for envelope in envelopes {
            if window.len() == WINDOW
                && let Some((name, begun)) = window.pop_front()
            {
                outcomes.push(self.end(&name, begun, by).await);
            }
            let begun = self.begin(envelope, by).await;
            window.push_back((envelope.name().clone(), begun));
        }
        for (name, begun) in window {
            outcomes.push(self.end(&name, begun, by).await);
        }
        outcomes
    }

    async fn subscribe(&self, subscribe: &Subscribe) -> Result<Box<dyn Subscription>, Error> {
        self.connection.check_open("subscribe")?;
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
        self.connection.check_open("serve")?;
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
        self.connection.check_open("request")?;
        request::request(&self.connection, to, envelope, attempt, time_left).await
    }

    async fn flush(&self) -> Result<(), Error> {
        self.connection.flush("flush").await
    }

    async fn close(&self) -> Result<(), Error> {
        // At once, so that who does not wait for one has closed the other all the same.
        let ((), closed) = tokio::join!(self.registry.close(), self.connection.close());
        closed
    }
}
