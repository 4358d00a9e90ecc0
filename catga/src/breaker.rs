//! The circuit breaker of a handler: what fails time after time is left alone for a while.

use std::future::ready;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use catga_core::{BoxError, Retry};
use tokio::time::Instant;
use tower_service::Service;

use crate::guard::Failure;
use crate::handlers::Breaker;
use crate::invoke::BoxFuture;
use crate::layer::{Call, CallError, Reply};
use crate::service::{Erased, Serving};
use crate::sync::Notify;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::time::FAR;

/// A breaker around a handler and its rate.
///
/// It counts failures in a row: errors to try again, panics and time-outs. An error that is terminal is an
/// answer of something that lives; what never reached the handler's code, or was cut off by a shutdown or by
/// a layer outside, says nothing.
pub(crate) struct Guarded {
    inner: Erased,
    state: Arc<State>,
    /// Whether callers wait while it is open: events do, which stay at the broker and burn no attempts;
    /// the caller of a request is told at once, and asks another node.
    waits: bool,
    waiting: Option<BoxFuture<()>>,
}

impl Guarded {
    pub(crate) fn new(inner: Erased, breaker: Breaker, waits: bool) -> Self {
        Self {
            inner,
            state: Arc::new(State::new(breaker)),
            waits,
            waiting: None,
        }
    }
}

impl Service<Call> for Guarded {
    type Response = Reply;
    type Error = BoxError;
    type Future = Serving;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        if self.waits && (self.waiting.is_some() || !self.state.may_pass()) {
            let state = &self.state;
            let waiting = self
                .waiting
                .get_or_insert_with(|| Box::pin(wait(Arc::clone(state))));
            std::task::ready!(waiting.as_mut().poll(cx));
            self.waiting = None;
        }
        if !self.waits && !self.state.may_pass() {
            // Refused by `call`, without a wait for what is inside. If a call may pass by then, it waits inside.
            return Poll::Ready(Ok(()));
        }
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Serving {
        match Pass::try_take(&self.state) {
            Ok(pass) => {
                let serving = self.inner.call(call);
                Serving::new(async move { pass.judge(serving.await) })
            }
            // Another call became the trial since this one was found ready.
            Err(_) if self.waits => {
                let (state, mut inner) = (Arc::clone(&self.state), self.inner.clone());
                Serving::new(async move {
                    let pass = loop {
                        wait(Arc::clone(&state)).await;
                        if let Ok(pass) = Pass::try_take(&state) {
                            break pass;
                        }
                    };
                    std::future::poll_fn(|cx| inner.poll_ready(cx)).await?;
                    pass.judge(inner.call(call).await)
                })
            }
            Err(left) => {
                let retry = left.map_or(Retry::Now, Retry::After);
                let text = "its circuit breaker is open".to_owned();
                let refused = CallError(Failure::Refused { text, retry });
                Serving::new(ready(Err(refused)))
            }
        }
    }
}

/// Where a breaker stands, in one word: two bits say what the others mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// So many calls in a row failed since it closed for the `epoch`-th time. Both in one word: else a verdict that is
    /// counted while the breaker opens and closes again would find the same number of failures, and open it.
    Closed { epoch: u64, failures: u64 },
    /// Nothing passes before this many microseconds after the start; then one trial does.
    Open(u64),
    /// The trial runs.
    Trial,
}

const TAG: u32 = 62;
/// The epoch stands above the failures, has 30 bits, and begins anew.
const EPOCH: u32 = 32;
const EPOCHS: u64 = 1 << (TAG - EPOCH);

impl Phase {
    const FIRST: Self = Self::Closed {
        epoch: 0,
        failures: 0,
    };

    fn read(word: u64) -> Self {
        let value = word & ((1 << TAG) - 1);
        match word >> TAG {
            0 => Self::Closed {
                epoch: value >> EPOCH,
                failures: value & u64::from(u32::MAX),
            },
            1 => Self::Open(value),
            _ => Self::Trial,
        }
    }

    fn word(self) -> u64 {
        match self {
            Self::Closed { epoch, failures } => (epoch << EPOCH) | failures,
            Self::Open(until) => (1 << TAG) | until,
            Self::Trial => 2 << TAG,
        }
    }
}

#[derive(Debug)]
pub(crate) struct State {
    phase: AtomicU64,
    /// How often it closed: written by the trial, of which there is one at a time.
    epoch: AtomicU64,
    /// Wakes those who wait for the end of a trial.
    changed: Notify,
    start: Instant,
    failures: u64,
    open: Duration,
}

impl State {
    pub(crate) fn new(breaker: Breaker) -> Self {
        Self {
            phase: AtomicU64::new(Phase::FIRST.word()),
            epoch: AtomicU64::new(0),
            changed: Notify::new(),
            start: Instant::now(),
            failures: u64::from(breaker.failures.max(1)),
            open: breaker.open.min(FAR),
        }
    }

    fn now(&self) -> u64 {
        micros(self.start.elapsed())
    }

    pub(crate) fn phase(&self) -> Phase {
        Phase::read(self.phase.load(Ordering::SeqCst))
    }

    /// Changes the phase, unless `change` has nothing to change.
    fn update(&self, change: impl Fn(Phase) -> Option<Phase>) -> Result<Phase, Phase> {
        let change = |word| change(Phase::read(word)).map(Phase::word);
        self.phase
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, change)
            .map(Phase::read)
            .map_err(Phase::read)
    }

    /// Whether a call would pass now.
    fn may_pass(&self) -> bool {
        match self.phase() {
            Phase::Closed { .. } => true,
            Phase::Open(until) => until <= self.now(),
            Phase::Trial => false,
        }
    }

    fn opened(&self) -> Phase {
        Phase::Open(self.now() + micros(self.open))
    }

    fn left(&self, until: u64) -> Duration {
        Duration::from_micros(until.saturating_sub(self.now()))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX >> 3)
}

/// Waits until a call may pass.
pub(crate) async fn wait(state: Arc<State>) {
    loop {
        let mut changed = pin!(state.changed.notified());
        // Listen before looking, so that what changes in between wakes us.
        changed.as_mut().enable();
        match state.phase() {
            Phase::Closed { .. } => return,
            Phase::Trial => changed.await,
            Phase::Open(until) => match state.left(until) {
                Duration::ZERO => return,
                left => tokio::time::sleep(left).await,
            },
        }
    }
}

/// What a call did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Alive,
    Failed,
    Unknown,
}

/// A call that was let through.
#[derive(Debug)]
pub(crate) struct Pass {
    state: Arc<State>,
    /// That of the closed phase in which it was let through; none for the trial.
    pub(crate) epoch: Option<u64>,
    pub(crate) verdict: Verdict,
}

impl Pass {
    /// Lets a call through; else says how long the breaker stays open, when that is known.
    pub(crate) fn try_take(state: &Arc<State>) -> Result<Self, Option<Duration>> {
        let before = state.update(|phase| match phase {
            Phase::Open(until) if until <= state.now() => Some(Phase::Trial),
            _ => None,
        });
        let epoch = match before {
            Ok(_) => None,
            Err(Phase::Closed { epoch, .. }) => Some(epoch),
            Err(Phase::Open(until)) => return Err(Some(state.left(until))),
            Err(Phase::Trial) => return Err(None),
        };
        Ok(Self {
            state: Arc::clone(state),
            epoch,
            verdict: Verdict::Unknown,
        })
    }

    fn judge(mut self, outcome: Result<Reply, BoxError>) -> Result<Reply, BoxError> {
        self.verdict = match &outcome {
            Ok(_) => Verdict::Alive,
            Err(error) => match error.downcast_ref().map(|CallError(failure)| failure) {
                Some(Failure::Decode(_) | Failure::Stopped | Failure::Refused { .. }) => {
                    Verdict::Unknown
                }
                Some(failure) if failure.is_final() => Verdict::Alive,
                _ => Verdict::Failed,
            },
        };
        outcome
    }
}

impl Drop for Pass {
    /// Counts the verdict; a call that was dropped has none.
    fn drop(&mut self) {
        let state = &self.state;
        let Some(began) = self.epoch else {
            let next = match self.verdict {
                Verdict::Alive => {
                    let before = state.epoch.fetch_add(1, Ordering::SeqCst);
                    Phase::Closed {
                        epoch: before.wrapping_add(1) % EPOCHS,
                        failures: 0,
                    }
                }
                Verdict::Failed => state.opened(),
                // The next call is the trial.
                Verdict::Unknown => Phase::Open(0),
            };
            state.phase.store(next.word(), Ordering::SeqCst);
            state.changed.notify_waiters();
            return;
        };
        // What began before the breaker opened does not close it, does not keep it open, and does not count
        // once it is closed again.
        let _ = state.update(|phase| {
            let Phase::Closed { epoch, failures } = phase else {
                return None;
            };
            let failures = match self.verdict {
                _ if epoch != began => return None,
                Verdict::Alive if failures > 0 => 0,
                Verdict::Failed => failures + 1,
                _ => return None,
            };
            Some(if failures >= state.failures {
                state.opened()
            } else {
                Phase::Closed { epoch, failures }
            })
        });
    }
}
