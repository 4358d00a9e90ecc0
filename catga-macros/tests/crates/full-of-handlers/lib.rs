//! A crate that is full of handlers and lets no lint pass: built as one of edition 2021 and as one of edition 2024, in which
//! `catga` has another name.

#![forbid(unsafe_code)]
#![deny(
    warnings,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::nursery
)]

pub mod billing;
mod stock;

use std::sync::atomic::{AtomicU64, Ordering};

use messaging::prelude::*;
use serde::{Deserialize, Serialize};

pub use stock::StockOf;

/// An order left the house.
#[derive(Debug, Event, Serialize, Deserialize)]
#[qos(at_least_once)]
#[route_by(order_id, partitions = 4)]
pub struct OrderShipped {
    /// Its key.
    pub order_id: String,
}

/// Something moved.
#[derive(Debug, Event, Serialize, Deserialize)]
pub enum Moved {
    /// To the left, so far.
    Left(u32),
    /// Away.
    Away {
        /// To where.
        to: String,
    },
}

/// Counts what was handled.
#[derive(Clone, Debug, Default)]
pub struct Handled(std::sync::Arc<AtomicU64>);

impl Handled {
    pub(crate) fn one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How much was handled.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Every node sees it.
#[handler(each_node)]
pub async fn on_moved(moved: &Moved, State(handled): State<Handled>) {
    if matches!(moved, Moved::Left(1..) | Moved::Away { .. }) {
        handled.one();
    }
}

macro_rules! audit {
    ($($name:ident, $group:literal;)*) => {$(
        /// Made by a macro.
        ///
        /// # Errors
        /// When there is no id.
        #[handler(group = $group, attempts = 2)]
        pub async fn $name(shipped: &OrderShipped, handled: State<Handled>) -> Result<()> {
            if shipped.order_id.is_empty() {
                return Err("no id").terminal();
            }
            handled.one();
            Ok(())
        }
    )*};
}

audit! {
    audit_first, "audit.first";
    audit_second, "audit.second";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn they_handle() {
        let handled = Handled::default();
        let app = Catga::builder()
            .connect("memory://")
            .service("messaging")
            .state(handled.clone());
        let app = app.start().await.unwrap();
        let order_id = "o-1".to_owned();
        app.publish(OrderShipped { order_id }).await.unwrap();
        app.publish(Moved::Left(1)).await.unwrap();
        assert_eq!(app.send(StockOf("lamp".to_owned())).await.unwrap(), 4);
        // Two audits, one bill, one move and one request.
        while handled.count() < 5 {
            tokio::task::yield_now().await;
        }
        app.shutdown().await.unwrap();
        assert_eq!(handled.count(), 5);
    }
}
