//! What the backend promises, through the traits of the core.

#![allow(
    clippy::unwrap_used,
    reason = "a failure in a helper is a failure of its test"
)]

mod buses;
mod commit;
mod dead_letters;
mod exactly_once;
mod inbox;
mod logs;
mod model;
mod nodes;
mod ordered;
mod requests;
mod rings;

use std::sync::Arc;
use std::time::Duration;

use catga_core::{
    Backend, Bytes, Completion, ConnectOptions, Consumers, Delivery, Driver, Envelope, Error,
    MessageId, Name, NodeId, Published, QoS, Settlement, Subscribe, Subscription, Transport,
};
use catga_memory::DRIVER;

const NAME: Name = Name::from_static("orders.created");
const NAMESPACE: Name = Name::from_static("catga");
const SECOND: Duration = Duration::from_secs(1);

async fn connect(url: &str) -> Backend {
    try_connect(url).await.unwrap()
}

async fn try_connect(url: &str) -> Result<Backend, Error> {
    let options = ConnectOptions::new(NAMESPACE).with_node_timeout(SECOND);
    DRIVER.connect(&url.parse().unwrap(), &options).await
}

async fn transport(url: &str) -> Arc<dyn Transport> {
    connect(url).await.transport
}

fn message(qos: QoS, text: &str) -> Envelope {
    Envelope::received(NAME, qos, Bytes::copy_from_slice(text.as_bytes()))
}

async fn publish(transport: &dyn Transport, qos: QoS, text: &str) {
    transport
        .publish(&mut message(qos, text), SECOND)
        .await
        .unwrap();
}

/// Publishes at QoS 2, under the id of a key.
async fn publish_once(transport: &dyn Transport, key: &str, text: &str) -> Published {
    let envelope = message(QoS::ExactlyOnce, text).with_id(MessageId::from_key(key));
    transport.publish(&mut { envelope }, SECOND).await.unwrap()
}

fn in_group(qos: QoS, group: &'static str) -> Subscribe {
    Subscribe::new(NAME, qos, Consumers::Group(Name::from_static(group)))
}

fn on_node(qos: QoS, node: &'static str) -> Subscribe {
    let (group, node) = (Name::from_static("each"), NodeId::from_static(node));
    Subscribe::new(NAME, qos, Consumers::EachNode { group, node })
}

fn text(delivery: &Delivery) -> String {
    let bytes = delivery.envelope().payload().as_bytes().unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The next delivery; none in a second is a failure.
async fn next(subscription: &mut dyn Subscription) -> Delivery {
    let mut into = Vec::new();
    let received = tokio::time::timeout(SECOND, subscription.recv(1, &mut into));
    received.await.expect("nothing came in time").unwrap();
    assert_eq!(into.len(), 1);
    into.pop().unwrap()
}

/// Waits a virtual second for what must not come.
async fn nothing(subscription: &mut dyn Subscription) {
    let mut into = Vec::new();
    let received = tokio::time::timeout(SECOND, subscription.recv(1, &mut into));
    assert!(received.await.is_err(), "came: {into:?}");
}

async fn ack(delivery: Delivery) {
    delivery.settle(Settlement::Ack).await.unwrap();
}

/// An ack that is confirmed.
async fn complete(delivery: Delivery) -> Result<(), Error> {
    delivery
        .settle(Settlement::Complete(Completion::new()))
        .await
}
