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
use crate::membership::Membership;
use crate::table::Entry;
use crate::time::from_now;

/// How a shutdown ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Handlers that still ran at the end of the time and were dropped; at QoS 1 and 2 their messages
    /// went back to the broker.
    pub unfinished: usize,
    /// Whether the backend could not be closed cleanly: of what was published or settled last, the broker may not have heard.
    /// A handler that waits for the shutdown is told before that is known, and finds `false`.
    pub unflushed: bool,
}

/// What the last words to a broker may take.
const A_ROUND_TRIP: Duration = Duration::from_secs(1);

const RUNNING: u8 = 0;
const LEAVING: u8 = 1;
const DRAINING: u8 = 2;
const STOPPED: u8 = 3;

/// Where an application is between its start and its end.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    /// What calls look at; `phase` is what tasks wait on. Written under the lock of that, so that the two agree.
    now: AtomicU8,
    phase: watch::Sender<Phase>,
    end: watch::Receiver<Option<End>>,
    /// Handlers that wait for the shutdown themselves, and are not waited for.
    excused: AtomicUsize,
}

/// The end as far as it has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    report: ShutdownReport,
    /// Whether everything is closed, too.
    closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// No new events; others are told that this node goes, and until they know, the requests that they send are handled.
    Leaving(Instant),
    /// Nothing new; what runs may finish until then.
    Draining(Instant),
    /// What still runs is dropped.
    Stopped,
}

impl Lifecycle {
    /// A new life, and where its end is to be reported. Who drops the latter unused, because the
    /// runtime ends, leaves nobody waiting.
    pub(crate) fn new() -> (Self, watch::Sender<Option<End>>) {
        let (reporter, end) = watch::channel(None);
        let lifecycle = Self {
            now: AtomicU8::new(RUNNING),
            phase: watch::Sender::new(Phase::Running),
            end,
            excused: AtomicUsize::new(0),
        };
        (lifecycle, reporter)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.now.load(Ordering::Relaxed) == RUNNING
    }

    /// Whether new messages of a handler are taken.
    pub(crate) fn takes_for(&self, entry: &Entry) -> bool {
        let last = if entry.is_request() { LEAVING } else { RUNNING };
        self.now.load(Ordering::Relaxed) <= last
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.now.load(Ordering::Relaxed) == STOPPED
    }

    /// Begins the end: others are told first.
    pub(crate) fn leave(&self, limit: Duration) {
        self.end_of(Phase::Running, LEAVING, Phase::Leaving(from_now(limit)));
    }

    /// Begins the end at once.
    pub(crate) fn drain(&self, limit: Duration) {
        self.end_of(Phase::Running, DRAINING, Phase::Draining(from_now(limit)));
    }

    fn drain_after_leaving(&self, deadline: Instant) {
        self.end_of(
            Phase::Leaving(deadline),
            DRAINING,
            Phase::Draining(deadline),
        );
    }

    fn end_of(&self, from: Phase, now: u8, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let first = *phase == from;
            if first {
                self.now.store(now, Ordering::Relaxed);
                *phase = to;
            }
            first
        });
    }

    fn stop(&self) {
        self.phase.send_modify(|phase| {
            self.now.store(STOPPED, Ordering::Relaxed);
            *phase = Phase::Stopped;
        });
    }

    /// Waits until no new message of a handler may be taken.
    pub(crate) fn draining<'a>(&'a self, entry: &Entry) -> impl Future<Output = ()> + use<'a> {
        let answers = entry.is_request();
        let is_over = move |phase| match phase {
            Phase::Running => false,
            Phase::Leaving(_) => !answers,
            Phase::Draining(_) | Phase::Stopped => true,
        };
        async move {
            self.reached(is_over).await;
        }
    }

    /// Waits until what runs is to be dropped.
    pub(crate) async fn stopped(&self) {
        self.reached(|phase| phase == Phase::Stopped).await;
    }

    /// Waits for the end of it all, also of a runtime that ended before.
    pub(crate) fn end(&self) -> impl Future<Output = ()> + use<> {
        let mut end = self.end.clone();
        async move {
            let _ = end.wait_for(|end| end.is_some_and(|end| end.closed)).await;
        }
    }

    async fn reached(&self, there: impl Fn(Phase) -> bool) -> Phase {
        let mut phase = self.phase.subscribe();
        let phase = phase.wait_for(|phase| there(*phase)).await;
        *phase.expect("the sender is in `self`")
    }
}

/// Handlers that wait for a shutdown, for as long as they do.
struct Excused<'a>(&'a Lifecycle, usize);

impl<'a> Excused<'a> {
    fn new(lifecycle: &'a Lifecycle, handlers: usize) -> Self {
        lifecycle.excused.fetch_add(handlers, Ordering::SeqCst);
        Self(lifecycle, handlers)
    }
}

impl Drop for Excused<'_> {
    fn drop(&mut self) {
        self.0.excused.fetch_sub(self.1, Ordering::SeqCst);
    }
}

impl Inner {
    pub(crate) async fn shutdown(&self, limit: Duration) -> Result<ShutdownReport, Error> {
        let lifecycle = &self.lifecycle;
        lifecycle.leave(limit);
        let mut end = lifecycle.end.clone();
        // The handlers that this call is made from, one standing in the other, cannot be waited for:
        // they get the report as soon as it is known, and finish before everything is closed.
        let around = guard::handlers_around(self.address());
        let _excused = end
            .borrow()
            .is_none()
            .then(|| Excused::new(lifecycle, around));
        let end = end
            .wait_for(|end| end.is_some_and(|end| around > 0 || end.closed))
            .await;
        let interrupted = || {
            Error::new(
                ErrorKind::Closed,
                "shutdown",
                "the runtime ended before it did",
            )
        };
        end.ok()
            .and_then(|end| *end)
            .map(|end| end.report)
            .ok_or_else(interrupted)
    }
}

/// Waits for the end, and brings it about in order: leave the cluster, take nothing new, let finish
/// what runs, give back the rest, flush, close.
pub(crate) async fn supervise(
    inner: Arc<Inner>,
    mut loops: JoinSet<()>,
    membership: Option<Membership>,
    reporter: watch::Sender<Option<End>>,
) {
    let lifecycle = &inner.lifecycle;
    let phase = lifecycle.reached(|phase| phase != Phase::Running).await;
    let (Phase::Leaving(deadline) | Phase::Draining(deadline)) = phase else {
        return;
    };
    if let Some(membership) = membership {
        membership.leave().await;
    }
    lifecycle.drain_after_leaving(deadline);
    finished(&inner, deadline, || {
        lifecycle.excused.load(Ordering::SeqCst)
    })
    .await;
    let excused = lifecycle.excused.load(Ordering::SeqCst);
    let unfinished = inner.table.running().saturating_sub(excused);
    let report = ShutdownReport {
        unfinished,
        unflushed: false,
    };
    if excused > 0 {
        // The handlers that wait for this answer are to be finished before the connection goes.
        reporter.send_replace(Some(End {
            report,
            closed: false,
        }));
        finished(&inner, deadline, || 0).await;
    }
    lifecycle.stop();
    // What was dropped gives its message back; that takes a round trip, not a handler's time.
    let soon = from_now(A_ROUND_TRIP);
    finished(&inner, soon, || 0).await;
    let ended = async { while loops.join_next().await.is_some() {} };
    if tokio::time::timeout_at(soon, ended).await.is_err() {
        tracing::warn!("a subscription could not be closed in time");
    }
    inner.metrics.tell(&inner.table, &inner.members);
    let transport = &inner.backend.transport;
    // Two waits: what cannot be flushed is to be closed all the same.
    let flushed = tokio::time::timeout(A_ROUND_TRIP, transport.flush()).await;
    let closed = tokio::time::timeout(A_ROUND_TRIP, transport.close()).await;
    let unflushed = !matches!((&flushed, &closed), (Ok(Ok(())), Ok(Ok(()))));
    match (flushed, closed) {
        (Ok(Ok(())), Ok(Ok(()))) => tracing::info!(unfinished, "catga stopped"),
        (Ok(Err(error)), _) | (_, Ok(Err(error))) => {
            tracing::warn!(unfinished, %error, "catga stopped, and the backend did not close cleanly");
        }
        _ => tracing::warn!(
            unfinished,
            "catga stopped, and the backend did not close in time"
        ),
    }
    reporter.send_replace(Some(End {
        report: ShutdownReport {
            unflushed,
            ..report
        },
        closed: true,
    }));
}

/// Waits until no more handlers run than may, or until `deadline`.
async fn finished(inner: &Inner, deadline: Instant, may_run: impl Fn() -> usize) {
    while inner.table.running() > may_run() && Instant::now() < deadline {
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
