//! The value that this backend exports.

use std::any::TypeId;
use std::sync::Arc;

use catga_core::{
    Backend, BackendUrl, Capability, ConnectOptions, Driver, Error, ErrorKind, async_trait,
};
use tokio::runtime::Handle;

use crate::connection::Connection;
use crate::dead_letter::RedisDeadLetters;
use crate::inbox::RedisInbox;
use crate::options::{self, Settings};
use crate::registry::RedisRegistry;
use crate::store::Redis;
use crate::transport::{CAPABILITIES, RedisTransport};

/// The driver, to be given to a builder.
pub static DRIVER: RedisDriver = RedisDriver;

/// Makes backends on Redis for `redis://` and `rediss://` URLs.
#[derive(Clone, Copy, Debug, Default)]
pub struct RedisDriver;

#[async_trait]
impl Driver for RedisDriver {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["redis", "rediss"]
    }

    fn options(&self) -> &'static [&'static str] {
        options::NAMES
    }

    fn capabilities(&self) -> &'static [Capability] {
        CAPABILITIES
    }

    fn commit_store(&self) -> Option<TypeId> {
        Some(TypeId::of::<Redis>())
    }

    async fn connect(&self, url: &BackendUrl, options: &ConnectOptions) -> Result<Backend, Error> {
        let settings = Settings::read(url, options)?;
        if Handle::try_current().is_err() {
            return Err(Error::new(
                ErrorKind::Config,
                "connect",
                "redis:// needs a tokio runtime: connect within one",
            ));
        }
        let connection = Arc::new(Connection::open(settings, &options.namespace).await?);
        let transport = Arc::new(RedisTransport::new(Arc::clone(&connection)));
        let inbox = RedisInbox::new(Arc::clone(&connection));
        let registry = RedisRegistry::new(Arc::clone(&connection));
        Ok(Backend::new("redis", transport)
            .with_registry(Arc::new(registry))
            .with_inbox(Arc::new(inbox))
            .with_dead_letters(Arc::new(RedisDeadLetters::new(connection))))
    }
}
