// Order among messages that may be lost
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[route_by(id)]
struct Moved {
    id: u32,
}

#[handler(ordered)]
async fn on_moved(moved: Moved) {
    drop(moved);
}

fn main() {}
