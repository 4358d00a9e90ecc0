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
    began: Instant,
    /// When all that had come was taken over.
    looked: Instant,
    /// What comes may be as old, since this process stood still; until the server answers.
    stood: Option<Instant>,
    /// When the last standstill was noticed.
    noticed: Instant,
    /// When the server was asked behind it.
    asked: Option<Instant>,
    /// Whether it has answered since the last look.
    is_answered: bool,
    /// Whether to wait for the answer.
    waits: bool,
}

impl Lookout {
    /// Judges leases of such a length, to a sixteenth.
    pub(crate) fn new(ack_wait: Duration, now: Instant) -> Self {
        Self {
            longest: ack_wait / 16,
            began: now,
            looked: now,
            stood: None,
            noticed: now,
            asked: None,
            is_answered: false,
            waits: false,
        }
    }

    /// What comes now was given to us no earlier.
    pub(crate) fn earliest(&self) -> Instant {
        self.stood.unwrap_or(self.looked)
    }

    /// All that had come by now was taken over.
    pub(crate) fn looked(&mut self, now: Instant) {
        let is_answered = std::mem::take(&mut self.is_answered);
        if now.saturating_duration_since(self.looked) > self.longest {
            self.stood.get_or_insert(self.looked);
            self.noticed = now;
            self.asked = None;
            // Who always looks too seldom would wait for ever.
            self.waits = !is_answered;
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
        self.is_in_doubt() && self.waits && now >= self.earliest() + self.longest * 4
    }

    /// What the answer is to name, when the server is to be asked.
    pub(crate) fn question(&self, now: Instant) -> Option<u64> {
        let is_due = self.asked.is_none_or(|asked| now >= asked + PATIENCE);
        let number = now.saturating_duration_since(self.began).as_nanos();
        (self.is_in_doubt() && is_due).then_some(number.try_into().unwrap_or(u64::MAX))
    }

    pub(crate) fn asked(&mut self, now: Instant) {
        self.asked = Some(now);
    }

    /// The connection is a new one: what was asked on the old one is not answered.
    pub(crate) fn reconnected(&mut self) {
        self.asked = None;
    }

    /// The server answered: what comes behind it was given to us after it was asked.
    pub(crate) fn answered(&mut self, question: u64) {
        let asked = self.began + Duration::from_nanos(question);
        self.is_answered = true;
        self.stood = self.stood.filter(|_| asked < self.noticed);
        self.stood = self.stood.map(|stood| stood.max(asked));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const LEASE: Duration = Duration::from_millis(1600);

    /// Asks, and tells what the answer is to name.
    fn ask(lookout: &mut Lookout, now: Instant) -> u64 {
        let question = lookout.question(now).expect("it is in doubt");
        lookout.asked(now);
        question
    }

    #[test]
    fn what_comes_was_not_there_at_the_last_look() {
        let begin = Instant::now();
        let mut lookout = Lookout::new(LEASE, begin);
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
        let mut lookout = Lookout::new(LEASE, begin);
        let resumed = begin + 2000 * MS;
        lookout.looked(resumed);
        assert_eq!(lookout.earliest(), begin);
        assert!(lookout.is_behind(resumed));
        let question = ask(&mut lookout, resumed);
        assert_eq!(lookout.question(resumed), None, "it is asked once");
        assert!(lookout.question(resumed + PATIENCE).is_some(), "or again");
        lookout.looked(resumed + 50 * MS);
        assert_eq!(lookout.earliest(), begin, "it found nothing yet");
        lookout.answered(question);
        assert_eq!(lookout.earliest(), resumed + 50 * MS);
        assert!(!lookout.is_behind(resumed + 50 * MS));
    }

    #[test]
    fn an_answer_from_before_the_last_standstill_says_when_it_was_asked_for() {
        let begin = Instant::now();
        let mut lookout = Lookout::new(LEASE, begin);
        let (first, second) = (begin + 2000 * MS, begin + 4000 * MS);
        lookout.looked(first);
        let early = ask(&mut lookout, first + MS);
        lookout.looked(second);
        let late = ask(&mut lookout, second);
        lookout.answered(early);
        assert_eq!(lookout.earliest(), first + MS);
        lookout.answered(late);
        assert_eq!(lookout.earliest(), second);
    }

    #[test]
    fn who_always_looks_too_seldom_still_asks_for_messages() {
        let begin = Instant::now();
        let mut lookout = Lookout::new(LEASE, begin);
        let mut answer = None;
        for look in 1..10 {
            let now = begin + look * LEASE / 2;
            if let Some(question) = answer {
                lookout.answered(question);
            }
            lookout.looked(now);
            assert_eq!(lookout.is_behind(now), look == 1, "look {look}");
            assert_eq!(lookout.earliest(), now - LEASE / 2, "look {look}");
            answer = Some(ask(&mut lookout, now));
        }
    }

    #[test]
    fn a_new_connection_is_asked_at_once() {
        let begin = Instant::now();
        let mut lookout = Lookout::new(LEASE, begin);
        let resumed = begin + 2000 * MS;
        lookout.looked(resumed);
        lookout.asked(resumed);
        lookout.reconnected();
        assert!(lookout.question(resumed).is_some());
    }
}
