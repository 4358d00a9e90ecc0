//! One timer per task, for whatever is due next.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Durations beyond this are cut, so that no deadline overflows (tokio's own limit for timers).
pub(crate) const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);

/// The instant `after` from now.
pub(crate) fn from_now(after: Duration) -> Instant {
    Instant::now() + after.min(FAR)
}

/// A timer that is seldom reset: one that is armed for too early an instant is left to fire.
///
/// Leases end almost always by an ack, long before their time; moving the timer for each would put
/// the timer wheel onto the path of every message. A needless tick costs one look at the queue.
#[derive(Debug)]
pub(crate) struct Timer {
    sleep: Pin<Box<Sleep>>,
    armed: bool,
}

impl Timer {
    pub(crate) fn new() -> Self {
        Self {
            sleep: Box::pin(sleep_until(Instant::now())),
            armed: false,
        }
    }

    /// Makes the timer fire at `at` or before.
    pub(crate) fn arm(&mut self, at: Option<Instant>) {
        if let Some(at) = at
            && (!self.armed || at < self.sleep.deadline())
        {
            self.sleep.as_mut().reset(at);
            self.armed = true;
        }
    }

    /// Waits for the timer; for ever when it is not armed.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the timer armed.
    pub(crate) async fn fired(&mut self) {
        if !self.armed {
            std::future::pending::<()>().await;
        }
        self.sleep.as_mut().await;
        self.armed = false;
    }
}
