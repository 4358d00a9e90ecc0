//! NATS: what the raw client reaches, and ours beside it.

use async_nats::Client;
use bytes::Bytes;

use crate::case::Case;

pub(super) use requests::{request_to_one_of, respond};

mod core;
mod kv;
mod requests;
mod stored;
mod stream;

pub fn cases() -> Vec<Case> {
    [
        core::cases(),
        requests::cases(),
        stream::cases(),
        stored::cases(),
        kv::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

async fn connect(url: &str) -> Client {
    async_nats::connect(url).await.expect("the server runs")
}

/// Returns when the server knows what this client has subscribed to.
async fn settled(client: &Client) {
    let subject = client.new_inbox();
    let mut echo = client.subscribe(subject.clone()).await.expect("subscribed");
    let sent = client.publish(subject, Bytes::new()).await;
    sent.expect("connected");
    futures_util::StreamExt::next(&mut echo)
        .await
        .expect("an echo");
}
