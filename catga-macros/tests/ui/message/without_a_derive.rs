// An attribute without a derive (a text of rustc)
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped;

fn main() {}
