//! What the client tells of its connection while it makes it again by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use async_nats::{Event, ServerError};
use tokio::sync::Notify;

/// The most refusals that are remembered, the newest.
const REFUSALS: usize = 64;

/// The state of a connection.
#[derive(Debug, Default)]
pub(crate) struct Link {
    connected: AtomicBool,
    /// How often a connection was made.
    epoch: AtomicU64,
    /// How often one was lost.
    lost: AtomicU64,
    changed: Notify,
    /// How often the server refused a subject, and which ones it were.
    refused: AtomicU64,
    refusals: ArcSwap<Vec<(u64, String)>>,
    /// Why there is no connection.
    problem: ArcSwapOption<String>,
}

impl Link {
    pub(crate) fn hear(&self, event: &Event) {
        match event {
            Event::Connected => {
                self.problem.store(None);
                self.epoch.fetch_add(1, Ordering::SeqCst);
                self.connected.store(true, Ordering::SeqCst);
                tracing::info!("connected to NATS");
            }
            Event::Disconnected => {
                self.connected.store(false, Ordering::SeqCst);
                self.lost.fetch_add(1, Ordering::SeqCst);
                tracing::warn!("the connection to NATS was lost; it is being made again");
            }
            Event::ServerError(ServerError::AuthorizationViolation) => {
                self.problem
                    .store(Some(Arc::new("authorization violation".to_owned())));
            }
            Event::ServerError(ServerError::Other(text)) => self.complained(text),
            Event::ClientError(error) => {
                self.problem.store(Some(Arc::new(error.to_string())));
                tracing::debug!(%error, "NATS is not reached");
            }
            event => tracing::debug!(%event, "NATS"),
        }
        self.changed.notify_waiters();
    }

    fn complained(&self, text: &str) {
        tracing::warn!(error = text, "NATS complains");
        if !text.to_ascii_lowercase().contains("permissions violation") {
            return;
        }
        let Some(subject) = text.split('"').nth(1) else {
            return;
        };
        let number = self.refused.fetch_add(1, Ordering::SeqCst) + 1;
        self.refusals.rcu(|known| {
            let old = known.len().saturating_sub(REFUSALS - 1);
            let mut refusals = known[old..].to_vec();
            refusals.push((number, subject.to_owned()));
            refusals
        });
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::SeqCst)
    }

    /// The number of the present connection.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// How often a connection was lost.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::SeqCst)
    }

    /// How often the server has refused a subject.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::SeqCst)
    }

    /// Whether it refused this one since.
    pub(crate) fn has_refused(&self, subject: &str, since: u64) -> bool {
        let refusals = self.refusals.load();
        refusals
            .iter()
            .any(|(number, refused)| *number > since && refused == subject)
    }

    /// Why there is no connection, where the client said so.
    pub(crate) fn problem(&self) -> Option<Arc<String>> {
        self.problem.load_full()
    }

    /// Waits until `is` holds, which is asked again at each event.
    pub(crate) async fn until(&self, is: impl Fn(&Self) -> bool) {
        loop {
            // Made before it is asked: an event between the two still wakes it.
            let changed = self.changed.notified();
            if is(self) {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_by_subject_and_age() {
        let link = Link::default();
        let refuse = |subject: &str| {
            let text = format!("Permissions Violation for Publish to \"{subject}\"");
            link.hear(&Event::ServerError(ServerError::Other(text)));
        };
        refuse("a");
        let since = link.refused();
        assert!(link.has_refused("a", 0) && !link.has_refused("a", since));
        refuse("b");
        assert!(link.has_refused("b", since) && !link.has_refused("c", 0));
        for i in 0..100 {
            refuse(&i.to_string());
        }
        assert!(link.refusals.load().len() <= REFUSALS && link.has_refused("99", since));
    }
}
