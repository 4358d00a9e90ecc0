//! Since when the server may count the lease of what comes.
//!
//! Nothing in a message says when the server gave it to us, and a late word on it counts as any other: our own clock tells.
//! What comes was not there at the last look, so it is no older than that. This holds as long as somebody looks: when the
//! process stood still, what came meanwhile may lie in the socket, behind a look that found nothing. Looks are never far
//! apart, so that a standstill shows; then the server is asked something, and what comes before its answer may be as old as
//! the standstill.

use std::time::Duration;

use tokio::time::Instant;

/// How long an answer may be missing before the server is asked again.
const PATIENCE: Duration = Duration::from_secs(1);

/// Looks out for what comes, and for standstills of this process.
#[derive(Debug)]
pub(crate) struct Lookout {
    /// Looks that are further apart are a standstill.
    longest: Duration,
    /// When all that had come was taken over.
    looked: Instant,
    /// The last look before a standstill, until the server answers.
    stood: Option<Instant>,
    /// How many standstills there were: an answer tells behind which of them it was asked for.
    standstills: u64,
    /// When the server was asked behind the last of them.
    asked: Option<Instant>,
}

impl Lookout {
    /// Judges leases of such a length, to a sixteenth.
    pub(crate) fn new(ack_wait: Duration, now: Instant) -> Self {
        Self {
            longest: ack_wait / 16,
            looked: now,
            stood: None,
            standstills: 0,
            asked: None,
        }
    }

    /// What comes now was given to us no earlier.
    pub(crate) fn earliest(&self) -> Instant {
        self.stood.unwrap_or(self.looked)
    }

    /// All that had come by now was taken over.
    pub(crate) fn looked(&mut self, now: Instant) {
        if now.saturating_duration_since(self.looked) > self.longest {
            self.stood.get_or_insert(self.looked);
            self.standstills += 1;
            self.asked = None;
        }
        self.looked = now;
    }

    /// When to look again.
    pub(crate) fn next_look(&self) -> Instant {
        self.looked + self.longest / 2
    }

    /// Whether what comes may be older than the last look.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.stood.is_some()
    }

    /// Whether what is asked for now would be taken for much older than it is.
    pub(crate) fn is_behind(&self, now: Instant) -> bool {
        self.is_in_doubt() && now >= self.earliest() + self.longest * 2
    }

    /// What the answer is to name, when the server is to be asked.
    pub(crate) fn question(&self, now: Instant) -> Option<u64> {
        let is_due = self.asked.is_none_or(|asked| now >= asked + PATIENCE);
        (self.is_in_doubt() && is_due).then_some(self.standstills)
    }

    pub(crate) fn asked(&mut self, now: Instant) {
        self.asked = Some(now);
    }

    /// The connection is a new one: what was asked on the old one is not answered.
    pub(crate) fn reconnected(&mut self) {
        self.asked = None;
    }

    /// The server answered: what comes behind it was not there when it was asked.
    pub(crate) fn answered(&mut self, standstill: u64) {
        if standstill == self.standstills {
            self.stood = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn what_comes_was_not_there_at_the_last_look() {
        let begin = Instant::now();
        let mut lookout = Lookout::new(1600 * MS, begin);
        for look in 1..10 {
            let now = begin + look * 100 * MS;
            lookout.looked(now);
            assert_eq!(lookout.earliest(), now);
            assert_eq!(lookout.question(now), None);
            assert!(lookout.next_look() < now + 100 * MS);
        }
    }

    #[test]
    fn what_comes_behind_a_standstill_is_as_old_until_the_server_answers() {
        let begin = Instant::now();
        let mut lookout = Lookout::new(1600 * MS, begin);
        let resumed = begin + 2000 * MS;
        lookout.looked(resumed);
        assert_eq!(lookout.earliest(), begin);
        assert!(lookout.is_behind(resumed));
        assert_eq!(lookout.question(resumed), Some(1));
        lookout.asked(resumed);
        assert_eq!(lookout.question(resumed), None, "it is asked once");
        assert_eq!(lookout.question(resumed + PATIENCE), Some(1), "or again");
        lookout.looked(resumed + 50 * MS);
        assert_eq!(
            lookout.earliest(),
            begin,
            "it looked, and found nothing yet"
        );
        lookout.answered(1);
        assert_eq!(lookout.earliest(), resumed + 50 * MS);
        assert!(!lookout.is_behind(resumed + 50 * MS));
    }

    #[test]
    fn who_is_always_woken_a_little_late_is_not_kept_from_asking() {
        let begin = Instant::now();
        let mut lookout = Lookout::new(1600 * MS, begin);
        for look in 1..10 {
            let now = begin + look * 150 * MS;
            lookout.looked(now);
            assert!(lookout.question(now).is_some() && !lookout.is_behind(now));
            lookout.answered(u64::from(look));
        }
    }

    #[test]
    fn an_answer_from_before_the_last_standstill_says_nothing() {
        let begin = Instant::now();
        let mut lookout = Lookout::new(1600 * MS, begin);
        let (first, second) = (begin + 2000 * MS, begin + 4000 * MS);
        lookout.looked(first);
        lookout.asked(first);
        lookout.looked(second);
        assert_eq!(lookout.question(second), Some(2));
        lookout.answered(1);
        assert_eq!(lookout.earliest(), begin);
        lookout.answered(2);
        assert_eq!(lookout.earliest(), second);
    }

    #[test]
    fn a_new_connection_is_asked_at_once() {
        let begin = Instant::now();
        let mut lookout = Lookout::new(1600 * MS, begin);
        let resumed = begin + 2000 * MS;
        lookout.looked(resumed);
        lookout.asked(resumed);
        lookout.reconnected();
        assert_eq!(lookout.question(resumed), Some(1));
    }
}
