// An extractor of one's own that is half written
use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct OrderShipped {
    order_id: String,
}

struct Tenant(String);

impl FromContext for Tenant {
    fn from_context(context: &Context) -> std::result::Result<Self, catga::HandlerError> {
        Ok(Self(context.correlation_id()))
    }
}

fn main() {}
