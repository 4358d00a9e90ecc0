//! The value that this backend exports.

use std::sync::Arc;

use catga_core::{
    Backend, BackendUrl, Capability, ConnectOptions, Driver, Error, ErrorKind, async_trait,
};

use crate::letters::FileDeadLetters;
use crate::options::{self, Options};
use crate::store::{Store, on_disk};
use crate::transport::{CAPABILITIES, FileTransport};

/// Makes backends for URLs like `file:///path/to/folder`; the folder is made when it is not there.
///
/// Connections share what is in a folder, in one process or in many. Each of them has its own options:
///
/// | option | default | meaning |
/// |---|---|---|
/// | `max_messages` | 10000 | how many messages of one name are retained, or a few more when several publish at once |
/// | `max_payload` | 1048576 | the most bytes that payload and headers of a message have together |
/// | `poll_ms` | 5 | how long a subscription waits before it looks again, in milliseconds |
/// | `sync` | true | whether `publish` waits for the disk; without it a power cut may take what was acknowledged, a killed process never does |
/// | `bug` | none | the name of a [`Bug`](crate::Bug): `ack_before_handler`, `skip_every_100th`, `forget_lease` |
#[derive(Clone, Copy, Debug, Default)]
pub struct FileDriver;

#[async_trait]
impl Driver for FileDriver {
    fn name(&self) -> &'static str {
        "file"
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["file"]
    }

    fn options(&self) -> &'static [&'static str] {
        options::NAMES
    }

    fn capabilities(&self) -> &'static [Capability] {
        CAPABILITIES
    }

    async fn connect(&self, url: &BackendUrl, options: &ConnectOptions) -> Result<Backend, Error> {
        let asked = Options::read(url)?;
        let namespace = options.namespace.clone();
        let store = on_disk("connect", move || {
            let folder = asked.folder.display().to_string();
            Store::open(asked, &namespace).map_err(|error| {
                Error::new(
                    ErrorKind::Connect,
                    "connect",
                    format!(
                        "the folder {folder} cannot be used: make it, or let this user write to it"
                    ),
                )
                .with_source(error)
            })
        })
        .await?;
        let transport = Arc::new(FileTransport::new(Arc::clone(&store)));
        Ok(
            Backend::new("file", transport)
                .with_dead_letters(Arc::new(FileDeadLetters::new(store))),
        )
    }
}
