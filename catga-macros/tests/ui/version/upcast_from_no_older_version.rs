// An older version that is not older
use catga::prelude::*;
use serde::{Deserialize, Serialize};

mod v2 {
    use super::{Deserialize, Request, Serialize};

    #[derive(Request, Serialize, Deserialize)]
    #[message(version = 2)]
    pub struct StockOf;
}

#[derive(Request, Serialize, Deserialize)]
#[message(version = 2, upcast_from = v2::StockOf)]
struct StockOf;

impl From<v2::StockOf> for StockOf {
    fn from(_: v2::StockOf) -> Self {
        Self
    }
}

// Nor is a type older than itself.
#[derive(Request, Serialize, Deserialize)]
#[message(version = 3, upcast_from = PriceOf)]
struct PriceOf;

fn main() {}
