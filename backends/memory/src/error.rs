//! The errors of this backend, one constructor each.

use std::time::Duration;

use catga_core::{Capability, Error, ErrorKind, Name, NodeId, Target};

use crate::group::Mode;

/// This connection was closed by its owner.
pub(crate) fn closed(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::Closed,
        operation,
        "this connection to the memory bus was closed",
    )
}

/// The tasks of the bus ended, as they do with the runtime they were spawned in.
pub(crate) fn gone(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::Closed,
        operation,
        "the memory bus ended with the runtime that it was made in: connect again",
    )
}

/// This backend lacks an ability.
pub(crate) fn unsupported(operation: &'static str, capability: Capability) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        operation,
        format!("the backend memory has no `{capability}`: use one that has it"),
    )
    .with_context("backend", "memory")
    .with_context("capability", capability)
}

/// The lease of a delivery ran out before.
pub(crate) fn lost_ownership(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::LostOwnership,
        operation,
        "the lease of this delivery ran out and the message is redelivered: settle or extend it within the ack wait",
    )
}

/// The lease of a claim ran out before.
pub(crate) fn lost_claim(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::LostOwnership,
        operation,
        "this claim is not held, or no longer: its lease ran out, or it was settled otherwise",
    )
}

/// A handler wrote for a store that is not this bus's.
pub(crate) fn foreign_effects(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        operation,
        "these effects are for another store: the backend memory commits those of `catga::memory::Memory`",
    )
    .with_context("backend", "memory")
}

/// A handler wrote for a store, and nothing was claimed that this could be committed with.
pub(crate) fn effects_without_claim() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "settle",
        "effects are committed with the claim of their message, and this delivery has none: subscribe at exactly_once with the backend's own inbox, or complete the claim in the inbox",
    )
    .with_context("backend", "memory")
}

/// What is not redelivered has no order to be kept.
pub(crate) fn ordered_at_qos_0(message: &Name) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "subscribe",
        format!(
            "the backend memory cannot handle `{message}` ordered at at_most_once: subscribe at a higher guarantee"
        ),
    )
    .with_context("backend", "memory")
    .with_context("capability", Capability::Ordered)
}

/// Members of one group ask for different things.
pub(crate) fn other_mode(message: &Name, group: &Name, present: Mode, asked: Mode) -> Error {
    Error::new(
        ErrorKind::Conflict,
        "subscribe",
        format!(
            "the group `{group}` handles `{message}` with {present}, and this member asks for {asked}: all members must ask for the same"
        ),
    )
}

/// A message is larger than the bus takes.
pub(crate) fn too_large(operation: &'static str, name: &Name, size: usize, max: usize) -> Error {
    Error::new(
        ErrorKind::PayloadTooLarge,
        operation,
        format!(
            "`{name}` has {size} bytes with its headers and the bus takes {max}: raise the URL option `max_payload`"
        ),
    )
}

/// The log had no room until the deadline.
pub(crate) fn log_full(name: &Name, capacity: usize) -> Error {
    Error::new(
        ErrorKind::LimitReached,
        "publish",
        format!(
            "the log of `{name}` had no room before the deadline (capacity {capacity}): its groups are too slow, or raise the URL option `capacity`"
        ),
    )
}

/// The store of dead letters of one message is full.
pub(crate) fn letters_full(name: &Name, capacity: usize) -> Error {
    Error::new(
        ErrorKind::LimitReached,
        "settle",
        format!(
            "`{name}` has {capacity} dead letters, which is all that the bus keeps: redrive or purge some, or raise the URL option `dead_letters`"
        ),
    )
}

/// Nobody answers a request.
pub(crate) fn no_responders(request: &Name, to: &Target) -> Error {
    Error::new(
        ErrorKind::NoResponders,
        "request",
        format!("nobody answers `{request}` at {to}"),
    )
}

/// A request was not answered in time.
pub(crate) fn request_timeout(request: &Name, time_left: Duration) -> Error {
    Error::new(
        ErrorKind::Timeout,
        "request",
        format!("no answer to `{request}` within {time_left:?}: it may have run"),
    )
    .with_unknown_outcome()
}

/// A settlement that came into the contract after this backend was written.
pub(crate) fn unknown_settlement() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "settle",
        "the backend memory does not know this settlement: use versions of catga that belong together",
    )
}

/// Too many requests of one name wait.
pub(crate) fn requests_full(request: &Name, capacity: usize) -> Error {
    Error::new(
        ErrorKind::LimitReached,
        "request",
        format!(
            "{capacity} requests `{request}` wait for a server already: serve them faster, or raise the URL option `capacity`"
        ),
    )
}

/// Another incarnation has the id of a node.
pub(crate) fn lost_node(operation: &'static str, node: &NodeId) -> Error {
    Error::new(
        ErrorKind::LostOwnership,
        operation,
        format!("another incarnation has the node id `{node}` now: this one was replaced"),
    )
}
