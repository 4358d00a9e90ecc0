//! Polling handlers so that their panics stay theirs.

use std::any::Any;
use std::cell::Cell;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use catga_core::{Error, ErrorKind, ReasonKind, Retry};

use crate::HandlerError;
use crate::app::Inner;
use crate::invoke::BoxFuture;

/// Why an attempt did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The payload is no such message.
    Decode(Error),
    /// The handler returned an error: what it says, and what it means.
    Handler { text: String, retry: Retry },
    /// The handler panicked, with this text.
    Panic(String),
    /// The handler took longer than this.
    TimedOut(Duration),
    /// The message came back this often without a verdict.
    Crashed(u32),
    /// The caller's time was over before the handler began.
    Expired,
    /// The application was shut down before the handler came to an end.
    Stopped,
    /// A layer did not let the call through: what it says, and when to come again.
    Refused { text: String, retry: Retry },
    /// It took longer than a time-out layer allows.
    Elapsed,
}

impl Failure {
    /// What a handler returned. The error's text and its drop are the user's code, as the handler is;
    /// what it means for the message is ours.
    pub(crate) fn returned(app: usize, error: HandlerError) -> Self {
        let retry = error.retry_hint();
        let text =
            contain(app, || error.to_string()).unwrap_or_else(|panic| format!("its error {panic}"));
        // Nothing is left to be said of a panic here.
        let _ = contain(app, || drop(error));
        Self::Handler { text, retry }
    }

    /// Whether another attempt would fail the same way.
    pub(crate) fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Decode(_)
                | Self::Crashed(_)
                | Self::Handler {
                    retry: Retry::Never,
                    ..
                }
        )
    }

    /// The delay that the handler asked for.
    pub(crate) fn delay(&self) -> Option<Duration> {
        match self {
            Self::Handler {
                retry: Retry::After(delay),
                ..
            }
            | Self::Refused {
                retry: Retry::After(delay),
                ..
            } => Some(*delay),
            _ => None,
        }
    }

    /// The kind of dead letter that a final failure makes.
    pub(crate) fn reason_kind(&self) -> ReasonKind {
        match self {
            Self::Decode(error) if error.kind() == ErrorKind::Version => ReasonKind::Version,
            Self::Decode(_) => ReasonKind::Decode,
            Self::Crashed(_) => ReasonKind::Crashed,
            Self::Handler {
                retry: Retry::Never,
                ..
            } => ReasonKind::Terminal,
            _ => ReasonKind::Exhausted,
        }
    }

    /// What kind of error it is.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Decode(error) => error.kind(),
            Self::Handler { .. } | Self::Crashed(_) => ErrorKind::Handler,
            Self::Panic(_) => ErrorKind::Panic,
            Self::TimedOut(_) | Self::Elapsed | Self::Expired => ErrorKind::Timeout,
            Self::Refused { .. } => ErrorKind::Unavailable,
            Self::Stopped => ErrorKind::Closed,
        }
    }

    /// The failure as the caller of a request sees it.
    pub(crate) fn into_error(self, request: &str) -> Error {
        let kind = self.kind();
        let retry = match &self {
            Self::Handler { retry, .. } | Self::Refused { retry, .. } => *retry,
            Self::Panic(_) | Self::TimedOut(_) | Self::Elapsed | Self::Stopped => Retry::Now,
            Self::Decode(_) | Self::Expired | Self::Crashed(_) => Retry::Never,
        };
        let never_ran = matches!(self, Self::Decode(_) | Self::Expired | Self::Refused { .. });
        // In full, as another node would say it: a caller need not know which one answered.
        let text = if never_ran {
            format!("the request `{request}` was not handled: {self}")
        } else {
            format!("the handler of `{request}` failed: {self}")
        };
        let error = Error::new(kind, "send", text).with_retry(retry);
        if never_ran {
            error
        } else {
            error.with_unknown_outcome()
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Decode(error) => f.write_str(error.message()),
            Self::Handler { text, .. } | Self::Refused { text, .. } => f.write_str(text),
            Self::Panic(text) => write!(f, "panicked: {text}"),
            Self::TimedOut(limit) => write!(f, "took longer than {limit:?}"),
            Self::Crashed(count) => write!(
                f,
                "was delivered {count} times without a verdict: it may end its process, or the dead letters are full"
            ),
            Self::Expired => f.write_str("the caller's time was over"),
            Self::Stopped => f.write_str("was stopped by a shutdown"),
            Self::Elapsed => f.write_str("took longer than a time-out layer allows"),
        }
    }
}

thread_local! {
    /// The application whose handler this thread polls, as its address, and how many of its handlers
    /// stand one in the other: one may call the next where it stands.
    static INSIDE: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// How many handlers of this application the code that asks runs in.
pub(crate) fn handlers_around(app: usize) -> usize {
    match INSIDE.get() {
        (inside, depth) if inside == app => depth,
        _ => 0,
    }
}

/// Runs `call` as part of a handler of `app`; a panic becomes a failure.
#[inline]
pub(crate) fn contain<T>(app: usize, call: impl FnOnce() -> T) -> Result<T, Failure> {
    contain_at(app, handlers_around(app) + 1, call)
}

/// As [`contain`], for a handler behind layers: the code around it counts as one with it. A layer may
/// also have moved it to a task of its own, where nothing is around it.
pub(crate) fn contain_inner<T>(app: usize, call: impl FnOnce() -> T) -> Result<T, Failure> {
    contain_at(app, handlers_around(app).max(1), call)
}

#[inline]
fn contain_at<T>(app: usize, depth: usize, call: impl FnOnce() -> T) -> Result<T, Failure> {
    struct Restore((usize, usize));
    impl Drop for Restore {
        fn drop(&mut self) {
            INSIDE.set(self.0);
        }
    }
    let _restore = Restore(INSIDE.replace((app, depth)));
    caught(call)
}

/// Runs `call`, which is part of no handler; a panic becomes a failure.
#[inline]
pub(crate) fn caught<T>(call: impl FnOnce() -> T) -> Result<T, Failure> {
    // Unwind-safe: what a handler left half-done is dropped with its future and never looked at again.
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let text = text_of(&*panic);
        // A payload may panic once more when it is dropped; then it is left alone.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
            std::mem::forget(again);
        }
        Failure::Panic(text)
    })
}

/// What calling a handler and polling it once gave.
pub(crate) enum First<T> {
    /// It was ready at once.
    Ended(Result<T, Failure>),
    /// It waits for something.
    Runs(BoxFuture<Result<T, HandlerError>>),
}

/// Calls a handler and polls it once, where it stands. Whoever goes on with it polls it again, so
/// that nothing is missed by the waker that wakes nobody.
#[inline]
pub(crate) fn begin<T>(
    app: usize,
    call: impl FnOnce() -> BoxFuture<Result<T, HandlerError>>,
) -> First<T> {
    begin_at(app, handlers_around(app) + 1, || Ok(call()))
}

/// As [`begin`], for a handler behind layers: see [`contain_inner`].
#[inline]
pub(crate) fn begin_inner<T>(
    app: usize,
    call: impl FnOnce() -> Result<BoxFuture<Result<T, HandlerError>>, Failure>,
) -> First<T> {
    begin_at(app, handlers_around(app).max(1), call)
}

#[inline]
fn begin_at<T>(
    app: usize,
    depth: usize,
    call: impl FnOnce() -> Result<BoxFuture<Result<T, HandlerError>>, Failure>,
) -> First<T> {
    let mut handler = None;
    let first = contain_at(app, depth, || {
        let handler = handler.insert(call()?);
        let mut cx = TaskContext::from_waker(Waker::noop());
        Ok(handler.as_mut().poll(&mut cx))
    });
    match (first, handler) {
        (Ok(Ok(Poll::Pending)), Some(handler)) => First::Runs(handler),
        (Ok(Ok(Poll::Ready(outcome))), _) => {
            First::Ended(outcome.map_err(|error| Failure::returned(app, error)))
        }
        (Ok(Ok(Poll::Pending)), None) => unreachable!("it was polled where it was kept"),
        (Ok(Err(failure)) | Err(failure), _) => First::Ended(Err(failure)),
    }
}

/// Polls a handler once.
pub(crate) fn poll<T>(
    app: usize,
    handler: &mut BoxFuture<Result<T, HandlerError>>,
    cx: &mut TaskContext<'_>,
) -> Poll<Result<T, Failure>> {
    match contain(app, || handler.as_mut().poll(cx)) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(outcome)) => {
            Poll::Ready(outcome.map_err(|error| Failure::returned(app, error)))
        }
        Err(panic) => Poll::Ready(Err(panic)),
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("with a value that is no text").to_owned()
}

/// Polls a handler to its end, or to the end of its time or of the application.
pub(crate) async fn finish<T>(
    inner: &Inner,
    limit: Duration,
    poll: impl FnMut(&mut TaskContext<'_>) -> Poll<Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        biased;
        outcome = poll_fn(poll) => outcome,
        () = inner.lifecycle.stopped() => Err(Failure::Stopped),
        () = tokio::time::sleep(limit) => Err(Failure::TimedOut(limit)),
    }
}
