//! What generated code calls. No promise is made about any of it.

pub use std::borrow::Cow;

pub use inventory;

pub use crate::handlers::{
    BoxFuture, Call, HandlerDef, HandlerItem, HandlerOptions, IntoOutcome, Received, Registered,
    Site,
};

use catga_core::Message;

use crate::{FromContext, HandlerError};

/// What a handler returned, as its outcome.
///
/// # Errors
/// What the handler failed with.
pub fn outcome<M: Message, O: IntoOutcome<M::Response>>(
    returned: O,
) -> Result<M::Response, HandlerError> {
    returned.into_outcome()
}

/// Checks the type of a handler's first argument where the compiler can point at it.
pub const fn message_argument<M: Message>() {}

/// Checks the type of a handler's other arguments where the compiler can point at it.
pub const fn extractor_argument<A: FromContext>() {}
