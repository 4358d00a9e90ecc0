//! `catga` under another path.

#![deny(warnings)]

mod vendored {
    pub(crate) use ::catga as messages;
}

// Not what `catga` names here.
#[allow(unused)]
mod catga {}

use crate::vendored::messages::prelude::{Context, Event, Request, Result, State, handler, handlers};
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
#[route_by(id)]
#[catga(crate = crate::vendored::messages)]
struct Renamed {
    id: u32,
}

#[derive(Request, Serialize, Deserialize)]
#[catga(crate = vendored::messages)]
struct Asked;

#[derive(Event, Serialize, Deserialize)]
#[message(name = "Renamed", version = 2, upcast_from = Renamed)]
#[catga(crate = crate::vendored::messages)]
struct RenamedV2 {
    id: u32,
}

impl From<Renamed> for RenamedV2 {
    fn from(old: Renamed) -> Self {
        Self { id: old.id }
    }
}

#[handler(crate = crate::vendored::messages, ordered, rate = "1/s", breaker)]
async fn on_renamed(_: Renamed, _: Context, _: State<u32>) -> Result<()> {
    Ok(())
}

#[handler(crate = vendored::messages)]
async fn on_asked(_: &Asked) {}

fn main() {
    drop(handlers![on_renamed, on_asked]);
}
