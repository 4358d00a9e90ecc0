//! How the application is, and what its handlers counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use catga_core::{ConnectionState, Name, QoS, StatsReader};

use crate::app::Inner;
use crate::table::Entry;

/// How the application is: as well as its worst part.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The worst of the parts.
    pub status: HealthStatus,
    /// Backend, membership and handlers.
    pub parts: Vec<HealthPart>,
}

/// How one part is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthPart {
    /// `backend`, `membership` or `handlers`.
    pub name: &'static str,
    /// How it is.
    pub status: HealthStatus,
    /// Why, in words.
    pub detail: String,
}

/// From well to not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum HealthStatus {
    /// Works.
    Up,
    /// Works in part, or will again by itself.
    Degraded,
    /// Does not work.
    Down,
}

impl Health {
    pub(crate) fn of(inner: &Inner) -> Self {
        let backend = match inner.backend.transport.state() {
            ConnectionState::Connected => (HealthStatus::Up, "connected"),
            ConnectionState::Reconnecting => (HealthStatus::Degraded, "reconnecting"),
            ConnectionState::Draining => (HealthStatus::Degraded, "draining"),
            _ => (HealthStatus::Down, "closed"),
        };
        let part = |name, status, detail: String| HealthPart {
            name,
            status,
            detail,
        };
        let mut parts = vec![part(
            "backend",
            backend.0,
            format!("{}: {}", inner.backend.name, backend.1),
        )];
        let running = inner.lifecycle.is_running();
        if let Some(registry) = &inner.backend.registry {
            let (status, detail) = match inner.members.trouble() {
                _ if !running => (HealthStatus::Down, "left".to_owned()),
                None => {
                    let nodes = format!("{} nodes", inner.members.nodes().len());
                    let detail = match registry.ignored() {
                        0 => nodes,
                        ignored => format!("{nodes}; {ignored} entries are none, and ignored"),
                    };
                    (HealthStatus::Up, detail)
                }
                Some(trouble) => (HealthStatus::Degraded, trouble),
            };
            parts.push(part("membership", status, detail));
        }
        let (status, detail) = handlers(running, &inner.table.entries);
        parts.push(part("handlers", status, detail));
        let status = parts
            .iter()
            .map(|part| part.status)
            .max()
            .unwrap_or(HealthStatus::Up);
        Self { status, parts }
    }
}

fn handlers(running: bool, entries: &[Arc<Entry>]) -> (HealthStatus, String) {
    let named = |which: fn(&Entry) -> bool| {
        let names = entries.iter().filter(|entry| which(entry));
        names.map(|entry| entry.def.site.name).collect::<Vec<_>>()
    };
    if !running {
        return (HealthStatus::Down, "shut down".to_owned());
    }
    let ended = named(|entry| entry.ended.load(Ordering::Relaxed));
    if !ended.is_empty() {
        let detail = format!("no more messages arrive: {}", ended.join(", "));
        return (HealthStatus::Down, detail);
    }
    // All its places being taken is what back-pressure looks like: busy, not broken. And who pauses a
    // handler does not want the whole node to be taken for ill.
    let busy = [
        ("paused", named(|entry| entry.slots.is_paused())),
        ("at their limit", named(is_full)),
    ];
    let busy = busy.iter().filter(|(_, names)| !names.is_empty());
    let busy: Vec<_> = busy
        .map(|(how, names)| format!("{how}: {}", names.join(", ")))
        .collect();
    let detail = if busy.is_empty() {
        format!("{} registered", entries.len())
    } else {
        busy.join("; ")
    };
    (HealthStatus::Up, detail)
}

fn is_full(entry: &Entry) -> bool {
    !entry.slots.is_paused() && entry.slots.free() == 0
}

/// A handler that is registered, and what it counted since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandlerInfo {
    /// The function's name.
    pub name: &'static str,
    /// The function's module.
    pub module: &'static str,
    /// The source file.
    pub file: &'static str,
    /// The line in it.
    pub line: u32,
    /// The message that it handles.
    pub message: Name,
    /// The version of the message's schema.
    pub version: u32,
    /// The message's guarantee.
    pub qos: QoS,
    /// The consumer group.
    pub group: Name,
    /// Whether every node handles every message.
    pub each_node: bool,
    /// The most calls at once, also while it is paused.
    pub concurrency: usize,
    /// Whether it is [paused](crate::HandlerControl::pause).
    pub paused: bool,
    /// What it counted.
    pub stats: HandlerStats,
}

/// What a handler counted on this node since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandlerStats {
    /// Calls that succeeded.
    pub handled: u64,
    /// Calls that failed: an error, a panic, a time-out, a payload that cannot be decoded.
    pub failed: u64,
    /// Failures after which the message is delivered again.
    pub retried: u64,
    /// Failures after which the message went to the dead letters.
    pub dead_lettered: u64,
    /// QoS 0 messages that were dropped because the handler was too slow.
    pub dropped: u64,
    /// Messages and requests that were not run again, because the inbox knew them as done.
    pub duplicates: u64,
    /// Runs whose claim was lost before they completed: another member may have run them too.
    pub lost: u64,
    /// Calls that run now.
    pub in_flight: usize,
}

impl HandlerInfo {
    pub(crate) fn of(entry: &Entry) -> Self {
        let site = entry.def.site;
        Self {
            name: site.name,
            module: site.module,
            file: site.file,
            line: site.line,
            message: entry.message.clone(),
            version: entry.def.message.version,
            qos: entry.def.message.qos,
            group: entry.group.clone(),
            each_node: entry.def.options.each_node,
            concurrency: entry.slots.limit(),
            paused: entry.slots.is_paused(),
            stats: HandlerStats::of(entry),
        }
    }
}

impl HandlerStats {
    pub(crate) fn of(entry: &Entry) -> Self {
        let counters = &entry.counters;
        let subscription = entry.subscription.get();
        let subscription = subscription.map(StatsReader::read).unwrap_or_default();
        Self {
            handled: read(&counters.handled),
            failed: read(&counters.failed),
            retried: read(&counters.retried),
            dead_lettered: read(&counters.dead_lettered),
            dropped: read(&counters.dropped) + subscription.dropped,
            duplicates: read(&counters.duplicates) + subscription.duplicates,
            lost: read(&counters.lost),
            in_flight: entry.slots.taken(),
        }
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(all(test, feature = "macros", feature = "memory"))]
mod tests {
    use std::time::Duration;

    use serde::{Deserialize, Serialize};

    use super::HealthStatus;
    use crate::handlers;
    use crate::prelude::{Catga, Event, handler};

    #[derive(Event, Serialize, Deserialize)]
    struct Tick;

    #[handler]
    async fn on_tick(_: Tick) {}

    #[handler(each_node)]
    async fn each_tick(_: Tick) {}

    async fn node() -> Catga {
        let node = Catga::builder().connect("memory://").service("test");
        let node = node.handlers(handlers![on_tick, each_tick]);
        node.start().await.expect("memory is always there")
    }

    fn part(catga: &Catga, name: &str) -> (HealthStatus, String) {
        let parts = catga.health().parts;
        let part = parts.into_iter().find(|part| part.name == name);
        part.map(|part| (part.status, part.detail))
            .expect("health has this part")
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_shutdown_every_part_is_down() {
        let catga = node().await;
        assert_eq!(catga.health().status, HealthStatus::Up);
        catga.shutdown().await.unwrap();
        let health = catga.health();
        assert!(
            health.parts.iter().all(|p| p.status == HealthStatus::Down),
            "{health:?}"
        );
        let left = (HealthStatus::Down, "left".to_owned());
        assert_eq!(part(&catga, "membership"), left);
    }

    #[tokio::test(start_paused = true)]
    async fn handlers_whose_messages_end_are_named() {
        let catga = node().await;
        catga.backend().transport.close().await.unwrap();
        let detail = "no more messages arrive: each_tick, on_tick".to_owned();
        let down = (HealthStatus::Down, detail);
        let ended = async {
            while part(&catga, "handlers") != down {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
        assert!(ended.is_ok(), "{:?}", catga.health());
    }
}
