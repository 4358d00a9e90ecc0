//! The application: what people hold.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use catga_core::{
    Backend, Capabilities, Capability, Codecs, CommitStore, Envelope, Error, ErrorKind, Event,
    Headers, NodeId, NodeInfo, Published, Request,
};

use crate::builder::CatgaBuilder;
use crate::control::HandlerControl;
use crate::dead_letters::DeadLetterQueue;
use crate::extract::States;
use crate::health::{HandlerInfo, Health};
use crate::members::Members;
use crate::metrics::Metrics;
use crate::publish::Outgoing;
use crate::request::RequestBuilder;
use crate::send::Outcome;
use crate::settings::Settings;
use crate::shutdown::{Lifecycle, ShutdownReport};
use crate::table::Table;
use crate::{Attempt, Context, NodeChanges};

/// A running application: publishes events, sends requests, and runs the handlers that were registered.
///
/// Clones are cheap and share one application. It ends with [`shutdown`](Self::shutdown); when the
/// last clone is dropped without, its tasks end and what they held goes back to the broker.
///
/// # Examples
/// ```standalone_crate
/// use catga::prelude::*;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Request, Serialize, Deserialize)]
/// #[response(u64)]
/// #[request(idempotent = false)]
/// struct Double(u64);
///
/// #[handler]
/// async fn double(request: Double) -> Result<u64> {
///     Ok(request.0 * 2)
/// }
///
/// #[tokio::main(flavor = "current_thread")]
/// async fn main() -> Result<()> {
///     let catga = Catga::builder().connect("memory://").start().await?;
///     assert_eq!(catga.send(Double(21)).await?, 42);
///     catga.shutdown().await?;
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Catga(Arc<Handle>);

/// What the clones of a [`Catga`] share: its drop ends the application.
struct Handle(Arc<Inner>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.lifecycle.drain(Duration::ZERO);
    }
}

/// What handlers and background tasks share.
pub(crate) struct Inner {
    pub(crate) settings: Settings,
    pub(crate) backend: Backend,
    pub(crate) capabilities: Capabilities,
    /// Whether the inbox is the backend's, and not one that the builder was given.
    pub(crate) own_inbox: bool,
    /// Whether QoS 0 values go to the backend as they are.
    pub(crate) takes_values: bool,
    pub(crate) codecs: Codecs,
    pub(crate) states: States,
    pub(crate) table: Table,
    pub(crate) node: NodeInfo,
    pub(crate) members: Members,
    pub(crate) metrics: Metrics,
    pub(crate) lifecycle: Lifecycle,
}

impl Inner {
    /// Tells this application's handlers from those of others in one process.
    pub(crate) fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Refuses new work once the application shuts down; handlers that still run may finish theirs.
    #[inline]
    pub(crate) fn check_open(
        &self,
        operation: &'static str,
        from_handler: bool,
    ) -> Result<(), Error> {
        let open = if from_handler {
            !self.lifecycle.is_stopped()
        } else {
            self.lifecycle.is_running()
        };
        if open {
            return Ok(());
        }
        Err(closed(operation))
    }

    /// The store of the inbox that effects are committed to.
    pub(crate) fn commit_store<S: CommitStore>(&self) -> Option<&S> {
        let inbox = self.backend.inbox.as_ref()?;
        inbox.commit_store()?.downcast_ref()
    }

    pub(crate) fn unsupported(
        &self,
        operation: &'static str,
        capability: Capability,
        what: &str,
    ) -> Error {
        let backend = self.backend.name;
        Error::new(
            ErrorKind::Unsupported,
            operation,
            format!("cannot {what}: the backend `{backend}` has no {capability}"),
        )
        .with_context("capability", capability)
    }
}

/// What is asked of an application that has ended.
pub(crate) fn closed(operation: &'static str) -> Error {
    let text = "the application was shut down";
    Error::new(ErrorKind::Closed, operation, text)
}

impl Catga {
    /// Begins an application.
    pub fn builder() -> CatgaBuilder {
        CatgaBuilder::default()
    }

    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self(Arc::new(Handle(inner)))
    }

    fn inner(&self) -> &Arc<Inner> {
        &self.0.0
    }

    /// Publishes an event with the guarantee that its type asks for.
    ///
    /// At QoS 0 it returns when the client has taken the message; at QoS 1 and 2 when the broker has
    /// stored it, trying again with the same id for up to `publish_deadline` (5 s).
    ///
    /// # Errors
    /// [`Error::may_be_stored`] tells whether the message may yet arrive, and
    /// [`Error::into_envelope`] gives it back for [`republish`](Self::republish). Among them:
    /// - [`Timeout`](ErrorKind::Timeout), [`Unavailable`](ErrorKind::Unavailable): not stored in time.
    /// - [`LimitReached`](ErrorKind::LimitReached): the queue or stream stayed full.
    /// - [`PayloadTooLarge`](ErrorKind::PayloadTooLarge), [`Encode`](ErrorKind::Encode): never sent.
    /// - [`Unsupported`](ErrorKind::Unsupported): the backend cannot give the guarantee.
    /// - [`Closed`](ErrorKind::Closed): after [`shutdown`](Self::shutdown).
    ///
    /// # Cancel safety
    /// Dropping the future leaves the outcome unknown: the message may or may not have been stored.
    ///
    /// # Examples
    /// ```
    /// # use catga::prelude::*;
    /// # use serde::{Deserialize, Serialize};
    /// #[derive(Event, Serialize, Deserialize)]
    /// #[qos(at_least_once)]
    /// struct OrderShipped { order_id: String }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// let catga = Catga::builder().connect("memory://").handlers(handlers![]).start().await?;
    /// catga.publish(OrderShipped { order_id: "17".into() }).await?;
    /// # catga.shutdown().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish<E: Event>(&self, event: E) -> Result<(), Error> {
        let mut envelope = Envelope::without_id(event);
        self.inner().publish(&mut envelope, None).await.map(drop)
    }

    /// Publishes many events, pipelined where the backend can: an outcome for each, in order.
    ///
    /// # Cancel safety
    /// As [`publish`](Self::publish), for each of them.
    pub async fn publish_many<E: Event>(
        &self,
        events: impl IntoIterator<Item = E>,
    ) -> Vec<Result<(), Error>> {
        self.inner()
            .publish_many(events.into_iter().map(Envelope::without_id).collect(), None)
            .await
    }

    /// An event with an id or headers of the caller's choice; ends with [`Outgoing::publish`].
    pub fn message<E: Event>(&self, event: E) -> Outgoing<'_> {
        Outgoing::new(self.inner(), None, event)
    }

    /// Publishes an envelope that an error gave back, with the id that it has; says whether the broker
    /// had it already.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    ///
    /// # Cancel safety
    /// As [`publish`](Self::publish).
    pub async fn republish(&self, mut envelope: Envelope) -> Result<Published, Error> {
        self.inner().publish(&mut envelope, None).await
    }

    /// Sends a request to one of the nodes that answer it, and waits for the answer.
    ///
    /// Nodes take turns, unless [another strategy](crate::routing) says otherwise. When it is this node's turn the handler is called
    /// directly, with the value. Otherwise the request is tried again where trying again can help, and at another node where there is one: when
    /// a node refuses it, fails, is not there any more, or says nothing at all for a third of the time. Up to `request_retries` (3)
    /// times with the same id, within one `request_deadline` (10 s) over all tries; past it, it is never started.
    ///
    /// # Errors
    /// - [`NoHandler`](ErrorKind::NoHandler): nobody answers this request;
    ///   [`NoResponders`](ErrorKind::NoResponders): whoever did has just gone.
    /// - [`Handler`](ErrorKind::Handler), [`Panic`](ErrorKind::Panic): the handler failed, here or there.
    /// - [`Timeout`](ErrorKind::Timeout): no answer in time; the request may have run.
    /// - [`Closed`](ErrorKind::Closed): after [`shutdown`](Self::shutdown).
    ///
    /// # Cancel safety
    /// Dropping the future never cancels a handler half-way: one that was started runs to its end.
    pub async fn send<R: Request>(&self, request: R) -> Result<R::Response, Error> {
        self.inner().send(request, None).await
    }

    /// A request with an id, headers or a node of the caller's choice; ends with [`RequestBuilder::send`].
    ///
    /// # Examples
    /// ```standalone_crate
    /// # use catga::prelude::*;
    /// # use catga::MessageId;
    /// # use serde::{Deserialize, Serialize};
    /// #[derive(Request, Serialize, Deserialize)]
    /// #[response(u64)]
    /// struct TakePayment { cents: u64 }
    ///
    /// #[handler]
    /// async fn take_payment(payment: TakePayment, ctx: Context) -> Result<u64> {
    ///     Ok(payment.cents)
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// # let catga = Catga::builder().connect("memory://").start().await?;
    /// // However often this is sent while the response is kept (10 min), the payment is taken once.
    /// let id = MessageId::from_key("invoice-17");
    /// let taken = catga.request(TakePayment { cents: 999 }).id(id).send().await?;
    /// let again = catga.request(TakePayment { cents: 999 }).id(id).send().await?;
    /// assert_eq!((taken, again), (999, 999));
    /// assert_eq!(catga.handlers()[0].stats.handled, 1);
    /// # catga.shutdown().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn request<R: Request>(&self, request: R) -> RequestBuilder<'_, R> {
        RequestBuilder::new(Arc::clone(self.inner()), None, request)
    }

    /// Sends a request to one node, and to no other.
    ///
    /// # Errors
    /// As [`send`](Self::send), and
    /// - [`UnknownNode`](ErrorKind::UnknownNode): no node has this id, nor had it in the last ten minutes;
    /// - [`NodeGone`](ErrorKind::NodeGone): the node was there, and has left or died, before it had the request or while it had it
    ///   ([`Error::may_be_stored`] tells which).
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub async fn send_to<R: Request>(&self, node: &str, request: R) -> Result<R::Response, Error> {
        self.inner().send_to(node, request, None).await
    }

    /// Sends a request to every live node that answers it, all at once: an outcome for each, sorted by id. This node is one of
    /// them, and its handler is called directly. For an event that every node is to see, [`publish`](Self::publish) it to a handler with
    /// `#[handler(each_node)]`.
    ///
    /// Each node's copy has an id of its own.
    ///
    /// # Errors
    /// [`NoHandler`](ErrorKind::NoHandler) when no node answers it. What happens at a node is that
    /// node's [`Outcome`]: a dead or slow one delays nobody else's, only the end of the call.
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub async fn broadcast<R: Request>(
        &self,
        request: R,
    ) -> Result<Vec<Outcome<R::Response>>, Error> {
        self.inner().broadcast(request).await
    }

    /// A context that belongs to no message: for a unit test that calls a handler which takes one.
    ///
    /// # Examples
    /// ```
    /// # use catga::prelude::*;
    /// # use serde::{Deserialize, Serialize};
    /// #[derive(Event, Serialize, Deserialize)]
    /// struct Pinged;
    ///
    /// #[handler]
    /// async fn on_pinged(_: Pinged, ctx: Context, attempt: Attempt) -> Result<()> {
    ///     assert!(attempt.is_last() && ctx.headers().is_empty());
    ///     Ok(())
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// let catga = Catga::builder().connect("memory://").handlers(handlers![]).start().await?;
    /// on_pinged(Pinged, catga.context(), Attempt::new(4, 4)).await?;
    /// # catga.shutdown().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn context(&self) -> Context {
        Context::new(
            Arc::clone(self.inner()),
            None,
            Headers::new(),
            Attempt::FIRST,
            None,
            None,
        )
    }

    /// The live nodes, sorted by id. While the registry cannot be reached, those of the last view, which
    /// [`health`](Self::health) then calls stale.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeInfo> {
        self.inner().members.nodes()
    }

    /// A live node, by its id.
    #[must_use]
    pub fn node_info(&self, id: &str) -> Option<NodeInfo> {
        let view = self.inner().members.view();
        view.node(id).map(|member| member.info.clone())
    }

    /// Watches who comes and goes, beginning with those who are there.
    ///
    /// # Examples
    /// ```
    /// # use catga::prelude::*;
    /// use catga::NodeEvent;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// # let handlers = || handlers![];
    /// let one = Catga::builder().connect("memory://shop").node("one").handlers(handlers()).start().await?;
    /// let mut nodes = one.watch_nodes();
    /// let two = Catga::builder().connect("memory://shop").node("two").handlers(handlers()).start().await?;
    /// for id in ["one", "two"] {
    ///     match nodes.next().await {
    ///         Some(NodeEvent::Joined(node)) => assert_eq!(node.id.as_str(), id),
    ///         other => panic!("{other:?}"),
    ///     }
    /// }
    /// # two.shutdown().await?;
    /// # one.shutdown().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn watch_nodes(&self) -> NodeChanges {
        NodeChanges::of(self.inner())
    }

    /// The id of this node.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.inner().node.id
    }

    /// The handlers that are registered, by the name of their message, and what they counted.
    #[must_use]
    pub fn handlers(&self) -> Vec<HandlerInfo> {
        self.inner()
            .table
            .entries
            .iter()
            .map(|entry| HandlerInfo::of(entry))
            .collect()
    }

    /// One of the handlers, to be paused or given another concurrency while it runs: by the name of its
    /// function, or by `module::name` where several have that name.
    ///
    /// # Errors
    /// - [`NotFound`](ErrorKind::NotFound): no handler has this name; the error lists those there are.
    /// - [`Config`](ErrorKind::Config): several have it; the error lists them.
    pub fn handler(&self, name: &str) -> Result<HandlerControl, Error> {
        HandlerControl::find(&self.inner().table, name)
    }

    /// The messages that were given up: to be looked at, redriven or purged.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetterQueue {
        DeadLetterQueue::new(Arc::clone(self.inner()))
    }

    /// How the application and its backend are.
    #[must_use]
    pub fn health(&self) -> Health {
        Health::of(self.inner())
    }

    /// The store that handlers commit to with [`Commit`](crate::Commit): to read what was committed. `None`
    /// when the inbox is not of this store.
    #[must_use]
    pub fn commit_store<S: CommitStore>(&self) -> Option<&S> {
        self.inner().commit_store()
    }

    /// The backend that the application is connected to, for what is not in this interface.
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.inner().backend
    }

    /// Leaves the cluster, takes nothing new, waits up to `shutdown_timeout` (30 s) for the handlers
    /// that run, gives back what is left, flushes and closes. A second call waits for the first. One from
    /// a handler does not wait for that handler, which may then finish; another handler that waits for
    /// this one (by `send`) is waited for, up to the limit.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed) when the runtime ended before the shutdown did.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the shutdown.
    pub async fn shutdown(&self) -> Result<ShutdownReport, Error> {
        self.shutdown_within(self.inner().settings.shutdown_timeout)
            .await
    }

    /// [`shutdown`](Self::shutdown) with a limit of its own.
    ///
    /// # Errors
    /// As [`shutdown`](Self::shutdown).
    ///
    /// # Cancel safety
    /// As [`shutdown`](Self::shutdown).
    pub async fn shutdown_within(&self, limit: Duration) -> Result<ShutdownReport, Error> {
        self.inner().shutdown(limit).await
    }

    /// Waits for ctrl-c or SIGTERM, then shuts down: the last line of many a `main`.
    ///
    /// # Errors
    /// As [`shutdown`](Self::shutdown), and [`Unavailable`](ErrorKind::Unavailable) when signals cannot be received.
    pub async fn shutdown_on_signal(&self) -> Result<ShutdownReport, Error> {
        crate::shutdown::signal().await?;
        self.shutdown().await
    }
}

impl fmt::Debug for Catga {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.inner();
        f.debug_struct("Catga")
            .field("backend", &inner.backend.name)
            .field("service", &inner.node.service)
            .field("node", &inner.node.id)
            .field("handlers", &inner.table.entries.len())
            .finish_non_exhaustive()
    }
}
