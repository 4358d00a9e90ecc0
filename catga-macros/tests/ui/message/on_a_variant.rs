// An attribute on a variant
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
enum Order {
    #[route_by(id)]
    Created { id: u32 },
}

fn main() {}
