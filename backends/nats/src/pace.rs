//! How fast what is handed out is settled, and so how many messages may be asked for before there is a place for them.

use std::time::Duration;

use tokio::time::Instant;

/// How long a message may wait here for a place: it could be handled by another member meanwhile.
const WAIT: Duration = Duration::from_millis(4);

/// What a subscription has handed out, and what was settled of it lately.
#[derive(Debug)]
pub(crate) struct Pace {
    handed_out: usize,
    /// When it was last reckoned, and what was settled until then.
    since: Instant,
    settled: usize,
    ahead: usize,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            handed_out: 0,
            since: now,
            settled: 0,
            ahead: 0,
        }
    }

    pub(crate) fn handed_out(&mut self) {
        self.handed_out += 1;
    }

    /// How many places are likely to come free within [`WAIT`], when so many are held now.
    pub(crate) fn ahead(&mut self, held: usize, now: Instant) -> usize {
        let passed = now.saturating_duration_since(self.since);
        if passed >= WAIT {
            let settled = self.handed_out.saturating_sub(held);
            let lately = settled.saturating_sub(self.settled) as u128;
            let soon = lately * WAIT.as_nanos() / passed.as_nanos();
            self.ahead = usize::try_from(soon).unwrap_or(usize::MAX);
            (self.since, self.settled) = (now, settled);
        }
        self.ahead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out so many, of which all but `held` are settled after a while.
    fn after(pace: &mut Pace, now: &mut Instant, count: usize, held: usize, passed: u64) -> usize {
        (0..count).for_each(|_| pace.handed_out());
        *now += Duration::from_millis(passed);
        pace.ahead(held, *now)
    }

    #[test]
    fn as_many_are_asked_for_ahead_as_are_settled_soon() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        assert_eq!(pace.ahead(0, now), 0, "nothing is known yet");
        assert_eq!(after(&mut pace, &mut now, 1000, 0, 10), 400, "100 each ms");
        assert_eq!(
            after(&mut pace, &mut now, 50, 50, 1),
            400,
            "not reckoned anew"
        );
        assert_eq!(after(&mut pace, &mut now, 0, 50, 1000), 0, "they hang");
        assert_eq!(
            after(&mut pace, &mut now, 1, 0, 500),
            0,
            "a few in half a second"
        );
        assert_eq!(after(&mut pace, &mut now, 2, 1, 100), 0, "slow");
        assert_eq!(after(&mut pace, &mut now, 64, 0, 8), 32, "8 each ms");
    }
}
