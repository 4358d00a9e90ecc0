//! Attributes of others above and below `#[handler]`.

#![deny(warnings, missing_docs)]

use catga::prelude::*;
use serde::{Deserialize, Serialize};

/// An event.
#[derive(Debug, Event, Serialize, Deserialize)]
pub struct Moved;

/// Traced inside of the handler.
#[handler(group = "instrument-below")]
#[tracing::instrument]
pub async fn instrument_below(moved: Moved) {}

/// Traced, and then a handler.
#[tracing::instrument(skip_all, fields(group = "above"))]
#[handler(group = "instrument-above")]
pub async fn instrument_above(moved: &Moved, context: Context) -> Result<()> {
    let _ = (moved, context);
    Ok(())
}

/// Deprecated, said below.
#[handler(group = "deprecated-below")]
#[deprecated = "moves no more"]
pub async fn deprecated_below(_: &Moved) {}

/// Deprecated, said above.
#[deprecated = "moves no more"]
#[handler(group = "deprecated-above")]
pub async fn deprecated_above(_: &Moved) {}

/// A lint that is allowed below.
#[handler(group = "allow-below")]
#[allow(unused_variables)]
pub async fn allow_below(moved: &Moved) {}

/// A lint that is allowed above.
#[allow(unused_variables)]
#[handler(group = "allow-above")]
pub async fn allow_above(moved: &Moved) {}

#[cfg(any())]
#[handler(group = "absent-above")]
async fn absent_above(_: NoSuchMessage) {}

#[handler(group = "absent-below")]
#[cfg(any())]
async fn absent_below(_: NoSuchMessage) {}

#[cfg(all())]
#[handler(group = "present-above")]
async fn present_above(_: &Moved) {}

#[handler(group = "conditional-attribute")]
#[cfg_attr(all(), allow(unused_variables))]
async fn conditional_attribute(moved: &Moved) {}

#[allow(deprecated)]
fn main() {
    drop(handlers![
        instrument_below,
        instrument_above,
        deprecated_below,
        deprecated_above,
        allow_below,
        allow_above,
        present_above,
        conditional_attribute
    ]);
}
