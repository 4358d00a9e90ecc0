//! The server's clock, as far as it is heard of.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Servers of a cluster may differ by this much, and none was set back.
const CLOSE: Duration = Duration::from_secs(1);

/// What the server's clock says, by what it wrote and how long that is ago. At most as late as the server's own: what is
/// on its way is not counted.
#[derive(Debug, Default)]
pub(crate) struct ServerClock {
    reading: ArcSwapOption<Reading>,
    read: Notify,
}

#[derive(Debug)]
struct Reading {
    server: SystemTime,
    here: Instant,
    /// What it wrote last.
    last: SystemTime,
}

impl ServerClock {
    /// Takes its word: it says so now.
    pub(crate) fn set(&self, server: SystemTime) {
        self.store(Reading {
            server,
            here: Instant::now(),
            last: server,
        });
    }

    fn store(&self, reading: Reading) {
        self.reading.store(Some(Arc::new(reading)));
        self.read.notify_waiters();
    }

    /// Something was written at this time, after all that was heard before.
    pub(crate) fn heard(&self, written: SystemTime) {
        let known = self.reading.load();
        let Some(known) = known.as_deref() else {
            return self.set(written);
        };
        // What was written later at an earlier time says that the clock was set back.
        let set_back = written + CLOSE < known.last;
        if set_back || written > known.now() {
            self.set(written);
        } else {
            self.store(Reading {
                last: written,
                ..*known
            });
        }
    }

    /// What it says now; `None` before anything was heard.
    pub(crate) fn now(&self) -> Option<SystemTime> {
        self.reading.load().as_deref().map(Reading::now)
    }

    /// What it says, as soon as something was heard.
    pub(crate) async fn known(&self) -> SystemTime {
        loop {
            // Made before it is asked: a reading between the two still wakes it.
            let read = self.read.notified();
            if let Some(now) = self.now() {
                return now;
            }
            read.await;
        }
    }

    /// Whether somebody else takes it for about the same.
    pub(crate) fn is_close(&self, time: SystemTime, most: Duration) -> bool {
        let now = self.now().unwrap_or(time);
        let apart = now.duration_since(time);
        apart.unwrap_or_else(|earlier| earlier.duration()) <= most
    }

    /// How long ago something was written.
    pub(crate) fn age(&self, written: SystemTime) -> Duration {
        let now = self.now().unwrap_or(written);
        now.duration_since(written).unwrap_or_default()
    }
}

impl Reading {
    fn now(&self) -> SystemTime {
        self.server + self.here.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_clock_goes_on_and_is_never_taken_for_later_than_it_is() {
        let (clock, start) = (
            ServerClock::default(),
            SystemTime::UNIX_EPOCH + MINUTE * 600,
        );
        assert_eq!((clock.now(), clock.age(start)), (None, Duration::ZERO));
        clock.set(start);
        assert!(clock.age(start) < MINUTE && clock.age(start - MINUTE) >= MINUTE);
        // What was long on its way does not turn it back.
        clock.heard(start);
        clock.heard(start + MINUTE);
        assert!(clock.age(start) >= MINUTE && clock.age(start) < 2 * MINUTE);
    }

    #[test]
    fn another_clock_is_close_or_not() {
        let clock = ServerClock::default();
        let start = SystemTime::UNIX_EPOCH + MINUTE * 600;
        assert!(clock.is_close(start, MINUTE));
        clock.set(start);
        for (time, is_close) in [
            (start, true),
            (start + MINUTE, true),
            (start - MINUTE / 2, true),
            (start + MINUTE * 3, false),
            (start - MINUTE * 2, false),
        ] {
            assert_eq!(clock.is_close(time, MINUTE), is_close, "{time:?}");
        }
    }

    #[test]
    fn a_clock_that_was_set_is_followed() {
        let (clock, start) = (
            ServerClock::default(),
            SystemTime::UNIX_EPOCH + MINUTE * 600,
        );
        clock.set(start - MINUTE * 120);
        for set in [
            start + MINUTE * 60,
            start - MINUTE * 60,
            start,
            start - MINUTE,
        ] {
            clock.heard(set);
            assert!(clock.age(set) < MINUTE, "{:?}", clock.age(set));
        }
    }
}
