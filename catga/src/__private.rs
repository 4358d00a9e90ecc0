//! What generated code calls. No promise is made about any of it.

pub use std::borrow::Cow;

pub use inventory;

pub use crate::handlers::{
    BoxFuture, Breaker, Call, HandlerDef, HandlerItem, HandlerOptions, IntoOutcome, Rate, Received,
    Registered, Site,
};

use catga_core::Message;

/// Checks the type of a handler's first argument where the compiler can point at it.
pub const fn message_argument<M: Message>() {}
