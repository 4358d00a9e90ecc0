#![doc = include_str!("../../README.md")]

// Generated code says `::catga`, here too.
#[allow(unused_extern_crates, reason = "used where a macro is")]
extern crate self as catga;

mod app;
mod backoff;
mod breaker;
#[cfg(test)]
mod breaker_tests;
mod builder;
mod call;
mod checks;
mod claim;
mod commit;
mod consume;
mod context;
mod control;
mod dead_letters;
mod deliver;
mod drivers;
mod extract;
mod guard;
mod handler_error;
mod handlers;
mod health;
mod hidden;
mod invoke;
mod job;
mod layer;
#[cfg(test)]
mod layer_tests;
mod layered;
mod lent;
mod load;
mod members;
mod membership;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(not(feature = "metrics"))]
#[path = "no_metrics.rs"]
mod metrics;
#[cfg(all(test, shuttle))]
mod models;
mod origin;
mod peer;
pub mod prelude;
mod publish;
mod request;
pub mod routing;
mod seat;
mod send;
mod serve;
mod service;
mod settings;
mod settle;
mod shutdown;
mod slots;
mod start;
mod sync;
mod table;
mod time;
#[cfg(feature = "opentelemetry")]
mod trace;
#[cfg(not(feature = "opentelemetry"))]
#[path = "no_trace.rs"]
mod trace;
mod turn;
mod verdict;
mod view;
mod watch_nodes;
mod way;

#[doc(hidden)]
pub mod __private;

/// The examples of this page are compiled, as those of the README are.
#[cfg(doctest)]
#[doc = include_str!("../../docs/guarantees-explained.md")]
mod guarantees_explained {}

#[cfg(doctest)]
#[doc = include_str!("../../docs/routing.md")]
mod routing_explained {}

#[cfg(doctest)]
#[doc = include_str!("../../docs/from-dotnet.md")]
mod from_dotnet {}

#[cfg(all(doctest, feature = "metrics"))]
#[doc = include_str!("../../docs/metrics.md")]
mod metrics_explained {}

/// What is particular to `memory://`: the store that handlers [`Commit`] to.
#[cfg(feature = "memory")]
pub mod memory {
    pub use catga_memory::{Memory, MemoryTransaction};
}

/// What handlers commit to on `redis://`.
#[cfg(feature = "redis")]
pub mod redis {
    pub use catga_redis::{Redis, RedisTransaction};
}

pub use app::Catga;
pub use builder::CatgaBuilder;
#[cfg(feature = "cbor")]
pub use catga_core::Cbor;
#[cfg(feature = "msgpack")]
pub use catga_core::MessagePack;
pub use catga_core::{
    Backend, Bytes, Capabilities, Capability, Codec, CommitStore, ConnectOptions, DeadLetter,
    DeadLetterFilter, DeadLetterId, DeadLetters, Descriptor, Driver, Encoded, Envelope, Error,
    ErrorKind, Event, Headers, InboxStore, IsEvent, IsRequest, Json, Kind, Load, Message,
    MessageId, Metadata, Name, NodeEvent, NodeId, NodeInfo, NodeRegistry, Page, Published, QoS,
    Reason, ReasonKind, Request, Retry, RoutingKey, Stored,
};
#[cfg(feature = "macros")]
pub use catga_macros::{Event, Request, handler};
pub use commit::Commit;
pub use context::{Attempt, Context};
pub use control::HandlerControl;
pub use dead_letters::{DeadLetterQueue, DeadLetterWalk};
pub use extract::{FromContext, Requirements, State};
pub use handler_error::{FailWith, HandlerError};
pub use handlers::Handlers;
pub use health::{HandlerInfo, HandlerStats, Health, HealthPart, HealthStatus};
pub use layer::{Call, CallError, Reply};
pub use publish::Outgoing;
pub use request::RequestBuilder;
pub use send::Outcome;
pub use service::{Erased, Serving};
pub use shutdown::ShutdownReport;
pub use watch_nodes::NodeChanges;
