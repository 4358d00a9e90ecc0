//! What travels between the nodes.

use catga::prelude::{Event, Request};
use serde::{Deserialize, Serialize};

/// Asks one node to take an order: also what a line of the input says.
#[derive(Debug, Request, Serialize, Deserialize)]
#[response(OrderAccepted)]
#[request(idempotent = false)]
pub(crate) struct CreateOrder {
    pub(crate) order_id: String,
    pub(crate) customer: String,
    pub(crate) product_id: String,
    pub(crate) quantity: u32,
    pub(crate) unit_price_cents: u32,
    #[serde(default)]
    pub(crate) note: String,
}

/// The answer to [`CreateOrder`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OrderAccepted {
    pub(crate) tracking_number: String,
    pub(crate) total_cents: u64,
}

/// QoS 0: nice to know, and nobody suffers when one is lost.
#[derive(Debug, Event, Serialize, Deserialize)]
pub(crate) struct OrderCreated {
    pub(crate) order_id: String,
    pub(crate) product_id: String,
    pub(crate) quantity: u32,
}

/// QoS 1: an order that was shipped is billed, whatever happens meanwhile.
#[derive(Debug, Event, Serialize, Deserialize)]
#[qos(at_least_once)]
#[route_by(order_id, partitions = 16)]
pub(crate) struct OrderShipped {
    pub(crate) order_id: String,
    pub(crate) tracking_number: String,
    pub(crate) total_cents: u64,
    /// Microseconds since this process began: publisher and handlers share its clock.
    pub(crate) shipped_at_us: u64,
}
