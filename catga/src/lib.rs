#![doc = include_str!("../../README.md")]

// Generated code says `::catga`, here too.
#[allow(unused_extern_crates, reason = "used where a macro is")]
extern crate self as catga;

mod app;
mod backoff;
mod builder;
mod call;
mod consume;
mod context;
mod drivers;
mod extract;
mod guard;
mod handler_error;
mod handlers;
mod health;
mod members;
pub mod prelude;
mod publish;
mod send;
mod settings;
mod shutdown;
mod slots;
mod start;
mod table;
mod time;

#[doc(hidden)]
pub mod __private;

pub use app::Catga;
pub use builder::CatgaBuilder;
#[cfg(feature = "cbor")]
pub use catga_core::Cbor;
#[cfg(feature = "msgpack")]
pub use catga_core::MessagePack;
pub use catga_core::{
    Backend, Bytes, Capabilities, Capability, Codec, ConnectOptions, DeadLetter, DeadLetterFilter,
    DeadLetterId, DeadLetters, Driver, Envelope, Error, ErrorKind, Event, Headers, Json, Kind,
    Load, Message, MessageId, Name, NodeEvent, NodeId, NodeInfo, NodeRegistry, Page, QoS, Reason,
    ReasonKind, Request, Retry, RoutingKey, Stored,
};
#[cfg(feature = "macros")]
pub use catga_macros::{Event, Request, handler};
pub use context::{Attempt, Context};
pub use extract::{FromContext, Requirements, State};
pub use handler_error::{FailWith, HandlerError};
pub use handlers::Handlers;
pub use health::{HandlerInfo, HandlerStats, Health, HealthPart, HealthStatus};
pub use publish::Outgoing;
pub use send::Outcome;
pub use shutdown::ShutdownReport;
