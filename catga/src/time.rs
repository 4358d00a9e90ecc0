//! Deadlines.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// As good as never: later instants cannot be reckoned with on every platform.
pub(crate) const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// The instant that is `limit` after `start`.
pub(crate) fn after(start: Instant, limit: Duration) -> Instant {
    start + limit.min(FAR)
}

/// The instant that is `limit` from now.
pub(crate) fn from_now(limit: Duration) -> Instant {
    after(Instant::now(), limit)
}

/// The time until `deadline`.
pub(crate) fn time_left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Runs a future until it ends or is too late; `None` lets it take its time.
pub(crate) async fn within<T>(
    deadline: Option<Instant>,
    future: impl Future<Output = T>,
) -> Option<T> {
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}
