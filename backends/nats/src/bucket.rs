//! A key-value bucket: the last message of each subject of a stream.
//!
//! By hand, since the client's own way to make one fails on nats-server 2.9.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use catga_core::{Bytes, ConnectOptions, Error, ErrorKind};

use crate::connection::Connection;
use crate::direct::Which;
use crate::options::StreamSettings;
use crate::streams;

/// Where a key is to stand for a write to succeed: 0 is nowhere.
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";

/// One bucket of a namespace.
#[derive(Debug)]
pub(crate) struct Bucket {
    name: String,
    /// How long what is not written again is kept.
    max_age: Duration,
    found: AtomicBool,
}

/// A value, and where it stands.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) revision: u64,
    pub(crate) time: SystemTime,
    pub(crate) value: Bytes,
}

/// Whether a write found the key where it was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// It stands there now.
    Written(u64),
    /// Somebody else wrote before.
    Moved,
}

impl Bucket {
    pub(crate) fn new(name: String, max_age: Duration) -> Self {
        Self {
            name,
            max_age,
            found: AtomicBool::new(false),
        }
    }

    fn stream(&self) -> String {
        format!("KV_{}", self.name)
    }

    fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.name)
    }

    async fn ensure(&self, connection: &Connection, operation: &'static str) -> Result<(), Error> {
        if self.found.load(Ordering::Relaxed) {
            return Ok(());
        }
        let set = &connection.settings.stream;
        let asked = StreamSettings {
            replicas: set.replicas,
            storage: set.storage,
            max_age: Some(self.max_age),
            ..StreamSettings::default()
        };
        let config = Config {
            name: self.stream(),
            subjects: vec![self.subject(">")],
            max_messages_per_subject: 1,
            max_age: self.max_age,
            storage: asked.storage.unwrap_or(StorageType::File),
            num_replicas: asked.replicas.unwrap_or(1),
            discard: DiscardPolicy::New,
            duplicate_window: ConnectOptions::DUPLICATE_WINDOW.min(self.max_age),
            allow_rollup: true,
            allow_direct: true,
            deny_delete: true,
            ..Config::default()
        };
        streams::ensure(connection, operation, &config, &asked).await?;
        self.found.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The value of a key.
    pub(crate) async fn get(
        &self,
        connection: &Connection,
        operation: &'static str,
        key: &str,
    ) -> Result<Option<Entry>, Error> {
        self.ensure(connection, operation).await?;
        let subject = self.subject(key);
        let which = Which {
            last_by_subj: Some(&subject),
            ..Which::default()
        };
        let kept = connection.read(operation, &self.stream(), which).await;
        if kept.is_err() {
            // A stream that is gone does not answer.
            self.found.store(false, Ordering::Relaxed);
        }
        Ok(kept?.map(|kept| Entry {
            revision: kept.sequence,
            time: kept.time,
            value: kept.payload,
        }))
    }

    /// Writes a key that stands at `revision`; 0 when it is new.
    pub(crate) async fn put(
        &self,
        connection: &Connection,
        operation: &'static str,
        key: &str,
        revision: u64,
        value: Bytes,
    ) -> Result<Put, Error> {
        self.ensure(connection, operation).await?;
        let mut headers = HeaderMap::new();
        headers.insert(EXPECTED, revision.to_string());
        let (subject, by) = (self.subject(key), connection.call_deadline());
        let stored = connection
            .store(operation, subject.into(), Some(headers), value, by)
            .await;
        match stored {
            Ok(stored) => Ok(Put::Written(stored.sequence)),
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(Put::Moved),
            Err(error) => {
                if error.kind() == ErrorKind::NotFound {
                    self.found.store(false, Ordering::Relaxed);
                }
                Err(error)
            }
        }
    }
}
