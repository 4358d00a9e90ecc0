#![doc = include_str!("../README.md")]

mod absence;
mod bucket;
mod closed;
mod connection;
mod consumers;
mod credentials;
mod dead_letter;
mod deferred;
mod dial;
mod direct;
mod driver;
mod durable;
mod error;
mod inbox;
mod link;
mod names;
mod options;
mod receipt;
mod record;
mod registry;
mod replies;
mod request;
mod ring;
mod room;
mod serve;
mod source;
mod store;
mod streams;
mod subjects;
mod subscription;
mod time;
mod transport;
mod trim;
mod wire;

pub use driver::{DRIVER, NatsDriver};
