//! Deadlines.

use std::time::Duration;

use tokio::time::Instant;

/// Durations beyond this are cut, so that no deadline overflows.
const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);

/// The instant `after` from now.
pub(crate) fn from_now(after: Duration) -> Instant {
    Instant::now() + after.min(FAR)
}

/// In milliseconds, rounded up: who is told so waits no shorter.
pub(crate) fn up_to_millis(duration: Duration) -> u128 {
    duration.as_nanos().div_ceil(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_millisecond_counts_as_one() {
        let told = [0, 1, 1000, 1001].map(|micros| up_to_millis(Duration::from_micros(micros)));
        assert_eq!(told, [0, 1, 1, 2]);
    }
}
