//! What every backend of Catga proves: scenarios that state a rule each, and run against it.
//!
//! A scenario gets a [`Bus`] of its own, starts as many nodes on it as it needs, does what may go
//! wrong, and counts. [`suite`] lists them all; [`Scenario::run`] runs one in a runtime of its own,
//! with the clock paused where only timers matter, so that leases of 30 s cost nothing.
//!
//! ```
//! use catga_testkit::{Bus, suite};
//!
//! for scenario in suite().iter().filter(|scenario| scenario.name() == "start::wrong_url") {
//!     scenario.run(Bus::memory(scenario.name(), 7)).unwrap();
//! }
//! ```

pub mod checker;
pub mod evidence;
mod flawed;
mod harness;
mod journal;
mod messages;
mod parts;
pub mod proxy;
mod reliable;
pub mod server;
mod suite;

pub use harness::{Bus, Clock, Scenario, seed};
pub use suite::suite;
