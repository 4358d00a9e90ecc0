//! Where the messages of one name go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use catga_core::Name;
use papaya::HashMap;
use redis::Value;
use tokio::time::Instant;

use crate::error;
use crate::names::Names;
use crate::time::millis;
use crate::writer::Outcome;

/// How long a stream that groups read at QoS 0 is taken for absent, once it was.
const ABSENT: Duration = Duration::from_millis(100);
/// How often it is said that a partition has a stream: what says it may be deleted.
const SAID: Duration = Duration::from_secs(10);

/// The keys of one message name.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) name: Name,
    /// The stream of partition 0.
    pub(crate) stream: String,
    /// The channel and stream of QoS 0.
    pub(crate) event: String,
    /// Tells slots of a cluster apart.
    pub(crate) slot: u64,
    began: Instant,
    /// Until when no group listens at QoS 0, in milliseconds since it began.
    absent_until: AtomicU64,
    /// When the log was told last that events are lost.
    told: AtomicU64,
    /// When it was said last that a partition has a stream; none where others say so.
    partitions: HashMap<u16, Option<Instant>>,
    /// How many were added to the streams.
    pub(crate) added: AtomicU64,
    /// Whether its streams have a part in the trimming.
    pub(crate) trimmed: AtomicBool,
}

impl Route {
    fn new(names: &Names, name: &Name) -> Self {
        Self {
            stream: names.stream(name, 0),
            event: names.event(name),
            slot: hash(name.as_str()),
            name: name.clone(),
            began: Instant::now(),
            absent_until: AtomicU64::new(0),
            told: AtomicU64::new(0),
            partitions: HashMap::new(),
            added: AtomicU64::new(0),
            trimmed: AtomicBool::new(false),
        }
    }

    /// Whether groups may listen at QoS 0.
    pub(crate) fn may_have_groups(&self) -> bool {
        millis(self.began.elapsed()) >= self.absent_until.load(Ordering::Relaxed)
    }

    /// Notes whether there is a stream that groups read at QoS 0.
    pub(crate) fn heard(&self, outcome: &Outcome) {
        match outcome {
            Ok(Ok(Value::Nil)) => {
                let until = millis(self.began.elapsed() + ABSENT);
                self.absent_until.store(until, Ordering::Relaxed);
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => self.refused(error),
            Err(error) => tracing::debug!(message = %self.name, %error, "an event was lost"),
        }
    }

    /// Nobody waits to hear of it, so that the log is told, and not of each one.
    fn refused(&self, error: &redis::RedisError) {
        let now = millis(self.began.elapsed());
        let told = self.told.load(Ordering::Relaxed);
        if told != 0 && now < told + millis(SAID) {
            return;
        }
        self.told.store(now.max(1), Ordering::Relaxed);
        let error = error::of("publish", &self.event, error);
        let kind = error.kind();
        tracing::warn!(message = %self.name, %error, %kind, "events are lost");
    }

    /// Whether it is time to say that a partition has a stream.
    pub(crate) fn is_to_be_said(&self, partition: u16) -> bool {
        let partitions = self.partitions.pin();
        let said = partitions.get(&partition).copied().flatten();
        said.is_none_or(|said| said.elapsed() >= SAID)
    }

    /// Notes that it was said, and heard.
    pub(crate) fn was_said(&self, partition: u16) {
        self.partitions
            .pin()
            .insert(partition, Some(Instant::now()));
    }

    /// Notes that there is the stream of a partition.
    pub(crate) fn exists(&self, partition: u16) {
        if partition > 0 {
            self.partitions.pin().get_or_insert(partition, None);
        }
    }

    /// The partitions that are known, beside the first.
    pub(crate) fn partitions(&self) -> Vec<u16> {
        self.partitions.pin().keys().copied().collect()
    }
}

/// The routes of a connection.
#[derive(Debug, Default)]
pub(crate) struct Routes(HashMap<Name, Arc<Route>>);

impl Routes {
    pub(crate) fn route(&self, names: &Names, name: &Name) -> Arc<Route> {
        let routes = self.0.pin();
        if let Some(route) = routes.get(name) {
            return Arc::clone(route);
        }
        Arc::clone(routes.get_or_insert_with(name.clone(), || Arc::new(Route::new(names, name))))
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<Route>> {
        self.0.pin().values().cloned().collect()
    }
}

/// FNV-1a.
pub(crate) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
