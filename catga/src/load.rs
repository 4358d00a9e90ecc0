//! How busy this node is.

use std::sync::Arc;
use std::time::Duration;

use catga_core::Load;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use crate::app::Inner;
use crate::table::Entry;

/// A task that waits so long for a worker finds the node full.
const FULL: Duration = Duration::from_millis(100);

/// The fullest handler decides, or the workers when they are busier: with what no handler counts, or with handlers that
/// do not wait.
pub(crate) async fn of(inner: &Inner, workers: &Handle) -> Load {
    let delay = run_queue_delay(workers).await.min(FULL);
    let queued = delay.as_micros() * 100 / FULL.as_micros();
    let fullest = inner.table.entries.iter().map(taken).max().unwrap_or(0);
    let percent = fullest.max(usize::try_from(queued).unwrap_or(100));
    Load::percent(u8::try_from(percent).unwrap_or(100))
}

/// The places of a handler that are taken, in per cent.
fn taken(entry: &Arc<Entry>) -> usize {
    if entry.is_request() && entry.slots.is_paused() {
        // Idle, and yet nobody for a request.
        return 100;
    }
    entry.slots.taken() * 100 / entry.slots.limit().max(1)
}

/// How long a task waits for a worker.
async fn run_queue_delay(workers: &Handle) -> Duration {
    let asked = Instant::now();
    let task = workers.spawn(async move { asked.elapsed() });
    match timeout(FULL, task).await {
        Ok(Ok(delay)) => delay,
        // It waits yet, or there are no workers any more.
        _ => FULL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn an_idle_worker_comes_at_once() {
        assert!(run_queue_delay(&Handle::current()).await < FULL);
    }

    #[test]
    fn workers_that_are_all_busy_are_full() {
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let workers = { runtime }.worker_threads(1).build().unwrap();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        workers.spawn(async move { ended.recv() });
        let own = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let delay = own.block_on(run_queue_delay(workers.handle()));
        assert_eq!(delay, FULL);
        drop(end);
    }
}
