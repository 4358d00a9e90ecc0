//! The value that this backend exports.

use std::any::TypeId;
use std::sync::Arc;

use catga_core::{
    Backend, BackendUrl, Capability, ConnectOptions, Driver, Error, ErrorKind, async_trait,
};
use tokio::runtime::Handle;

use crate::bus::{self, Connection};
use crate::dead_letter::MemoryDeadLetters;
use crate::inbox_store::MemoryInbox;
use crate::options::{self, Asked};
use crate::registry::MemoryRegistry;
use crate::store::Memory;
use crate::transport::{CAPABILITIES, MemoryTransport};

/// The driver, to be given to a builder.
pub static DRIVER: MemoryDriver = MemoryDriver;

/// Makes in-process backends for `memory://` URLs.
///
/// Connections with one name and namespace share a bus; `memory://` without a name is a bus of its
/// own. A bus lives while a connection to it does, or something that came from one.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryDriver;

#[async_trait]
impl Driver for MemoryDriver {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["memory"]
    }

    fn options(&self) -> &'static [&'static str] {
        options::NAMES
    }

    fn capabilities(&self) -> &'static [Capability] {
        CAPABILITIES
    }

    fn commit_store(&self) -> Option<TypeId> {
        Some(TypeId::of::<Memory>())
    }

    async fn connect(&self, url: &BackendUrl, options: &ConnectOptions) -> Result<Backend, Error> {
        let asked = Asked::read(url)?.with_options(options);
        if Handle::try_current().is_err() {
            return Err(Error::new(
                ErrorKind::Config,
                "connect",
                "memory:// needs a tokio runtime: connect within one",
            ));
        }
        let bus = bus::find_or_make(&asked, &options.namespace)?;
        let connection = Arc::new(Connection::new(bus));
        let transport = Arc::new(MemoryTransport::new(Arc::clone(&connection)));
        let registry = MemoryRegistry::new(Arc::clone(&connection), options.node_timeout);
        Ok(Backend::new("memory", transport)
            .with_registry(Arc::new(registry))
            .with_inbox(Arc::new(MemoryInbox::new(Arc::clone(&connection))))
            .with_dead_letters(Arc::new(MemoryDeadLetters::new(connection))))
    }
}
