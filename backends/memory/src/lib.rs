#![doc = include_str!("../README.md")]

mod bus;
mod claims;
mod closed;
mod dead_letter;
mod desk;
mod driver;
mod error;
mod group;
mod handover;
mod inbox;
mod inbox_store;
mod keeper;
mod leases;
mod letters;
mod log;
mod members;
#[cfg(all(test, shuttle))]
mod models;
mod options;
mod partition;
mod registry;
mod ring;
mod room;
mod serve;
mod store;
mod stream;
mod subscription;
mod sync;
mod timer;
mod transport;
mod window;

pub use driver::{DRIVER, MemoryDriver};
pub use store::{Memory, MemoryTransaction};
