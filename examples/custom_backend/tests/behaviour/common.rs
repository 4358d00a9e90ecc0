//! A folder, and the few steps that each test takes in it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use catga_core::{
    Backend, Bytes, ConnectOptions, Consumers, Delivery, Driver, Envelope, Error, Name, Published,
    QoS, Settlement, Subscribe, Subscription,
};
use catga_file::FileDriver;
use tempfile::TempDir;
use tokio::time::timeout;

/// The longest to wait for what is to happen.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A lease that does not end while a test runs.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// The options of a connection that does not wait for the disk: no test cuts the power.
pub(crate) const QUICK: &str = "sync=false";

pub(crate) const MESSAGE: Name = Name::from_static("orders.shipped");

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Connects as a process of its own would, with options of the URL.
pub(crate) async fn connect(folder: &Path, options: &str) -> Backend {
    let url = format!("file://{}?{options}", folder.display());
    let url = url.parse().unwrap();
    let options = ConnectOptions::new(Name::from_static("test"));
    FileDriver.connect(&url, &options).await.unwrap()
}

pub(crate) fn to_group(group: &'static str) -> Subscribe {
    let group = Consumers::Group(Name::from_static(group));
    Subscribe::new(MESSAGE, QoS::AtLeastOnce, group).with_ack_wait(LONG)
}

pub(crate) async fn subscribe(backend: &Backend, subscribe: &Subscribe) -> Box<dyn Subscription> {
    backend.transport.subscribe(subscribe).await.unwrap()
}

pub(crate) fn message(text: &str) -> Envelope {
    Envelope::received(MESSAGE, QoS::AtLeastOnce, Bytes::from(text.to_owned()))
}

pub(crate) async fn publish(backend: &Backend, text: &str) -> Result<Published, Error> {
    backend.transport.publish(&mut message(text), SOON).await
}

pub(crate) fn text(delivery: &Delivery) -> &str {
    let payload = delivery.envelope().payload().as_bytes().unwrap();
    std::str::from_utf8(payload).unwrap()
}

/// The next batch, which has to come soon.
pub(crate) async fn batch(subscription: &mut dyn Subscription) -> Vec<Delivery> {
    let mut batch = Vec::new();
    let received = timeout(SOON, subscription.recv(100, &mut batch)).await;
    received.expect("nothing came").unwrap();
    batch
}

/// The next message, which has to come soon and alone.
pub(crate) async fn next(subscription: &mut dyn Subscription) -> Delivery {
    let mut batch = batch(subscription).await;
    assert_eq!(batch.len(), 1, "{batch:?}");
    batch.remove(0)
}

/// Takes what may be taken, until nothing came for 30 looks into the folder; acks it, and returns the texts.
pub(crate) async fn drain(subscription: &mut dyn Subscription) -> Vec<String> {
    let mut texts = Vec::new();
    let mut batch = Vec::new();
    while let Ok(received) = timeout(
        Duration::from_millis(150),
        subscription.recv(100, &mut batch),
    )
    .await
    {
        received.unwrap();
        for delivery in batch.drain(..) {
            texts.push(text(&delivery).to_owned());
            delivery.settle(Settlement::Ack).await.unwrap();
        }
    }
    texts
}

/// The files in a folder of the backend's.
pub(crate) fn files(folder: &Path, of: &str) -> Vec<PathBuf> {
    let folder = folder.join("test").join(of);
    let files = std::fs::read_dir(folder).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    paths.filter(|path| path.is_file()).collect()
}
