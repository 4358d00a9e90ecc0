//! What this node has seen of another, beside what the registry says of it.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The longest that a node is skipped after its first failure.
const FIRST: Duration = Duration::from_secs(1);
/// After many: each doubles it up to here.
const MOST: Duration = Duration::from_secs(30);
/// A failure that long after the one before counts as the first.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Trusted: it is picked. Else the moment when it is tried again.
const TRUSTED: u64 = 0;

/// A node in the eyes of this one.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    /// Requests of this node that wait for it.
    in_flight: AtomicUsize,
    /// How often it answered; wraps.
    answers: AtomicUsize,
    /// [`TRUSTED`], or a moment in microseconds.
    due: AtomicU64,
    /// Its failures in a row, and when it failed last.
    strikes: AtomicU32,
    struck: AtomicU64,
    /// It went without a word.
    gone: AtomicBool,
}

/// A request that waits for a node.
#[derive(Debug)]
pub(crate) struct InFlight<'a>(&'a Peer);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tells moments as numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch(Instant);

/// A moment since the epoch, in microseconds; never 0.
type Moment = u64;

impl Epoch {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Moment {
        micros(self.0.elapsed()).saturating_add(1)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Peer {
    /// The same node when it comes back: what it did wrong is not forgotten. One that had gone silent and is there again has a
    /// connection or a machine that is not to be relied on, and is skipped as after a failure; one that was started anew is tried
    /// with one request first, when it had failed.
    pub(crate) fn back(&self, silent: bool, now: Moment) -> Self {
        let back = Self {
            strikes: AtomicU32::new(self.strikes.load(Ordering::Relaxed)),
            struck: AtomicU64::new(self.struck.load(Ordering::Relaxed)),
            ..Self::default()
        };
        if silent {
            back.skip(now);
        } else if back.recent_strikes(now) > 0 {
            back.due.store(now, Ordering::Relaxed);
        }
        back
    }

    pub(crate) fn wait_for(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }

    pub(crate) fn is_trusted(&self) -> bool {
        self.due.load(Ordering::Relaxed) == TRUSTED
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    pub(crate) fn set_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Notes an answer. Whether it is trusted from now on, and was not.
    pub(crate) fn answered(&self) -> bool {
        self.answers.fetch_add(1, Ordering::Relaxed);
        // Looked at first: a write by each answer would take the line from all cores that pick.
        !self.is_trusted() && self.due.swap(TRUSTED, Ordering::Relaxed) != TRUSTED
    }

    /// Notes a failure. Whether it was trusted until now. What fails beside what failed first, in the time that it is skipped anyway, is the
    /// same failure; that of a `probe` is another.
    pub(crate) fn failed(&self, probe: bool, now: Moment) -> bool {
        let was_trusted = self
            .due
            .compare_exchange(TRUSTED, now, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        if was_trusted || probe {
            self.skip(now);
        }
        was_trusted
    }

    /// Whether it is time to try it again.
    pub(crate) fn is_due(&self, now: Moment) -> bool {
        is_due(self.due.load(Ordering::Relaxed), now)
    }

    /// Takes the one request that may try it again, if it is time; it may take so long.
    pub(crate) fn try_probe(&self, lasts: Duration, now: Moment) -> bool {
        let due = self.due.load(Ordering::Relaxed);
        let next = now.saturating_add(micros(lasts).max(1));
        is_due(due, now)
            && self
                .due
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    fn recent_strikes(&self, now: Moment) -> u32 {
        let since = now.saturating_sub(self.struck.load(Ordering::Relaxed));
        if since > micros(FORGOTTEN) {
            return 0;
        }
        self.strikes.load(Ordering::Relaxed)
    }

    fn skip(&self, now: Moment) {
        let strikes = self.recent_strikes(now).saturating_add(1);
        self.strikes.store(strikes, Ordering::Relaxed);
        self.struck.store(now, Ordering::Relaxed);
        let until = now.saturating_add(micros(hold(strikes)));
        self.due.store(until, Ordering::Relaxed);
    }
}

fn is_due(due: u64, now: Moment) -> bool {
    due != TRUSTED && due <= now
}

/// How long a node is skipped: with jitter, so that not all who saw it fail try it at one moment.
fn hold(strikes: u32) -> Duration {
    let doubled = 1_u32.checked_shl(strikes - 1).unwrap_or(u32::MAX);
    let ceiling = FIRST.saturating_mul(doubled).min(MOST);
    ceiling / 2 + Duration::from_micros(fastrand::u64(..=micros(ceiling / 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn held(peer: &Peer, now: Moment) -> u64 {
        peer.due.load(Ordering::Relaxed) - now
    }

    #[test]
    fn a_node_that_fails_is_skipped_longer_each_time() {
        let peer = Peer::default();
        let mut now = 5;
        let mut ceiling = SECOND;
        for strike in 1..=10 {
            assert_eq!(peer.failed(true, now), strike == 1);
            let held = held(&peer, now);
            assert!((ceiling / 2..=ceiling).contains(&held), "{held} µs");
            now += held;
            ceiling = (ceiling * 2).min(30 * SECOND);
        }
        // What else fails meanwhile is the same failure.
        let due = peer.due.load(Ordering::Relaxed);
        assert!(!peer.failed(false, now));
        assert_eq!(peer.due.load(Ordering::Relaxed), due);
    }

    #[test]
    fn one_request_tries_it_again_and_an_answer_clears_it() {
        let peer = Peer::default();
        assert!(!peer.try_probe(Duration::ZERO, SECOND), "it is trusted");
        peer.failed(false, SECOND);
        assert!(!peer.try_probe(Duration::ZERO, SECOND + 1), "too early");
        let later = 3 * SECOND;
        let probes = (0..100).filter(|_| peer.try_probe(Duration::from_secs(9), later));
        assert_eq!(probes.count(), 1);
        // Whoever had it may have been dropped: there is another after its time.
        assert!(peer.try_probe(Duration::from_secs(9), later + 9 * SECOND));
        assert!(peer.answered() && peer.is_trusted());
        assert!(!peer.answered());
    }

    #[test]
    fn strikes_are_forgotten() {
        let peer = Peer::default();
        for _ in 0..5 {
            peer.failed(true, SECOND);
        }
        let later = 62 * SECOND;
        peer.failed(true, later);
        assert!(held(&peer, later) <= SECOND);
    }

    #[test]
    fn who_comes_back_is_not_trusted_at_once() {
        let now = 100 * SECOND;
        let steady = Peer::default();
        assert!(steady.back(false, now).is_trusted(), "it was restarted");
        let mut flapping = steady.back(true, now);
        assert!(!flapping.is_trusted());
        for _ in 0..4 {
            flapping = flapping.back(true, now);
        }
        assert!(held(&flapping, now) >= 8 * SECOND, "each time longer");
        assert!(flapping.back(false, now).try_probe(Duration::ZERO, now));
    }

    #[test]
    fn what_waits_is_counted() {
        let peer = Peer::default();
        let (one, two) = (peer.wait_for(), peer.wait_for());
        assert_eq!(peer.in_flight(), 2);
        drop(one);
        assert_eq!(peer.in_flight(), 1);
        drop(two);
        assert_eq!(peer.in_flight(), 0);
    }
}
