//! Judges a run: the invariants I1 to I15 of the conformance list, on its [evidence](crate::evidence).
//!
//! [`check`] is given what happened and the [`Rules`] of the run: what each group was promised, and the bounds. It tells the
//! first [`Violation`] by time, with the whole timeline of the message, node or process that it is about; or a [`Verdict`]
//! with the counts, which also lists the rules that had nothing to be checked on. Each rule is a [`Clause`] of an
//! [`Invariant`].
//!
//! ```
//! use catga_testkit::checker::{GroupRules, Promise, Rules, check};
//! # use catga_testkit::evidence::{Event, Outcome, What};
//! # let event = |at, group: Option<&str>, what| Event { at, process: "p".into(), group: group.map(Into::into), id: Some(17), what };
//! # let started = What::Started { run: 1, attempt: 1, redelivered: false, may_have_run: false, checksum: 5 };
//! # let mut events = vec![
//! #     Event { id: None, ..event(0, Some("billing"), What::GroupCreated) },
//! #     event(1, None, What::Publishing { call: 1, subject: "orders".into(), key: None, checksum: 5 }),
//! #     event(2, None, What::Published { call: 1, outcome: Outcome::Ok }),
//! #     event(3, Some("billing"), started),
//! #     event(4, Some("billing"), What::Done { run: 1 }),
//! # ];
//!
//! let rules = Rules::new().group("billing", GroupRules::new("orders", Promise::AtLeastOnce));
//! let verdict = check(&events, &rules)?;
//! assert_eq!(verdict.published_ok, 1);
//!
//! events.pop(); // The handler never finished.
//! let violation = check(&events, &rules).unwrap_err();
//! assert_eq!(violation.message(), Some(17));
//! assert!(violation.to_string().starts_with("I3 (nothing that was published is lost)"), "{violation}");
//! # Ok::<(), catga_testkit::checker::Violation>(())
//! ```

mod clause;
mod delivery;
mod faults;
mod history;
mod limits;
mod membership;
mod once;
mod publishing;
mod recovery;
mod replay;
mod report;
mod requests;
mod rules;
mod shutdown;
#[cfg(test)]
mod tests;
mod verdict;
mod violation;

use crate::evidence::Event;
pub use clause::{Clause, Invariant};
use history::History;
use report::Report;
pub use rules::{GroupRules, Promise, Rules, recovery_bound};
pub use verdict::{Kill, Verdict};
pub use violation::Violation;

/// How far the clock and the scheduler may carry an answer past its deadline, in microseconds: 250 ms.
const SLACK: u64 = 250_000;

/// Judges the events of a run, in the order in which [`read`](crate::evidence::read) gives them.
///
/// The run is over with its last event: what was to happen and did not by then never does. So a parent waits for it before
/// it ends the run.
///
/// # Errors
/// The first violation by time.
pub fn check(events: &[Event], rules: &Rules) -> Result<Verdict, Violation> {
    let history = History::of(events, rules);
    let mut report = Report::default();
    history.contradictions(&mut report);
    publishing::check(&history, &mut report);
    delivery::check(&history, &mut report);
    recovery::check(&history, &mut report);
    once::check(&history, &mut report);
    limits::check(&history, &mut report);
    shutdown::check(&history, &mut report);
    requests::check(&history, &mut report);
    membership::check(&history, &mut report);
    match report.first() {
        Some(found) => Err(Violation::new(found, events)),
        None => Ok(verdict::of(&history, report)),
    }
}
