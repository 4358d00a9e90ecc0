//! What a node does before it takes orders: it copies the book of another, since its own went with the process before it.
//!
//! It subscribed before, so that an order which is made meanwhile comes to it by its event: between the two there is no gap.

use catga::Error;
use catga::prelude::Catga;

use crate::book::Book;
use crate::log::Log;
use crate::messages::OrdersAfter;

/// Copies the orders of the first node that tells all of them.
pub(crate) async fn catch_up(catga: &Catga, book: &Book, log: &Log) {
    for node in catga.nodes() {
        if node.id == *catga.node() || !node.answers("OrdersAfter") {
            continue;
        }
        match copy(catga, book, node.id.as_str()).await {
            Ok(0) => return,
            Ok(count) => {
                let what = format_args!("copied the {count} orders that {} knows", node.id);
                return log.tell(catga.node(), what);
            }
            Err(error) => {
                let what = format_args!("cannot copy the orders of {}: {error}", node.id);
                log.tell(catga.node(), what);
            }
        }
    }
}

async fn copy(catga: &Catga, book: &Book, node: &str) -> Result<usize, Error> {
    let (mut id, mut count) = (None, 0);
    loop {
        let page = catga.send_to(node, OrdersAfter { id }).await?;
        let Some(last) = page.last() else {
            return Ok(count);
        };
        id = Some(last.id);
        count += page.len();
        for order in page {
            // Its clerk lives as long as the book.
            if book.enter(order).await.is_err() {
                return Ok(count);
            }
        }
    }
}
