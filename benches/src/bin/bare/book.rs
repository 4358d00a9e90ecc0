//! The orders that a node knows of: kept as the example keeps them, by one task.

use std::collections::VecDeque;
use std::collections::btree_map::{BTreeMap, Entry};

use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::shop::Order;

const REMEMBERED: usize = 200_000;
const WAITING: usize = 64;

#[derive(Clone)]
pub struct Book(mpsc::Sender<(Order, oneshot::Sender<()>)>);

impl Book {
    pub fn open() -> Self {
        let (book, mut jobs) = mpsc::channel(WAITING);
        tokio::spawn(async move {
            let mut orders: BTreeMap<Uuid, Order> = BTreeMap::new();
            let mut entered = VecDeque::new();
            while let Some((order, done)) = jobs.recv().await {
                let order: Order = order;
                let done: oneshot::Sender<()> = done;
                let id = order.id;
                if let Entry::Vacant(place) = orders.entry(id) {
                    place.insert(order);
                    entered.push_back(id);
                }
                if entered.len() > REMEMBERED
                    && let Some(oldest) = entered.pop_front()
                {
                    orders.remove(&oldest);
                }
                // Whoever asked may have gone.
                let _ = done.send(());
            }
        });
        Self(book)
    }

    /// Enters an order; one that is there already stays as it is.
    pub async fn enter(&self, order: Order) {
        let (done, entered) = oneshot::channel();
        let sent = self.0.send((order, done)).await;
        sent.expect("the book is open");
        entered.await.expect("the book is open");
    }
}
