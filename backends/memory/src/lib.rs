#![doc = include_str!("../README.md")]

mod bus;
mod closed;
mod dead_letter;
mod desk;
mod driver;
mod error;
mod group;
mod handover;
mod keeper;
mod letters;
mod log;
mod members;
mod options;
mod registry;
mod ring;
mod serve;
mod stream;
mod subscription;
mod timer;
mod transport;

pub use driver::{DRIVER, MemoryDriver};
