//! The contracts of [Catga]: what a message is, what travels, and what a backend implements.
//!
//! Applications depend on `catga`, which re-exports what they need from here. Authors of a backend
//! depend on this crate alone: they implement [`Transport`], [`Subscription`] and [`Receipt`], and
//! as far as their broker can, [`NodeRegistry`], [`InboxStore`] and [`DeadLetters`]; a [`Driver`]
//! makes the [`Backend`] that holds them.
//!
//! [Catga]: https://docs.rs/catga

mod backend_url;
mod capability;
mod codec;
mod dead_letter;
mod delivery;
mod driver;
mod envelope;
mod error;
mod headers;
mod id;
mod inbox;
mod message;
mod metadata;
mod name;
mod payload;
mod registry;
mod request;
mod transport;

pub use backend_url::BackendUrl;
pub use capability::{Capabilities, Capability};
#[cfg(feature = "cbor")]
pub use codec::Cbor;
#[cfg(feature = "msgpack")]
pub use codec::MessagePack;
pub use codec::{Codec, Codecs, DecodeTarget, Encoded, Json};
pub use dead_letter::{
    DeadLetter, DeadLetterFilter, DeadLetterId, DeadLetters, Page, Reason, ReasonKind,
};
pub use delivery::{Answer, Completion, Delivery, Receipt, Settlement};
pub use driver::{Backend, ConnectOptions, Driver, InboxLimits};
pub use envelope::Envelope;
pub use error::{BoxError, Error, ErrorKind, Result, Retry, Stored};
pub use headers::Headers;
pub use id::MessageId;
pub use inbox::{Claim, ClaimEnd, ClaimOutcome, CommitStore, Effects, InboxKey, InboxStore, Owner};
pub use message::{Descriptor, Event, IsEvent, IsRequest, Kind, Message, QoS, Request, RoutingKey};
pub use metadata::Metadata;
pub use name::{Name, NodeId};
pub use payload::Payload;
pub use registry::{Incarnation, Load, NodeEvent, NodeInfo, NodeRegistry, NodeWatch};
pub use request::{RemoteError, Reply, Target};
pub use transport::{
    ConnectionState, Consumers, Published, Serve, Start, StatsReader, Subscribe, Subscription,
    SubscriptionStats, Transport,
};

/// The attribute that the traits below are implemented with, so that a backend needs no version of its own.
pub use async_trait::async_trait;
/// The bytes of a payload.
pub use bytes::Bytes;
