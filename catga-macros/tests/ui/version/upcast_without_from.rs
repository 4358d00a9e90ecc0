// An older version that cannot be converted
use catga::prelude::*;
use serde::{Deserialize, Serialize};

mod v1 {
    use super::{Deserialize, Event, Serialize};

    #[derive(Event, Serialize, Deserialize)]
    pub struct OrderShipped;
}

#[derive(Event, Serialize, Deserialize)]
#[message(version = 2, upcast_from = v1::OrderShipped)]
struct OrderShipped;

fn main() {}
