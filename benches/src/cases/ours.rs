//! Ours over a broker: what we carry, and the two nodes of every case, each with a connection of its own, as the loops by
//! hand have.

use bytes::Bytes;
use catga::prelude::*;
use serde::{Deserialize, Serialize};

use crate::cases::work::{Order, number, payload};
use crate::latency::Tally;

pub mod events;
pub mod requests;
pub mod stored;

/// An event that is made of its number, of a size where it has none of its own.
pub trait Sample: catga::Event {
    fn of(i: u64, size: usize) -> Self;
}

/// What a broker has to say after a case.
pub trait Broker {
    /// How many messages it holds.
    fn stored(url: &str) -> impl Future<Output = u64> + Send;

    /// How many of them some group has not acknowledged.
    fn open(url: &str) -> impl Future<Output = u64> + Send;
}

/// As the raw loop encodes it, too.
#[derive(Event, Serialize, Deserialize)]
pub struct Note {
    pub number: u64,
    text: String,
}

impl Sample for Note {
    fn of(number: u64, size: usize) -> Self {
        // What stands around the text takes some 28 bytes.
        let text = ".".repeat(size - 28);
        Self { number, text }
    }
}

macro_rules! frames {
    ($($(#[$attribute:meta])* $frame:ident, $handler:ident;)*) => {$(
        $(#[$attribute])*
        #[message(codec = "raw")]
        pub struct $frame(Bytes);

        impl Sample for $frame {
            fn of(i: u64, size: usize) -> Self {
                Self(payload(i, size))
            }
        }

        #[handler(concurrency = 256)]
        pub async fn $handler(frame: &$frame, State(tally): State<Tally>) -> Result<()> {
            tally.one(number(&frame.0));
            Ok(())
        }
    )*};
}

frames! {
    #[derive(Event)]
    Frame, on_frame;
    #[derive(Event)]
    #[qos(at_least_once)]
    StoredFrame, on_stored_frame;
    #[derive(Event)]
    #[qos(exactly_once)]
    OnceFrame, on_once_frame;
}

/// What the peers carry.
#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
pub struct StoredOrder(Order);

impl Sample for StoredOrder {
    fn of(i: u64, _: usize) -> Self {
        Self(Order::new(i))
    }
}

impl Sample for Order {
    fn of(i: u64, _: usize) -> Self {
        Self::new(i)
    }
}

/// Every node sees it, so that there is no group.
#[handler(each_node, concurrency = 256)]
pub async fn on_frame_everywhere(frame: &Frame, State(tally): State<Tally>) {
    tally.one(number(&frame.0));
}

#[handler(concurrency = 256)]
pub async fn on_note(note: &Note, State(tally): State<Tally>) {
    tally.one(note.number);
}

#[handler(concurrency = 256)]
pub async fn on_order(order: &Order, State(tally): State<Tally>) {
    tally.one(order.quantity);
}

#[handler(concurrency = 256)]
pub async fn on_stored_order(order: &StoredOrder, State(tally): State<Tally>) -> Result<()> {
    tally.one(order.0.quantity);
    Ok(())
}

pub async fn node(url: &str, name: &str, handlers: catga::Handlers, tally: &Tally) -> Catga {
    let node = Catga::builder()
        // At QoS 0 a node may be two windows behind.
        .connect(format!("{url}?ring=65536"))
        .service(name)
        .node(name)
        .handlers(handlers)
        .state(tally.clone());
    node.start().await.expect("it starts")
}
