//! What travels between the nodes.

use catga::prelude::{Event, Request};
use serde::{Deserialize, Serialize};

/// Asks one node to take an order: also what a line of the input says.
///
/// A request is idempotent unless it says otherwise: sent again with the same id, it is answered again and not
/// taken again.
#[derive(Clone, Debug, Request, Serialize, Deserialize)]
#[response(OrderAccepted)]
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
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    pub(crate) customer: String,
    pub(crate) tracking_number: String,
    pub(crate) total_cents: u64,
    /// Microseconds since this process began: publisher and handlers share its clock.
    pub(crate) shipped_at_us: u64,
}

/// QoS 2: a payment is booked once, and those of one customer one after the other.
#[derive(Clone, Debug, Event, Serialize, Deserialize)]
#[qos(exactly_once)]
#[route_by(customer, partitions = 16)]
pub(crate) struct PaymentTaken {
    pub(crate) order_id: String,
    pub(crate) customer: String,
    pub(crate) cents: u64,
}

/// [`PaymentTaken`] as a program of last year publishes it, to whose author QoS 1 was good enough: nobody looks
/// for duplicates when it is stored.
#[derive(Debug, Event, Serialize, Deserialize)]
#[message(name = "PaymentTaken")]
#[qos(at_least_once)]
#[route_by(customer, partitions = 16)]
pub(crate) struct OldPaymentTaken {
    pub(crate) order_id: String,
    pub(crate) customer: String,
    pub(crate) cents: u64,
}

impl From<PaymentTaken> for OldPaymentTaken {
    fn from(payment: PaymentTaken) -> Self {
        Self {
            order_id: payment.order_id,
            customer: payment.customer,
            cents: payment.cents,
        }
    }
}
