//! The value that this backend exports.

use std::sync::Arc;

use catga_core::{
    Backend, BackendUrl, Capability, ConnectOptions, Driver, Error, ErrorKind, async_trait,
};
use tokio::runtime::Handle;

use crate::connection::Connection;
use crate::dead_letter::NatsDeadLetters;
use crate::inbox::NatsInbox;
use crate::options::{self, Settings};
use crate::registry::NatsRegistry;
use crate::transport::{CAPABILITIES, NatsTransport};
use crate::trim;

/// The driver, to be given to a builder.
pub static DRIVER: NatsDriver = NatsDriver;

/// Makes backends on NATS for `nats://` and `tls://` URLs.
#[derive(Clone, Copy, Debug, Default)]
pub struct NatsDriver;

#[async_trait]
impl Driver for NatsDriver {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["nats", "tls"]
    }

    fn options(&self) -> &'static [&'static str] {
        options::NAMES
    }

    fn capabilities(&self) -> &'static [Capability] {
        CAPABILITIES
    }

    async fn connect(&self, url: &BackendUrl, options: &ConnectOptions) -> Result<Backend, Error> {
        let settings = Settings::read(url, options)?;
        if Handle::try_current().is_err() {
            return Err(Error::new(
                ErrorKind::Config,
                "connect",
                "nats:// needs a tokio runtime: connect within one",
            ));
        }
        let connection = Arc::new(Connection::open(settings, &options.namespace).await?);
        if connection.settings.manage {
            let (closed, full) = (connection.closed.clone(), Arc::clone(&connection.full));
            tokio::spawn(trim::keep_trimming(
                Arc::downgrade(&connection),
                closed,
                full,
            ));
        }
        let registry = Arc::new(NatsRegistry::new(
            Arc::clone(&connection),
            options.namespace.clone(),
            options.node_timeout,
        ));
        let transport = NatsTransport::new(Arc::clone(&connection), Arc::clone(&registry));
        let inbox = NatsInbox::new(Arc::clone(&connection));
        Ok(Backend::new("nats", Arc::new(transport))
            .with_registry(registry)
            .with_inbox(Arc::new(inbox))
            .with_dead_letters(Arc::new(NatsDeadLetters::new(connection))))
    }
}
