// A raw message that derives `Serialize`: leave serde's derives out
use catga::prelude::*;
use catga::Bytes;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[message(codec = "raw")]
struct Frame(Bytes);

fn main() {}
