//! What travels between the nodes.

use catga::MessageId;
use catga::prelude::{Event, Request};
use serde::{Deserialize, Serialize};

/// The most of one product that an order may be for.
pub(crate) const MAX_QUANTITY: u32 = 100_000;
const MAX_PRODUCT_BYTES: usize = 128;

/// Asks one of the nodes to make an order.
///
/// A request is idempotent unless it says otherwise: sent again with the same id, it is answered again, and no second order is made.
#[derive(Clone, Debug, Request, Serialize, Deserialize)]
#[response(Order)]
pub(crate) struct CreateOrder {
    pub(crate) product_id: String,
    pub(crate) quantity: u32,
}

impl CreateOrder {
    /// What is wrong with it, in words.
    pub(crate) fn check(&self) -> Result<(), String> {
        let product = &self.product_id;
        if product.trim().is_empty() {
            return Err("`productId` is empty".to_owned());
        }
        // It stands in the logs.
        if product.len() > MAX_PRODUCT_BYTES || product.chars().any(char::is_control) {
            return Err(format!(
                "`productId` has control characters or more than {MAX_PRODUCT_BYTES} bytes"
            ));
        }
        if !(1..=MAX_QUANTITY).contains(&self.quantity) {
            return Err(format!(
                "`quantity` is {}: allowed are 1 to {MAX_QUANTITY}",
                self.quantity
            ));
        }
        Ok(())
    }
}

/// An order that was made. Its id is that of the request that made it, which all tries of that request share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) id: MessageId,
    pub(crate) product_id: String,
    pub(crate) quantity: u32,
    /// The node that made it.
    pub(crate) processed_by: String,
}

/// QoS 0: nice to know, and nobody suffers when one is lost.
#[derive(Clone, Debug, Event, Serialize, Deserialize)]
pub(crate) struct OrderCreated {
    pub(crate) order_id: MessageId,
}

/// QoS 1: every node hears of every order, whatever fails meanwhile, and enters it in its book.
#[derive(Clone, Debug, Event, Serialize, Deserialize)]
#[qos(at_least_once)]
pub(crate) struct OrderShipped {
    pub(crate) order: Order,
}

/// Asks a node whether it has an order.
#[derive(Clone, Copy, Debug, Request, Serialize, Deserialize)]
#[response(Option<Order>)]
#[request(idempotent = false)]
pub(crate) struct FindOrder {
    pub(crate) id: MessageId,
}

/// Asks a node for a page of its book.
#[derive(Clone, Copy, Debug, Request, Serialize, Deserialize)]
#[response(Vec<Order>)]
#[request(idempotent = false)]
pub(crate) struct OrdersAfter {
    /// The last of the page before.
    pub(crate) id: Option<MessageId>,
}
