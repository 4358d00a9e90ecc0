use messaging::prelude::*;
use serde::{Deserialize, Serialize};

use crate::Handled;

/// How much there is of something.
#[derive(Debug, Request, Serialize, Deserialize)]
#[response(usize)]
#[request(idempotent = false)]
pub struct StockOf(pub String);

#[handler]
async fn stock_of(StockOf(product): StockOf, State(handled): State<Handled>) -> Result<usize> {
    handled.one();
    Ok(product.len())
}
