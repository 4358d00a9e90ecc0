// A back-off for a message that is sent once
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Moved;

#[handler(backoff = "1s..5s")]
async fn on_moved(moved: Moved) {
    drop(moved);
}

fn main() {}
