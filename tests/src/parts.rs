//! Messages and handlers of the scenarios about requests that are remembered, order, layers and guards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use catga::prelude::{Context, Event, Request, Result, State, handler};
use catga::{
    Backend, Capabilities, Capability, ConnectOptions, Driver, Envelope, Error, ErrorKind,
    Published, Retry,
};
use catga_core::{
    BackendUrl, ConnectionState, Reply, Serve, Subscribe, Subscription, Target, Transport,
    async_trait,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};

use crate::journal::Play;

/// An event at QoS 2.
#[derive(Event, Clone, Debug, Serialize, Deserialize)]
#[qos(exactly_once)]
pub(crate) struct Invoice {
    pub(crate) id: u32,
}

#[handler(group = "workers")]
pub(crate) async fn on_invoice(
    invoice: Invoice,
    context: Context,
    State(play): State<Play>,
) -> Result<()> {
    play.act("on_invoice", invoice.id, &context).await
}

/// An event at QoS 1 that keeps its order by key.
#[derive(Event, Clone, Debug, Serialize, Deserialize)]
#[qos(at_least_once)]
#[route_by(key, partitions = 16)]
pub(crate) struct Move {
    pub(crate) key: u32,
    pub(crate) id: u32,
}

#[handler(group = "movers", ordered)]
pub(crate) async fn on_move(event: Move, context: Context, State(play): State<Play>) -> Result<()> {
    play.act("on_move", event.id, &context).await
}

/// An event at QoS 2 that keeps its order by key.
#[derive(Event, Clone, Debug, Serialize, Deserialize)]
#[qos(exactly_once)]
#[route_by(key, partitions = 16)]
pub(crate) struct Turn {
    pub(crate) key: u32,
    pub(crate) id: u32,
}

#[handler(group = "movers", ordered)]
pub(crate) async fn on_turn(event: Turn, context: Context, State(play): State<Play>) -> Result<()> {
    play.act("on_turn", event.id, &context).await
}

/// An idempotent request.
#[derive(Request, Clone, Debug, Serialize, Deserialize)]
#[response(Placed)]
pub(crate) struct Order {
    pub(crate) id: u32,
}

/// The answer to [`Order`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Placed {
    pub(crate) id: u32,
    pub(crate) node: String,
    /// Whether the run that answered was told that one before it may have run.
    pub(crate) may_have_run: bool,
}

#[handler]
pub(crate) async fn on_order(
    order: Order,
    context: Context,
    State(play): State<Play>,
) -> Result<Placed> {
    play.act("on_order", order.id, &context).await?;
    Ok(Placed {
        id: order.id,
        node: context.node().to_string(),
        may_have_run: context.attempt().may_have_run(),
    })
}

/// An idempotent request for so many bytes.
#[derive(Request, Clone, Debug, Serialize, Deserialize)]
#[response(String)]
pub(crate) struct Print {
    pub(crate) id: u32,
    pub(crate) bytes: usize,
}

#[handler]
pub(crate) async fn on_print(
    print: Print,
    context: Context,
    State(play): State<Play>,
) -> Result<String> {
    play.act("on_print", print.id, &context).await?;
    Ok(printed(print.id, print.bytes))
}

/// What [`Print`] is answered with.
pub(crate) fn printed(id: u32, bytes: usize) -> String {
    format!("{id};").repeat(bytes)[..bytes].to_owned()
}

/// A request whose handler sends an [`Order`] on.
#[derive(Request, Clone, Debug, Serialize, Deserialize)]
#[response(Placed)]
#[request(idempotent = false)]
pub(crate) struct Relay {
    pub(crate) id: u32,
    pub(crate) to: String,
    /// The time that the handler takes before.
    pub(crate) ms: u64,
}

#[handler]
pub(crate) async fn on_relay(relay: Relay, context: Context) -> Result<Placed> {
    tokio::time::sleep(Duration::from_millis(relay.ms)).await;
    let order = Order { id: relay.id };
    Ok(context.send_to(&relay.to, order).await?)
}

/// A line to a backend that is there, which loses the first replies, or holds all of them back.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    backend: Backend,
    lose: Arc<AtomicU32>,
    is_late: bool,
    asked: Option<UnboundedSender<Target>>,
}

impl Line {
    /// The URL of all lines.
    pub(crate) const URL: &'static str = "line://here";

    /// A line that loses so many replies.
    pub(crate) fn losing(backend: &Backend, replies: u32) -> Self {
        Self {
            backend: backend.clone(),
            lose: Arc::new(AtomicU32::new(replies)),
            is_late: false,
            asked: None,
        }
    }

    /// A line whose replies arrive when the time of who asked is just over.
    pub(crate) fn late(backend: &Backend) -> Self {
        let mut line = Self::losing(backend, 0);
        line.is_late = true;
        line
    }

    /// A line that loses nothing, and tells whom requests go to, each time that one is tried.
    pub(crate) fn told(backend: &Backend) -> (Self, UnboundedReceiver<Target>) {
        let (asked, told) = unbounded_channel();
        let mut line = Self::losing(backend, 0);
        line.asked = Some(asked);
        (line, told)
    }
}

#[async_trait]
impl Driver for Line {
    fn name(&self) -> &'static str {
        "line"
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["line"]
    }

    fn options(&self) -> &'static [&'static str] {
        &[]
    }

    fn capabilities(&self) -> &'static [Capability] {
        &[Capability::Requests, Capability::Inbox, Capability::Nodes]
    }

    async fn connect(&self, _: &BackendUrl, _: &ConnectOptions) -> Result<Backend, Error> {
        let mut backend = self.backend.clone();
        backend.transport = Arc::new(Lossy {
            transport: Arc::clone(&self.backend.transport),
            lose: Arc::clone(&self.lose),
            is_late: self.is_late,
            asked: self.asked.clone(),
        });
        Ok(backend)
    }
}

#[derive(Debug)]
struct Lossy {
    transport: Arc<dyn Transport>,
    lose: Arc<AtomicU32>,
    is_late: bool,
    asked: Option<UnboundedSender<Target>>,
}

#[async_trait]
impl Transport for Lossy {
    fn capabilities(&self) -> Capabilities {
        self.transport.capabilities()
    }

    fn state(&self) -> ConnectionState {
        self.transport.state()
    }

    async fn publish(
        &self,
        envelope: &mut Envelope,
        deadline: Duration,
    ) -> Result<Published, Error> {
        self.transport.publish(envelope, deadline).await
    }

    async fn subscribe(&self, subscribe: &Subscribe) -> Result<Box<dyn Subscription>, Error> {
        self.transport.subscribe(subscribe).await
    }

    async fn serve(&self, serve: &Serve) -> Result<Box<dyn Subscription>, Error> {
        self.transport.serve(serve).await
    }

    async fn request(
        &self,
        to: &Target,
        envelope: &Envelope,
        attempt: u32,
        time_left: Option<Duration>,
    ) -> Result<Reply, Error> {
        if let Some(asked) = &self.asked {
            // Who is told may have heard enough.
            let _ = asked.send(to.clone());
        }
        let over = time_left.map(|left| Instant::now() + left);
        let reply = self.transport.request(to, envelope, attempt, time_left);
        let reply = reply.await?;
        if let Some(over) = over.filter(|_| self.is_late) {
            sleep_until(over).await;
        }
        let fewer = |left: u32| left.checked_sub(1);
        let lost = self
            .lose
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
        if lost.is_err() {
            return Ok(reply);
        }
        let error = Error::new(ErrorKind::Timeout, "request", "the reply was lost");
        Err(error.with_retry(Retry::Now).with_unknown_outcome())
    }

    async fn flush(&self) -> Result<(), Error> {
        self.transport.flush().await
    }

    // The connection belongs to somebody else.
    async fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}
