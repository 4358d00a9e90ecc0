//! A key-value bucket: the last message of each subject of a stream.
//!
//! By hand, since the client's own way to make one fails on nats-server 2.9.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, StorageType};
use catga_core::{Bytes, ConnectOptions, Error, ErrorKind};

use crate::connection::Connection;
use crate::direct::Which;
use crate::options::StreamSettings;
use crate::{streams, wire};

/// Where a key is to stand for a write to succeed: 0 is nowhere.
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";

/// What is done to a key, where it is not given a value.
const OPERATION: &str = "KV-Operation";

/// One bucket of a namespace.
#[derive(Debug)]
pub(crate) struct Bucket {
    name: String,
    /// How long what is not written again is kept.
    max_age: Duration,
    /// How many values of a key are kept.
    history: i64,
    /// The most bytes of all; -1 is no bound.
    max_bytes: i64,
    /// Whether one that is there has to keep values as long.
    is_exact: bool,
    found: AtomicBool,
}

/// A value, and where it stands.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) revision: u64,
    pub(crate) time: SystemTime,
    /// None where the key was deleted.
    pub(crate) value: Option<Bytes>,
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
            history: 1,
            max_bytes: -1,
            is_exact: true,
            found: AtomicBool::new(false),
        }
    }

    /// Sets how many values of a key are kept, and the most bytes of all. One that is there is taken with the limits that
    /// it has.
    pub(crate) fn with_limits(mut self, history: i64, max_bytes: i64) -> Self {
        (self.history, self.max_bytes) = (history, max_bytes);
        self.is_exact = false;
        self
    }

    /// The stream that it is.
    pub(crate) fn stream(&self) -> String {
        format!("KV_{}", self.name)
    }

    /// The subject of a key.
    pub(crate) fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.name)
    }

    /// Makes sure that it is there, unless it was seen before.
    pub(crate) async fn ensure(
        &self,
        connection: &Connection,
        operation: &'static str,
    ) -> Result<(), Error> {
        if self.found.load(Ordering::Relaxed) {
            return Ok(());
        }
        // A box, as for all that is seldom waited for: the futures of the others stay small.
        Box::pin(self.look(connection, operation)).await.map(drop)
    }

    /// Asks the server for it, and makes it where it is missing.
    pub(crate) async fn look(
        &self,
        connection: &Connection,
        operation: &'static str,
    ) -> Result<Info, Error> {
        let set = &connection.settings.stream;
        let asked = StreamSettings {
            replicas: set.replicas,
            storage: set.storage,
            max_age: self.is_exact.then_some(self.max_age),
            ..StreamSettings::default()
        };
        let config = Config {
            name: self.stream(),
            subjects: vec![self.subject(">")],
            max_messages_per_subject: self.history,
            max_bytes: self.max_bytes,
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
        let found = streams::ensure(connection, operation, &config, &asked).await;
        self.found.store(found.is_ok(), Ordering::Relaxed);
        found
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
            value: (!is_deletion(Some(&kept.headers))).then_some(kept.payload),
        }))
    }

    /// Writes a key that stands at `revision`; 0 when it is new.
    pub(crate) fn put<'a>(
        &'a self,
        connection: &'a Connection,
        operation: &'static str,
        key: &'a str,
        revision: u64,
        value: Bytes,
    ) -> impl Future<Output = Result<Put, Error>> + Send + 'a {
        self.write(connection, operation, key, revision, None, value)
    }

    /// Deletes a key that stands at `revision`: what is kept says that it was.
    pub(crate) async fn delete(
        &self,
        connection: &Connection,
        operation: &'static str,
        key: &str,
        revision: u64,
    ) -> Result<Put, Error> {
        let deletion = Some("DEL");
        self.write(connection, operation, key, revision, deletion, Bytes::new())
            .await
    }

    async fn write(
        &self,
        connection: &Connection,
        operation: &'static str,
        key: &str,
        revision: u64,
        kind: Option<&'static str>,
        value: Bytes,
    ) -> Result<Put, Error> {
        self.ensure(connection, operation).await?;
        let headers = || {
            let mut headers = HeaderMap::new();
            headers.insert(EXPECTED, revision.to_string());
            if let Some(kind) = kind {
                headers.insert(OPERATION, kind);
            }
            Some(headers)
        };
        let (subject, by) = (self.subject(key), connection.call_deadline());
        let stored = connection
            .store(operation, subject.into(), headers, value, by)
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

/// Whether a message says that its key was deleted.
pub(crate) fn is_deletion(headers: Option<&HeaderMap>) -> bool {
    matches!(wire::text(headers, OPERATION), Some("DEL" | "PURGE"))
}
