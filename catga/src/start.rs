//! From a plan that was found right to a running application.

use std::sync::Arc;

use catga_core::{
    Backend, BackendUrl, Capability, Codecs, Driver, Error, ErrorKind, InboxStore, MessageId, Name,
    NodeInfo, NodeRegistry, Serve, Subscription,
};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::app::{Catga, Inner};
use crate::extract::States;
use crate::members::Members;
use crate::metrics::{self, Metrics};
use crate::routing::Routes;
use crate::settings::Settings;
use crate::shutdown::{End, Lifecycle};
use crate::table::{Entry, Table};
use crate::{consume, membership, shutdown};

/// What was found right, to be connected.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) settings: Settings,
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) table: Table,
    pub(crate) states: States,
    pub(crate) codecs: Codecs,
    pub(crate) registry: Option<Arc<dyn NodeRegistry>>,
    pub(crate) inbox: Option<Arc<dyn InboxStore>>,
    pub(crate) routes: Routes,
}

impl Plan {
    pub(crate) async fn connect(self, url: &BackendUrl) -> Result<Catga, Error> {
        let options = self.settings.connect_options();
        let mut backend = self.driver.connect(url, &options).await?;
        backend.registry = self.registry.or(backend.registry);
        let own_inbox = self.inbox.is_none();
        backend.inbox = self.inbox.or(backend.inbox);
        if backend.inbox.is_none()
            && let Some(entry) = self.table.entries.iter().find(|entry| entry.claims)
        {
            let error = no_inbox(&backend, entry);
            if let Err(error) = backend.transport.close().await {
                tracing::debug!(%error, "closing after a failed start");
            }
            return Err(error);
        }
        let id = self.settings.node.clone().unwrap_or_else(fresh_node_id);
        let node = NodeInfo::new(id, self.settings.service.clone())
            .with_endpoint(self.settings.endpoint.clone())
            .with_requests(self.table.request_names());
        let capabilities = backend.transport.capabilities();
        let (lifecycle, reporter) = Lifecycle::new();
        let inner = Arc::new(Inner {
            takes_values: capabilities.has(Capability::TypedPayload) && !self.settings.strict,
            capabilities,
            own_inbox,
            members: Members::new(&node, self.routes),
            metrics: Metrics::new(backend.name, &self.table),
            lifecycle,
            settings: self.settings,
            codecs: self.codecs,
            states: self.states,
            table: self.table,
            backend,
            node,
        });
        // From here on a dropped or failed start closes what it opened.
        let catga = Catga::new(Arc::clone(&inner));
        match start(&inner, reporter).await {
            Ok(()) => Ok(catga),
            Err(error) => {
                undo(&inner).await;
                Err(error)
            }
        }
    }
}

/// Subscribes, joins, and leaves the rest to background tasks.
async fn start(inner: &Arc<Inner>, reporter: watch::Sender<Option<End>>) -> Result<(), Error> {
    let mut subscriptions: Vec<(Arc<Entry>, Box<dyn Subscription>)> = Vec::new();
    for entry in &inner.table.entries {
        subscriptions.push((Arc::clone(entry), subscribe(inner, entry).await?));
    }
    let membership = membership::join(inner).await?;
    let mut loops = JoinSet::new();
    for (entry, subscription) in subscriptions {
        loops.spawn(consume::run(Arc::clone(inner), entry, subscription));
    }
    tokio::spawn(shutdown::supervise(
        Arc::clone(inner),
        loops,
        membership,
        reporter,
    ));
    if inner.metrics.is_on() {
        tokio::spawn(tell(Arc::clone(inner)));
    }
    announce(inner);
    Ok(())
}

/// Tells what was counted from time to time; the last word is the shutdown's.
async fn tell(inner: Arc<Inner>) {
    let stopped = inner.lifecycle.stopped();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            biased;
            () = &mut stopped => break,
            () = tokio::time::sleep(metrics::EVERY) => inner.metrics.tell(&inner.table, &inner.members),
        }
    }
}

async fn subscribe(inner: &Inner, entry: &Entry) -> Result<Box<dyn Subscription>, Error> {
    let transport = &inner.backend.transport;
    let subscription = if entry.is_request() {
        let serve = Serve::new(
            entry.message.clone(),
            inner.node.service.clone(),
            inner.node.id.clone(),
        );
        transport
            .serve(&serve.with_max_in_flight(entry.slots.limit()))
            .await
    } else {
        transport
            .subscribe(&entry.subscribe(&inner.settings, &inner.node.id, inner.own_inbox))
            .await
    };
    subscription.map_err(|error| error.with_context("handler", entry.def.site))
}

/// The driver promised an inbox that its backend has not.
fn no_inbox(backend: &Backend, entry: &Entry) -> Error {
    let text = format!(
        "{}: `{}` is claimed before it is handled, and `{}` came without an inbox: give one with `.inbox(..)`",
        entry.def.site, entry.message, backend.name
    );
    Error::new(ErrorKind::Unsupported, "start", text)
}

/// Takes back what a failed start did.
async fn undo(inner: &Inner) {
    if let Err(error) = inner.backend.transport.close().await {
        tracing::debug!(%error, "closing after a failed start");
    }
}

pub(crate) fn fresh_node_id() -> Name {
    let id = MessageId::new().as_uuid().simple().to_string();
    // The last digits are the random ones; the first are the time.
    Name::token(format!("node-{}", &id[20..])).expect("hexadecimal digits are allowed in names")
}

fn announce(inner: &Inner) {
    let node = &inner.node;
    tracing::info!(backend = inner.backend.name, service = %node.service, node = %node.id, handlers = inner.table.entries.len(), "catga started");
    for entry in &inner.table.entries {
        tracing::info!(messaging.destination.name = %entry.message, qos = %entry.def.message.qos, messaging.consumer.group.name = %entry.group, handler = %entry.def.site, "handler");
    }
    if cfg!(panic = "abort") {
        tracing::warn!(
            "this program is built with panic = \"abort\": a handler that panics ends the process"
        );
    }
}
