//! Who reports, when, and who may rely on it.
//!
//! Nobody is elected: the two lowest ids of those who live report, each as far as it knows. The second only says something
//! when the first does not. Everybody else hears beats himself only until he is told enough, and again when he is not: then
//! all is as it would be without reports. Two reporters too many harm nobody.

use std::future::pending;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use tokio::time::{Instant, sleep_until};

use super::roster::Roster;
use crate::time::from_now;

/// How many report: one, and one that goes on when the first falls silent.
pub(crate) const REPORTERS: usize = 2;

/// When a report is due, and whether those of others suffice.
#[derive(Debug)]
pub(crate) struct Reports {
    every: Duration,
    /// When we gave one.
    given: Instant,
    /// When the first reporter gave one.
    first: Option<Instant>,
    /// When one was heard that said all we need to know.
    enough: Option<Instant>,
    /// Whether a part of the present one said too little.
    doubted: bool,
    /// Until when we hear beats ourselves whatever is told.
    hold: Instant,
}

impl Reports {
    pub(crate) fn new(timeout: Duration) -> Self {
        let every = Self::every(timeout);
        Self {
            every,
            given: Instant::now(),
            first: None,
            enough: None,
            doubted: false,
            hold: from_now(every * 2),
        }
    }

    /// How often a report is due: who is silent is to be noticed within a quarter of the node timeout.
    pub(crate) fn every(timeout: Duration) -> Duration {
        Roster::pulse(timeout) / 2
    }

    /// For how long we do without one.
    fn patience(&self) -> Duration {
        self.every * 2
    }

    /// When the reporter in this place is to give one.
    pub(crate) fn due(&self, place: usize) -> Instant {
        let again = self.given + self.every;
        match self.first.filter(|_| place > 0) {
            Some(first) => again.max(first + self.every * 3 / 2),
            None => again,
        }
    }

    /// One was given.
    pub(crate) fn gave(&mut self) {
        self.given = Instant::now();
    }

    /// One that was due cannot be given now.
    pub(crate) fn put_off(&mut self) {
        let now = Instant::now();
        self.given = now.checked_sub(self.every * 3 / 4).unwrap_or(now);
    }

    /// The reporter before us said something.
    pub(crate) fn hear_first(&mut self) {
        self.first = Some(Instant::now());
    }

    /// A part of a report was heard; whether it said all we need to know, and whether there is more of it.
    pub(crate) fn hear(&mut self, says_enough: bool, more: bool) {
        self.doubted |= !says_enough;
        if !more {
            self.enough = (!self.doubted).then(Instant::now);
            self.doubted = false;
        }
    }

    /// From now on we hear beats ourselves, at least for a while.
    pub(crate) fn begin(&mut self) {
        self.enough = None;
        self.doubted = false;
        self.hold = from_now(self.patience());
    }

    /// Whether we need to hear no beats ourselves; `place` is ours among those who report.
    pub(crate) fn suffice(&self, place: Option<usize>) -> bool {
        let now = Instant::now();
        place.is_none() && self.has_settled() && self.until().is_some_and(|until| now < until)
    }

    /// Whether we have heard beats ourselves for a while.
    pub(crate) fn has_settled(&self) -> bool {
        self.hold <= Instant::now()
    }

    /// Until when what was told suffices.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.enough.map(|enough| enough + self.patience())
    }

    /// Whether who reports so often does so often enough for us.
    pub(crate) fn is_often(&self, every: Duration) -> bool {
        every <= self.every + self.every / 4
    }

    /// Whether beats that were heard so long ago are worth a report.
    pub(crate) fn is_recent(&self, heard: Duration) -> bool {
        heard <= self.every * 2
    }
}

/// Waits until then, or for ever.
pub(crate) async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}

/// The next message, where there is a subscription that has one.
///
/// Dropping the future loses none.
pub(crate) async fn next_of(subscriber: &mut Option<Subscriber>) -> Message {
    if let Some(messages) = subscriber {
        if let Some(message) = messages.next().await {
            return message;
        }
        *subscriber = None;
    }
    pending().await
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(20);
    /// A quarter of it is 5 s, and half of that:
    const EVERY: Duration = Duration::from_millis(2500);

    #[tokio::test(start_paused = true)]
    async fn the_second_goes_on_before_anybody_misses_the_first() {
        let (began, mut second) = (Instant::now(), Reports::new(TIMEOUT));
        assert_eq!(second.due(0), began + EVERY);
        for _ in 0..10 {
            advance(EVERY).await;
            second.hear_first();
            assert!(second.due(1) > Instant::now() + EVERY);
        }
        let last = Instant::now();
        assert_eq!(second.due(1), last + EVERY * 3 / 2);
        advance(EVERY * 3 / 2).await;
        second.gave();
        // From then on as often as the first.
        assert_eq!(second.due(1), Instant::now() + EVERY);
        assert!(EVERY * 3 / 2 < second.patience());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_told_suffices_after_a_while_and_for_a_while() {
        let mut told = Reports::new(TIMEOUT);
        told.hear(true, false);
        assert!(!told.suffice(None), "it has only begun");
        advance(EVERY * 2).await;
        told.hear(true, false);
        assert!(told.suffice(None) && !told.suffice(Some(0)) && !told.suffice(Some(1)));
        advance(EVERY * 2).await;
        assert!(!told.suffice(None), "nothing was told for two turns");
        for (parts, suffices) in [
            (&[true, true][..], true),
            (&[false, true], false),
            (&[true, false], false),
            (&[true], true),
        ] {
            let (last, first) = parts.split_last().unwrap();
            for part in first {
                told.hear(*part, true);
            }
            told.hear(*last, false);
            assert_eq!(told.suffice(None), suffices, "{parts:?}");
        }
        told.begin();
        told.hear(true, false);
        assert!(!told.suffice(None), "it begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_given_is_tried_soon() {
        let mut reports = Reports::new(TIMEOUT);
        advance(EVERY).await;
        assert!(reports.due(0) <= Instant::now());
        reports.put_off();
        assert_eq!(reports.due(0), Instant::now() + EVERY / 4);
        assert!(reports.is_often(EVERY) && !reports.is_often(EVERY * 2));
        assert!(reports.is_recent(EVERY * 2) && !reports.is_recent(EVERY * 3));
    }
}
