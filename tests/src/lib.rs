//! What every backend of Catga proves: scenarios that state a rule each, and run against it.
//!
//! A scenario gets a [`Bus`] of its own, starts as many nodes on it as it needs, does what may go
//! wrong, and counts. [`suite`] lists them all; [`Scenario::run`] runs one in a runtime of its own,
//! with the clock paused where only timers matter, so that leases of 30 s cost nothing. [`conformance`] runs everything,
//! also on backends with a planted bug each ([`Mutant`]), and makes the table of guarantees.
//!
//! ```
//! use catga_testkit::{Bus, Outcome, suite};
//!
//! for scenario in suite().iter().filter(|scenario| scenario.name() == "start::wrong_url") {
//!     assert_eq!(scenario.run(Bus::memory(scenario.name(), 7)), Outcome::Passed);
//! }
//! ```

mod bus;
mod captured;
pub mod checker;
mod conformance;
mod crew;
pub mod evidence;
mod flawed;
mod harness;
mod journal;
mod load;
mod lost_leases;
mod member;
mod messages;
mod mutants;
mod outcome;
mod parts;
mod party;
mod peers;
pub mod proxy;
mod reliable;
mod report;
mod rows;
pub mod server;
pub mod site;
mod subject;
mod suite;
mod worker;

pub use bus::Bus;
pub use conformance::{Conformance, conformance};
pub use harness::{About, Clock, Scenario, seed};
pub use mutants::Mutant;
pub use outcome::{Failure, Outcome};
pub use subject::{Subject, Time};
pub use suite::suite;
