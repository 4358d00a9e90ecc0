//! How long to wait before the next attempt.

use std::time::Duration;

use humantime::format_duration;

/// Exponential back-off with jitter: the n-th delay is drawn between the least delay and the least
/// doubled n times, and is never above the most.
///
/// The floor is what keeps a failing handler out of a hot loop; the jitter above it keeps many that
/// failed together from coming back together
/// ([Exponential Backoff and Jitter](https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    least: Duration,
    most: Duration,
}

impl Backoff {
    /// Checks and takes the delays: without a least one a failing handler would run in a hot loop.
    pub(crate) fn new(least: Duration, most: Duration) -> Result<Self, String> {
        if least.is_zero() || least > most {
            return Err(format!(
                "{}..{} is no back-off: the least delay must be above 0 and at most the most delay; write 200ms..30s",
                format_duration(least),
                format_duration(most)
            ));
        }
        Ok(Self { least, most })
    }

    /// Reads `200ms..30s`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("{text:?} is no back-off: write the least and the most delay, as in 200ms..30s")
        };
        let (least, most) = text.split_once("..").ok_or_else(wrong)?;
        let least = humantime::parse_duration(least.trim()).map_err(|_| wrong())?;
        let most = humantime::parse_duration(most.trim()).map_err(|_| wrong())?;
        Self::new(least, most)
    }

    /// The longest delay.
    pub(crate) fn most(self) -> Duration {
        self.most
    }

    /// The same, with no delay above `limit`.
    pub(crate) fn capped(self, limit: Duration) -> Self {
        Self {
            least: self.least.min(limit),
            most: self.most.min(limit),
        }
    }

    /// The delay after the `failures`-th failure in a row, counted from 1.
    pub(crate) fn delay(&self, failures: u32) -> Duration {
        let ceiling = 1u32
            .checked_shl(failures)
            .map_or(self.most, |factor| self.least.saturating_mul(factor));
        let spread = ceiling.min(self.most).saturating_sub(self.least);
        self.least + spread.mul_f64(fastrand::f64())
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_millis(200), Duration::from_secs(30))
            .expect("200 ms are above 0 and below 30 s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_within_their_bounds_at_any_attempt() {
        let backoff = Backoff::default();
        for failures in [0, 1, 2, 5, 31, 32, 33, u32::MAX] {
            for _ in 0..100 {
                let delay = backoff.delay(failures);
                assert!(
                    (backoff.least..=backoff.most).contains(&delay),
                    "{failures}: {delay:?}"
                );
                let ceiling = backoff.least * 2u32.saturating_pow(failures.min(8));
                assert!(failures > 7 || delay <= ceiling, "{failures}: {delay:?}");
            }
        }
    }

    #[test]
    fn only_a_range_is_read() {
        assert_eq!(
            Backoff::parse("1ms..2s"),
            Backoff::new(Duration::from_millis(1), Duration::from_secs(2))
        );
        for text in [
            "",
            "1s",
            "2s..1s",
            "0s..1s",
            "fast..slow",
            "1s..",
            "1s...2s",
        ] {
            assert!(Backoff::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn delays_that_cannot_be_meant_are_refused_by_either_way_in() {
        let (zero, second) = (Duration::ZERO, Duration::from_secs(1));
        for (text, least, most) in [
            ("0s..1s", zero, second),
            ("0s..0s", zero, zero),
            ("30s..1s", second * 30, second),
        ] {
            let problem = Backoff::new(least, most).unwrap_err();
            let start = format!("{text} is no back-off: the least delay must be above 0");
            assert!(problem.starts_with(&start), "{problem}");
            assert_eq!(Backoff::parse(text), Err(problem));
        }
        assert!(Backoff::new(second, second).is_ok());
    }

    #[test]
    fn no_delay_overflows() {
        let endless = Backoff::new(Duration::from_secs(1), Duration::MAX).unwrap();
        let backoff = endless.capped(Duration::from_secs(9));
        assert!((0..99).all(|failures| backoff.delay(failures) <= Duration::from_secs(9)));
    }
}
