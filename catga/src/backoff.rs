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
        let (least, most) = (self.least.as_nanos(), self.most.as_nanos());
        let factor = 1u128.checked_shl(failures).unwrap_or(u128::MAX);
        let spread = least.saturating_mul(factor).min(most) - least;
        // 584 years at the most.
        let spread = u64::try_from(spread).unwrap_or(u64::MAX);
        self.least + Duration::from_nanos(fastrand::u64(..=spread))
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
    use proptest::prelude::{
        Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest,
    };
    use proptest::test_runner::{Config, FileFailurePersistence};

    use super::*;

    /// From nanoseconds to more than any clock tells, each size as likely as another.
    fn durations() -> impl Strategy<Value = Duration> {
        (0_u32..64, any::<u64>(), 0_u32..1_000_000_000)
            .prop_map(|(shift, seconds, nanos)| Duration::new(seconds >> shift, nanos))
    }

    fn backoffs() -> impl Strategy<Value = Backoff> {
        (durations(), durations()).prop_filter_map("a least delay", |(a, b)| {
            Backoff::new(a.min(b), a.max(b)).ok()
        })
    }

    fn failures() -> impl Strategy<Value = u32> {
        prop_oneof![0_u32..140, any::<u32>(), Just(u32::MAX)]
    }

    proptest! {
        #![proptest_config(Config {
            failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
            ..Config::default()
        })]

        #[test]
        fn delays_keep_to_their_bounds_at_any_attempt(backoff in backoffs(), failures in failures()) {
            let delay = backoff.delay(failures);
            prop_assert!((backoff.least..=backoff.most).contains(&delay), "{:?}", delay);
            // The least delay doubled so often, as far as there is such a number.
            let doubled = (0..failures.min(200)).try_fold(backoff.least, |delay, _| delay.checked_mul(2));
            prop_assert!(doubled.is_none_or(|ceiling| delay <= ceiling), "{:?}", delay);
            let capped = backoff.capped(Duration::from_secs(9));
            prop_assert!(capped.delay(failures) <= Duration::from_secs(9));
        }

        #[test]
        fn what_is_written_is_read(backoff in backoffs()) {
            let text = format!("{}..{}", format_duration(backoff.least), format_duration(backoff.most));
            prop_assert_eq!(Backoff::parse(&text), Ok(backoff), "{}", text);
        }

        #[test]
        fn any_text_is_a_back_off_or_a_clear_error(text in prop_oneof![".*", "[0-9a-z. ]{0,30}"]) {
            match Backoff::parse(&text) {
                Ok(backoff) => prop_assert!(backoff.least <= backoff.most && !backoff.least.is_zero()),
                Err(problem) => prop_assert!(problem.contains("is no back-off"), "{}", problem),
            }
        }
    }

    /// Delays that were drawn are spread over all that is allowed.
    #[test]
    fn the_jitter_is_full() {
        let second = Duration::from_secs(1);
        let backoff = Backoff::new(second, second * 100).unwrap();
        let mut random: Vec<_> = (0..2000).map(|_| backoff.delay(3)).collect();
        random.sort_unstable();
        // From 1 s to 8 s: of 2,000 none in the first or the last 140 ms is less likely than once in 10^17 runs.
        let edge = second * 7 / 50;
        assert!(random[0] < second + edge && random[1999] + edge > second * 8);
        let middle = random[1000];
        assert!((second * 4..second * 5).contains(&middle), "{middle:?}");
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
}
