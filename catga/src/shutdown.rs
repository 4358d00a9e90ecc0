//! The end of an application.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use catga_core::{Error, ErrorKind};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::app::Inner;
use crate::guard;

/// How a shutdown ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Handlers that still ran at the end of the time; their messages went back to the broker.
    pub unfinished: usize,
}

const RUNNING: u8 = 0;
const DRAINING: u8 = 1;
const STOPPED: u8 = 2;

/// Where an application is between its start and its end.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    /// What calls look at; `phase` is what tasks wait on.
    now: AtomicU8,
    phase: watch::Sender<Phase>,
    report: watch::Sender<Option<ShutdownReport>>,
    /// Handlers that called `shutdown` themselves, and are not waited for.
    excused: AtomicUsize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// Nothing new; what runs may finish until then.
    Draining(Instant),
    /// What still runs is dropped.
    Stopped,
}

impl Lifecycle {
    pub(crate) fn new() -> Self {
        Self {
            now: AtomicU8::new(RUNNING),
            phase: watch::Sender::new(Phase::Running),
            report: watch::Sender::new(None),
            excused: AtomicUsize::new(0),
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.now.load(Ordering::Relaxed) == RUNNING
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.now.load(Ordering::Relaxed) == STOPPED
    }

    pub(crate) fn drain(&self, limit: Duration) {
        self.phase.send_if_modified(|phase| {
            let first = *phase == Phase::Running;
            if first {
                self.now.store(DRAINING, Ordering::Relaxed);
                *phase = Phase::Draining(Instant::now() + limit);
            }
            first
        });
    }

    fn stop(&self) {
        self.now.store(STOPPED, Ordering::Relaxed);
        self.phase.send_replace(Phase::Stopped);
    }

    /// Waits until no new message may be taken.
    pub(crate) async fn draining(&self) {
        self.reached(|phase| phase != Phase::Running).await;
    }

    /// Waits until what runs is to be dropped.
    pub(crate) async fn stopped(&self) {
        self.reached(|phase| phase == Phase::Stopped).await;
    }

    async fn reached(&self, there: impl Fn(Phase) -> bool) -> Phase {
        let mut phase = self.phase.subscribe();
        let phase = phase.wait_for(|phase| there(*phase)).await;
        *phase.expect("the sender is in `self`")
    }
}

impl Inner {
    pub(crate) async fn shutdown(&self, limit: Duration) -> Result<ShutdownReport, Error> {
        if guard::inside_handler_of(self.address()) {
            self.lifecycle.excused.fetch_add(1, Ordering::SeqCst);
        }
        let mut report = self.lifecycle.report.subscribe();
        self.lifecycle.drain(limit);
        let report = report.wait_for(Option::is_some).await;
        report
            .ok()
            .and_then(|report| *report)
            .ok_or_else(|| Error::new(ErrorKind::Closed, "shutdown", "it was interrupted"))
    }
}

/// Waits for the end, and brings it about in order: leave the cluster, take nothing new, let finish
/// what runs, give back the rest, flush, close.
pub(crate) async fn supervise(
    inner: Arc<Inner>,
    mut loops: JoinSet<()>,
    mut membership: JoinSet<()>,
) {
    let lifecycle = &inner.lifecycle;
    let Phase::Draining(deadline) = lifecycle.reached(|phase| phase != Phase::Running).await else {
        return;
    };
    membership.shutdown().await;
    if let Some(registry) = &inner.backend.registry {
        let left = deadline.max(Instant::now() + Duration::from_secs(1));
        match tokio::time::timeout_at(left, registry.unregister(&inner.node)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "could not leave the registry; others will see the time-out");
            }
            Err(_) => {
                tracing::warn!("leaving the registry took too long; others will see the time-out");
            }
        }
    }
    finished(&inner, deadline).await;
    let unfinished = inner
        .table
        .running()
        .saturating_sub(lifecycle.excused.load(Ordering::SeqCst));
    let report = ShutdownReport { unfinished };
    if lifecycle.excused.load(Ordering::SeqCst) > 0 {
        // The handler that waits for this answer is to be finished before the connection goes.
        lifecycle.report.send_replace(Some(report));
        lifecycle.excused.store(0, Ordering::SeqCst);
        finished(&inner, deadline).await;
    }
    lifecycle.stop();
    // What was dropped gives its message back; that takes a round trip, not a handler's time.
    let soon = Instant::now() + Duration::from_secs(1);
    finished(&inner, soon).await;
    if tokio::time::timeout_at(soon, async { while loops.join_next().await.is_some() {} })
        .await
        .is_err()
    {
        tracing::warn!("a subscription could not be closed in time");
    }
    let transport = &inner.backend.transport;
    let flushed = tokio::time::timeout_at(soon, async {
        transport.flush().await?;
        transport.close().await
    });
    match flushed.await {
        Ok(Ok(())) => tracing::info!(unfinished, "catga stopped"),
        Ok(Err(error)) => {
            tracing::warn!(unfinished, %error, "catga stopped, and the backend did not close cleanly");
        }
        Err(_) => tracing::warn!(
            unfinished,
            "catga stopped, and the backend did not close in time"
        ),
    }
    lifecycle.report.send_if_modified(|old| {
        let first = old.is_none();
        old.get_or_insert(report);
        first
    });
}

/// Waits until no handler runs but those that wait for us, or until `deadline`.
async fn finished(inner: &Inner, deadline: Instant) {
    while inner.table.running() > inner.lifecycle.excused.load(Ordering::SeqCst)
        && Instant::now() < deadline
    {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits for ctrl-c, or on Unix also SIGTERM.
pub(crate) async fn signal() -> Result<(), Error> {
    let wrong = |e: std::io::Error| {
        Error::new(
            ErrorKind::Unavailable,
            "shutdown",
            "signals cannot be received",
        )
        .with_source(e)
    };
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut term = signal(SignalKind::terminate()).map_err(wrong)?;
        tokio::select! {
            biased;
            _ = term.recv() => Ok(()),
            ctrl_c = tokio::signal::ctrl_c() => ctrl_c.map_err(wrong),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await.map_err(wrong)
}
