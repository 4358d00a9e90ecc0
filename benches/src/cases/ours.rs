//! What we carry over NATS, and the two nodes of every case: each with a connection of its own, as the loops by hand have.

use async_nats::jetstream;
use bytes::Bytes;
use catga::prelude::*;
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};

use super::connect;
use crate::cases::work::{Order, number, payload};
use crate::latency::Tally;

/// An event that is made of its number, of a size where it has none of its own.
pub(super) trait Sample: catga::Event {
    fn of(i: u64, size: usize) -> Self;
}

/// As the raw loop encodes it, too.
#[derive(Event, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) number: u64,
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
        pub(super) struct $frame(Bytes);

        impl Sample for $frame {
            fn of(i: u64, size: usize) -> Self {
                Self(payload(i, size))
            }
        }

        #[handler(concurrency = 256)]
        pub(super) async fn $handler(frame: &$frame, State(tally): State<Tally>) -> Result<()> {
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
pub(super) struct StoredOrder(Order);

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

#[handler(concurrency = 256)]
pub(super) async fn on_note(note: &Note, State(tally): State<Tally>) {
    tally.one(note.number);
}

#[handler(concurrency = 256)]
pub(super) async fn on_order(order: &Order, State(tally): State<Tally>) {
    tally.one(order.quantity);
}

#[handler(concurrency = 256)]
pub(super) async fn on_stored_order(order: &StoredOrder, State(tally): State<Tally>) -> Result<()> {
    tally.one(order.0.quantity);
    Ok(())
}

pub(super) async fn node(url: &str, name: &str, handlers: catga::Handlers, tally: &Tally) -> Catga {
    let node = Catga::builder()
        // At QoS 0 a node may be two windows behind.
        .connect(format!("{url}?ring=65536"))
        .service(name)
        .node(name)
        .handlers(handlers)
        .state(tally.clone());
    node.start().await.expect("it starts")
}

/// How many messages all streams hold, and how many of them some consumer has not acknowledged.
async fn state(url: &str) -> (u64, u64) {
    let context = jetstream::new(connect(url).await);
    let mut streams = context.streams();
    let (mut stored, mut open) = (0, 0);
    while let Some(info) = streams.try_next().await.expect("an answer") {
        stored += info.state.messages;
        let stream = context.get_stream(&info.config.name).await;
        let stream = stream.expect("it is there");
        let mut consumers = stream.consumers();
        while let Some(info) = consumers.try_next().await.expect("an answer") {
            open += info.num_pending + info.num_ack_pending as u64;
        }
    }
    (stored, open)
}

/// Fails unless the server holds so many.
pub(super) async fn are_stored(url: &str, count: u64) {
    assert_eq!(state(url).await.0, count, "stored");
}

/// Waits until the server has every acknowledgement: one may be on its way.
pub(super) async fn are_acknowledged(url: &str) {
    while state(url).await.1 > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
