//! A rate to publish at, below what is possible: what waits then does not wait in a queue of its own making.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::Notify;

/// Finer than tokio's timer, which would let a millisecond's messages go at once.
const TICK: Duration = Duration::from_micros(100);

pub struct Pace(Arc<Inner>);

struct Inner {
    count: u64,
    /// So many messages may have been sent by now.
    due: AtomicU64,
    more: Notify,
}

impl Pace {
    /// Lets `count` messages go at so many in a second.
    pub fn per_second(rate: f64, count: u64) -> Self {
        let inner = Arc::new(Inner {
            count,
            due: AtomicU64::new(0),
            more: Notify::new(),
        });
        let clock = Arc::clone(&inner);
        thread::spawn(move || {
            let began = Instant::now();
            while clock.due.load(Ordering::Relaxed) < count {
                thread::sleep(TICK);
                let due = (began.elapsed().as_secs_f64() * rate) as u64;
                clock.due.store(due, Ordering::Release);
                clock.more.notify_one();
            }
        });
        Self(inner)
    }

    /// The numbers `0..count`, each when its turn comes.
    pub fn numbers(&self) -> impl Stream<Item = u64> + use<> {
        let inner = Arc::clone(&self.0);
        stream::unfold((inner, 0), |(inner, i)| async move {
            if i == inner.count {
                return None;
            }
            while inner.due.load(Ordering::Acquire) <= i {
                inner.more.notified().await;
            }
            Some((i, (inner, i + 1)))
        })
    }
}

/// The numbers `0..count`: all at once, or each at its time.
pub fn numbers(count: u64, rate: Option<f64>) -> impl Stream<Item = u64> + Unpin + use<> {
    match rate {
        Some(rate) => Pace::per_second(rate, count).numbers().boxed(),
        None => stream::iter(0..count).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use futures_util::StreamExt;

    use super::Pace;

    #[tokio::test]
    async fn no_message_goes_before_its_time() {
        let began = Instant::now();
        let pace = Pace::per_second(10_000.0, 2_000);
        let sent: Vec<_> = pace.numbers().collect().await;
        assert_eq!(sent, (0..2_000).collect::<Vec<_>>());
        assert!(began.elapsed() >= Duration::from_millis(199));
    }
}
