//! Streams: created when missing, compared when present.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_nats::Subject;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use catga_core::{ConnectOptions, Error, Name};
use serde_json::json;

use crate::connection::Connection;
use crate::error;
use crate::options::StreamSettings;

/// No stream of this name.
const NOT_FOUND: u64 = 10059;
/// A stream of this name is there, with other settings.
const EXISTS: u64 = 10058;
/// Another stream has these subjects; nats-server 2.9 says so, too, of the same stream that somebody else makes at this moment.
const OVERLAPS: u64 = 10065;
/// How often it is looked whether somebody else was faster.
const ROUNDS: usize = 3;

/// The stream of a message, as it was found.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) stream: String,
    /// Where messages without a routing key go.
    pub(crate) subject: Subject,
    /// When the stream was made: another one under its name begins to count anew.
    pub(crate) created: String,
    /// Whether its size has a bound.
    bounded: bool,
}

/// The streams that were found.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    known: ArcSwap<HashMap<Name, Arc<Route>>>,
}

impl Routes {
    /// The stream of a message, where it was found before.
    pub(crate) fn known(&self, message: &Name) -> Option<Arc<Route>> {
        self.known.load().get(message).map(Arc::clone)
    }

    /// The stream of a message, which is there.
    pub(crate) async fn route(
        &self,
        connection: &Connection,
        operation: &'static str,
        message: &Name,
    ) -> Result<Arc<Route>, Error> {
        if let Some(route) = self.known(message) {
            return Ok(route);
        }
        let asked = message_stream(connection, message);
        let info = ensure(connection, operation, &asked, &connection.settings.stream).await?;
        let route = Arc::new(Route {
            stream: asked.name,
            subject: connection.names.stored(message, 0),
            created: format!("{:?}", info.created),
            bounded: info.config.max_bytes > 0,
        });
        self.known.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.insert(message.clone(), Arc::clone(&route));
            known
        });
        Ok(route)
    }

    /// The streams whose size has a bound.
    pub(crate) fn bounded(&self) -> Vec<String> {
        let known = self.known.load();
        let bounded = known.values().filter(|route| route.bounded);
        bounded.map(|route| route.stream.clone()).collect()
    }

    /// Forgets a stream that did not answer, so that the next to need it looks.
    pub(crate) fn forget(&self, message: &Name) {
        self.known.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.remove(message);
            known
        });
    }
}

fn message_stream(connection: &Connection, message: &Name) -> Config {
    let set = &connection.settings.stream;
    let max_age = set.max_age.unwrap_or(StreamSettings::MAX_AGE);
    let window = set
        .duplicate_window
        .unwrap_or(ConnectOptions::DUPLICATE_WINDOW);
    Config {
        name: connection.names.stream(message),
        subjects: connection.names.stream_subjects(message),
        retention: set.retention.unwrap_or_default(),
        storage: set.storage.unwrap_or_default(),
        num_replicas: set.replicas.unwrap_or(1),
        discard: DiscardPolicy::New,
        max_bytes: set.max_bytes.unwrap_or(-1),
        max_age,
        // The server takes no window that is longer than messages are kept.
        duplicate_window: window.min(max_age),
        ..Config::default()
    }
}

/// The stream of dead letters: on file, and kept until somebody looks.
pub(crate) fn dead_stream(connection: &Connection) -> (Config, StreamSettings) {
    let set = &connection.settings.stream;
    let asked = StreamSettings {
        replicas: set.replicas,
        storage: set.storage,
        ..StreamSettings::default()
    };
    let config = Config {
        name: connection.names.dead_stream(),
        subjects: connection.names.dead_subjects(),
        storage: asked.storage.unwrap_or(StorageType::File),
        num_replicas: asked.replicas.unwrap_or(1),
        discard: DiscardPolicy::New,
        duplicate_window: ConnectOptions::DUPLICATE_WINDOW,
        allow_direct: true,
        ..Config::default()
    };
    (config, asked)
}

/// Makes sure that a stream is there and is what it should be. What `asked` does not say is left as it is.
pub(crate) async fn ensure(
    connection: &Connection,
    operation: &'static str,
    config: &Config,
    asked: &StreamSettings,
) -> Result<Info, Error> {
    let what = format!("stream `{}`", config.name);
    let info = format!("STREAM.INFO.{}", config.name);
    for round in 1..=ROUNDS {
        match connection.api::<Info>(operation, &info, &json!({})).await? {
            Ok(info) => {
                compare(operation, &what, config, asked, &info.config)?;
                return Ok(info);
            }
            Err(problem) if problem.error_code().0 != NOT_FOUND => {
                return Err(error::jetstream(operation, &what, &problem));
            }
            Err(_) if !connection.settings.manage => return Err(error::missing(operation, &what)),
            Err(_) => {}
        }
        let create = format!("STREAM.CREATE.{}", config.name);
        match connection.api::<Info>(operation, &create, config).await? {
            Ok(info) => {
                // What a server does not know it leaves out without a word.
                compare(operation, &what, config, asked, &info.config)?;
                tracing::info!(stream = config.name, "created");
                return Ok(info);
            }
            // Somebody else was faster: what they made is looked at.
            Err(problem) if problem.error_code().0 == EXISTS => {}
            Err(problem) if problem.error_code().0 == OVERLAPS && round < ROUNDS => {}
            Err(problem) => return Err(error::jetstream(operation, &what, &problem)),
        }
    }
    Err(error::no_jetstream(operation))
}

fn compare(
    operation: &'static str,
    what: &str,
    config: &Config,
    asked: &StreamSettings,
    present: &Config,
) -> Result<(), Error> {
    let differs = |setting, is: &dyn std::fmt::Debug, wanted: &dyn std::fmt::Debug| {
        Err(error::differs(operation, what, setting, is, wanted))
    };
    if config
        .subjects
        .iter()
        .any(|subject| !present.subjects.contains(subject))
    {
        return differs("subjects", &present.subjects, &config.subjects);
    }
    let limited = present.max_bytes > 0 || present.max_messages > 0;
    if present.discard == DiscardPolicy::Old && config.discard == DiscardPolicy::New && limited {
        return differs("discard", &present.discard, &config.discard);
    }
    if present.retention == RetentionPolicy::WorkQueue || asked.retention.is_some() {
        let wanted = config.retention;
        if present.retention != wanted {
            return differs("retention", &present.retention, &wanted);
        }
    }
    if let Some(wanted) = asked.storage.filter(|wanted| *wanted != present.storage) {
        return differs("storage", &present.storage, &wanted);
    }
    if let Some(wanted) = asked
        .replicas
        .filter(|wanted| *wanted != present.num_replicas)
    {
        return differs("replicas", &present.num_replicas, &wanted);
    }
    if let Some(wanted) = asked.max_age.filter(|wanted| *wanted != present.max_age) {
        return differs("max_age", &present.max_age, &wanted);
    }
    if let Some(wanted) = asked
        .max_bytes
        .filter(|wanted| *wanted != present.max_bytes)
    {
        return differs("max_bytes", &present.max_bytes, &wanted);
    }
    let window = asked.duplicate_window.map(|_| config.duplicate_window);
    if let Some(wanted) = window.filter(|wanted| *wanted != present.duplicate_window) {
        return differs("duplicate_window", &present.duplicate_window, &wanted);
    }
    if present.allow_direct != config.allow_direct && config.allow_direct {
        return differs("allow_direct", &present.allow_direct, &true);
    }
    Ok(())
}
