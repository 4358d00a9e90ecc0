// Attempts at a message that is sent once
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Moved;

#[handler(attempts = 3)]
async fn on_moved(moved: Moved) {
    drop(moved);
}

fn main() {}
