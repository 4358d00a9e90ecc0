//! The scenarios, a file per behaviour.

mod back_pressure;
mod cancel;
mod dead_letters;
mod delivery;
mod hostile;
mod lifecycle;
mod redelivery;
mod request_failures;
mod requests;
mod round_trip;
mod start;

use crate::harness::Scenario;

/// All scenarios, by behaviour.
#[must_use]
pub fn suite() -> Vec<Scenario> {
    [
        start::SCENARIOS,
        round_trip::SCENARIOS,
        delivery::SCENARIOS,
        redelivery::SCENARIOS,
        dead_letters::SCENARIOS,
        back_pressure::SCENARIOS,
        requests::SCENARIOS,
        request_failures::SCENARIOS,
        lifecycle::SCENARIOS,
        hostile::SCENARIOS,
        cancel::SCENARIOS,
    ]
    .concat()
}
