//! One connection to Redis: what a transport, an inbox and a store of dead letters share.

use std::sync::Arc;

use catga_core::{ConnectionState, Error, MessageId, Name};
use redis::Value;

use crate::client::Factory;
use crate::closed::Closed;
use crate::hub::Hub;
use crate::link::{self, Link};
use crate::names::Names;
use crate::options::Settings;
use crate::replies::Replies;
use crate::route::{Route, Routes};
use crate::server::Server;
use crate::writer::Writer;
use crate::{durability, error, trim};

/// Everything that one URL gives.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) server: Arc<Server>,
    pub(crate) writer: Writer,
    pub(crate) hub: Hub,
    pub(crate) replies: Arc<Replies>,
    pub(crate) routes: Arc<Routes>,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(settings: Settings, namespace: &Name) -> Result<Self, Error> {
        let names = Names::new(namespace)?;
        let settings = Arc::new(settings);
        let factory = Factory::new(Arc::clone(&settings));
        let mut conn = factory.first().await?;
        link::prepare(&mut conn, settings.call_timeout).await;
        let (link, closed) = (Arc::new(Link::new(conn)), Closed::default());
        let server = Arc::new(Server {
            settings: Arc::clone(&settings),
            names,
            factory: factory.clone(),
            link: Arc::clone(&link),
            closed: closed.clone(),
            pending: Arc::default(),
        });
        durability::check(&server).await?;
        let patience = settings.call_timeout;
        tokio::spawn(Arc::clone(&link).keep(factory.clone(), patience, closed.clone()));
        // A command that waits for replicas holds up everything behind it; and what the client of a cluster sends again by
        // itself may be stored twice, or said not to be stored when it is.
        let writes = if settings.wait_replicas.is_some() || server.is_cluster() {
            let own = Arc::new(Link::new(factory.once().await?));
            tokio::spawn(Arc::clone(&own).keep(factory, patience, closed.clone()));
            own
        } else {
            link
        };
        let routes = Arc::new(Routes::default());
        let inbox = MessageId::new().as_uuid().simple().to_string();
        let replies = Arc::new(Replies::new(server.names.replies(&inbox)));
        tokio::spawn(trim::keep_trimming(
            Arc::clone(&server),
            Arc::clone(&routes),
        ));
        let this = Self {
            writer: Writer::spawn(&server, writes),
            hub: Hub::spawn(Arc::clone(&server), Arc::clone(&replies)),
            server,
            replies,
            routes,
        };
        // Who may not hear answers is told now.
        this.hub
            .listen_to_replies("connect", this.server.call_deadline())
            .await?;
        Ok(this)
    }

    pub(crate) fn route(&self, name: &Name) -> Arc<Route> {
        self.routes.route(&self.server.names, name)
    }

    pub(crate) fn state(&self) -> ConnectionState {
        if self.server.closed.is_raised() {
            ConnectionState::Closed
        } else if self.server.link.is_connected() {
            ConnectionState::Connected
        } else {
            ConnectionState::Reconnecting
        }
    }

    /// Waits until what was published and settled is told.
    pub(crate) async fn flush(&self, operation: &'static str) -> Result<(), Error> {
        let server = &self.server;
        server.check_open(operation)?;
        if !server.link.is_connected() {
            return Err(error::not_connected(operation, None));
        }
        let by = server.call_deadline();
        self.writer.flush(operation, by).await?;
        if server.pending.ended(by).await {
            Ok(())
        } else {
            Err(error::unanswered(operation, "what was settled"))
        }
    }

    /// Flushes and closes.
    pub(crate) async fn close(&self) -> Result<(), Error> {
        if self.server.closed.is_raised() {
            return Ok(());
        }
        let flushed = self.flush("close").await;
        self.server.closed.raise();
        let late = self.replies.late();
        if late > 0 {
            tracing::info!(late, "answers came late or twice and were dropped");
        }
        flushed
    }

    /// Makes a group of a stream that starts at `start`; whether it was not there.
    pub(crate) async fn make_group(
        server: &Server,
        operation: &'static str,
        stream: &str,
        group: &str,
        start: &str,
    ) -> Result<bool, Error> {
        let by = server.call_deadline();
        if !server.settings.manage {
            let mut ask = redis::cmd("XINFO");
            ask.arg("GROUPS").arg(stream);
            let what = format!("group `{group}` of the stream `{stream}`");
            return match server.ask(operation, stream, &ask, by).await? {
                Ok(Value::Array(groups))
                    if groups.iter().any(|known| {
                        crate::value::field(known, "name").and_then(crate::value::text)
                            == Some(group)
                    }) =>
                {
                    Ok(false)
                }
                Err(error) if !error::says(&error, "no such key") => {
                    Err(error::of(operation, stream, &error))
                }
                _ => Err(error::missing(operation, &what)),
            };
        }
        let mut make = redis::cmd("XGROUP");
        make.arg("CREATE")
            .arg(stream)
            .arg(group)
            .arg(start)
            .arg("MKSTREAM");
        match server.ask(operation, stream, &make, by).await? {
            Ok(_) => Ok(true),
            Err(error) if error::code(&error) == "BUSYGROUP" => Ok(false),
            Err(error) => Err(error::of(operation, stream, &error)),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.server.closed.raise();
    }
}
