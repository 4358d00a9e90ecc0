//! What the backend promises, through the traits of the core, on real servers.
//!
//! Tests share one server, each in a namespace of its own; those that kill, pause or configure a server have their own.

#![allow(
    clippy::unwrap_used,
    reason = "a failure in a helper is a failure of its test"
)]

mod application;
mod connecting;
mod dead_letters;
mod events;
mod exactly_once;
mod faults;
mod inbox;
mod members;
mod nodes;
mod nodes_faults;
mod nodes_rights;
mod nodes_servers;
mod reading;
mod requests;
mod servers;
mod settling;
mod stored;

use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use catga_core::{
    Backend, Bytes, ConnectOptions, Consumers, Delivery, Driver, Envelope, Error, MessageId, Name,
    NodeId, QoS, Settlement, Subscribe, Subscription, Transport,
};
use catga_redis::DRIVER;
use catga_testkit::server::RedisServer;
use tokio::time::Instant;

const NAME: Name = Name::from_static("orders.created");
const SECOND: Duration = Duration::from_secs(1);
/// By so much a server that counts whole milliseconds may be early.
const TICK: Duration = Duration::from_millis(2);
/// The longest to wait for what is to happen, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// The URL of the server that tests share.
fn shared() -> &'static str {
    static URL: OnceLock<String> = OnceLock::new();
    URL.get_or_init(|| {
        let (url, started) = mpsc::channel();
        // The server ends with the thread that started it: this one ends with the process.
        std::thread::spawn(move || {
            let server = RedisServer::start().unwrap();
            url.send(server.url()).unwrap();
            loop {
                std::thread::park();
            }
        });
        started.recv().expect("the server starts")
    })
}

/// A namespace that nobody else has.
fn namespace() -> Name {
    Name::new(format!("t{}", MessageId::new().as_uuid().simple())).unwrap()
}

/// A namespace on a server, and connections to it.
struct Space {
    url: String,
    namespace: Name,
}

impl Space {
    /// On the server that tests share.
    fn new() -> Self {
        Self::at(shared())
    }

    fn at(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            namespace: namespace(),
        }
    }

    async fn try_connect(&self, options: &str) -> Result<Backend, Error> {
        let url = format!("{}{options}", self.url).parse().unwrap();
        let connect = ConnectOptions::new(self.namespace.clone());
        DRIVER.connect(&url, &connect).await
    }

    async fn connect(&self) -> Backend {
        self.try_connect("").await.unwrap()
    }

    async fn transport(&self) -> Arc<dyn Transport> {
        self.connect().await.transport
    }
}

fn message(qos: QoS, text: &str) -> Envelope {
    Envelope::received(NAME, qos, Bytes::copy_from_slice(text.as_bytes()))
}

async fn publish(transport: &dyn Transport, qos: QoS, text: &str) {
    transport
        .publish(&mut message(qos, text), SOON)
        .await
        .unwrap();
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

/// The next delivery; none in time is a failure.
async fn next(subscription: &mut dyn Subscription) -> Delivery {
    let mut into = Vec::new();
    let by = Instant::now() + SOON;
    while into.is_empty() {
        let received = tokio::time::timeout_at(by, subscription.recv(1, &mut into));
        if let Err(error) = received.await.expect("nothing came in time") {
            assert_ne!(error.retry(), catga_core::Retry::Never, "{error:?}");
        }
    }
    assert_eq!(into.len(), 1);
    into.pop().unwrap()
}

/// Listens for a while for what must not come.
async fn nothing(subscription: &mut dyn Subscription) {
    nothing_within(SECOND / 2, subscription).await;
}

/// Listens for so long for what must not come.
async fn nothing_within(time: Duration, subscription: &mut dyn Subscription) {
    let mut into = Vec::new();
    let received = tokio::time::timeout(time, subscription.recv(1, &mut into));
    assert!(received.await.is_err(), "came: {into:?}");
}

async fn ack(delivery: Delivery) {
    delivery.settle(Settlement::Ack).await.unwrap();
}

/// Waits until something holds.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let by = Instant::now() + SOON;
    while !holds().await {
        assert!(Instant::now() < by, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Asks a server by the wire alone.
async fn raw(url: &str, words: &[&str]) -> redis::Value {
    let client = redis::Client::open(url).unwrap();
    // The client itself waits for half a second, which a busy machine may take.
    let patient = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(SOON))
        .set_response_timeout(Some(SOON));
    let made = client.get_multiplexed_async_connection_with_config(&patient);
    let mut connection = made.await.unwrap();
    let mut cmd = redis::cmd(words[0]);
    for word in &words[1..] {
        cmd.arg(*word);
    }
    cmd.query_async(&mut connection).await.unwrap()
}

/// The length of a list that a server answers with, or the number.
async fn number(url: &str, words: &[&str]) -> i64 {
    match raw(url, words).await {
        redis::Value::Int(number) => number,
        redis::Value::Array(values) => i64::try_from(values.len()).unwrap(),
        redis::Value::Nil => 0,
        other => panic!("{other:?}"),
    }
}
