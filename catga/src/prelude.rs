//! What programs use every day: `use catga::prelude::*;`.

pub use catga_core::{Event, Headers, Request};
#[cfg(feature = "macros")]
pub use catga_macros::{Event, Request, handler};

pub use crate::{
    Attempt, Catga, Commit, Context, FailWith, FromContext, HandlerError, State, handlers,
};

/// A result whose error is, unless said otherwise, a handler's: for handlers and for `main`.
pub type Result<T, E = HandlerError> = std::result::Result<T, E>;
