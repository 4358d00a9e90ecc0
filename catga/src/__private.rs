//! What generated code calls. No promise is made about any of it.

pub use std::borrow::Cow;

pub use catga_core::Encoded;
pub use inventory;
pub use serde;

pub use crate::handlers::{HandlerDef, HandlerItem, HandlerOptions, Registered, Site};
pub use crate::invoke::{
    IntoOutcome, by_ref0, by_ref1, by_ref2, by_ref3, by_ref4, by_ref5, by_ref6, by_ref7, by_ref8,
    by_value0, by_value1, by_value2, by_value3, by_value4, by_value5, by_value6, by_value7,
    by_value8,
};
pub use crate::routing::picker::Picker;

use catga_core::{Error, Kind, Message, QoS};

use crate::FromContext;

/// Checks the type of each further argument.
pub const fn extractor_argument<A: FromContext>() {}

/// Checks what a handler takes and returns, where the compiler can point at it.
pub const fn handles<M: Message, R: IntoOutcome<M::Response>>() {}

/// A message that an older version of it can be made into: what `upcast_from` asks for.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be made from `{Old}`",
    label = "not convertible into `{Self}`",
    note = "write `impl From<{Old}> for {Self}`"
)]
pub trait Upcast<Old> {
    /// The newer version.
    fn upcast(old: Old) -> Self;
}

#[diagnostic::do_not_recommend]
impl<Old, New: From<Old>> Upcast<Old> for New {
    fn upcast(old: Old) -> Self {
        old.into()
    }
}

/// Reads a payload by the rules of an older version, and makes the newer one of it.
pub fn upcast<Old: Message, New: Upcast<Old>>(
    version: u32,
    payload: &Encoded<'_>,
) -> Result<New, Error> {
    Old::from_version(version, payload).map(New::upcast)
}

/// Whether a message is an older version than `version`.
#[must_use]
pub const fn is_older<M: Message>(version: u32) -> bool {
    M::VERSION < version
}

/// Whether a message has this name on the wire: as `==`, which constants cannot use yet.
#[must_use]
pub const fn has_name<M: Message>(name: &str) -> bool {
    let (a, b) = (M::NAME.as_bytes(), name.as_bytes());
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

/// Whether a message is an event.
#[must_use]
pub const fn is_of_event<M: Message>() -> bool {
    matches!(M::KIND, Kind::Event)
}

/// Whether a message is delivered again until it is handled.
#[must_use]
pub const fn is_redelivered<M: Message>() -> bool {
    !matches!(M::QOS, QoS::AtMostOnce)
}

/// Whether a message has a routing key.
#[must_use]
pub const fn is_routed<M: Message>() -> bool {
    M::PARTITIONS.is_some()
}
