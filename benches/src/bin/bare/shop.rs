//! What a node does with an order, whatever the broker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Place;
use crate::book::Book;

/// Asks a node to make an order.
#[derive(Clone, Serialize, Deserialize)]
pub struct Request {
    pub id: Uuid,
    pub product_id: String,
    pub quantity: u32,
}

/// One that was made.
#[derive(Clone, Serialize, Deserialize)]
pub struct Order {
    pub id: Uuid,
    pub product_id: String,
    pub quantity: u32,
    pub processed_by: String,
}

/// That an order was made, to whom it may concern.
#[derive(Serialize, Deserialize)]
pub struct Created {
    pub order_id: Uuid,
}

/// The calls of the broker.
pub trait Broker: Clone + Send + Sync + 'static {
    /// Has another node make an order.
    fn ask(&self, node: usize, request: Request) -> impl Future<Output = Order> + Send;

    /// Tells who is there, at most once.
    fn created(&self, id: Uuid) -> impl Future<Output = ()> + Send;

    /// Returns when it is stored.
    fn shipped(&self, order: &Order) -> impl Future<Output = ()> + Send;
}

/// A node.
#[derive(Clone)]
pub struct Shop<B> {
    pub broker: B,
    pub book: Book,
    pub place: Place,
    pub one_request: bool,
    name: Arc<str>,
    turn: Arc<AtomicUsize>,
}

impl<B: Broker> Shop<B> {
    pub fn new(broker: B, place: Place, one_request: bool) -> Self {
        Self {
            broker,
            book: Book::open(),
            place,
            one_request,
            name: format!("node{}", place.node).into(),
            turn: Arc::default(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Has an order made by the node whose turn it is.
    pub async fn order(&self, request: Request) -> Order {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let node = turn % self.place.nodes + 1;
        if node == self.place.node {
            self.make(request).await
        } else {
            self.broker.ask(node, request).await
        }
    }

    /// Makes it here.
    pub async fn make(&self, request: Request) -> Order {
        let order = Order {
            id: request.id,
            product_id: request.product_id,
            quantity: request.quantity,
            processed_by: self.name.to_string(),
        };
        if !self.one_request {
            self.book.enter(order.clone()).await;
            self.broker.created(order.id).await;
            self.broker.shipped(&order).await;
        }
        order
    }
}
