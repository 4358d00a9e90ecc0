//! `send` to a handler of another node, and back.

use bytes::Bytes;
use catga::prelude::*;
use futures_util::{StreamExt, stream};

use crate::bench::{Bench, Measured, two_cores};
use crate::cases::work::{number, payload};

/// Answered anew each time.
#[derive(Request)]
#[message(codec = "raw")]
#[response(Bytes)]
#[request(idempotent = false)]
pub struct Price(Bytes);

/// Claimed by its id, and its answer is kept.
#[derive(Request)]
#[message(codec = "raw")]
#[response(Bytes)]
pub struct SafePrice(Bytes);

impl From<Bytes> for Price {
    fn from(payload: Bytes) -> Self {
        Self(payload)
    }
}

impl From<Bytes> for SafePrice {
    fn from(payload: Bytes) -> Self {
        Self(payload)
    }
}

#[handler(concurrency = 256)]
async fn price(request: Price) -> Result<Bytes> {
    Ok(request.0)
}

#[handler(concurrency = 256)]
async fn price_once(request: SafePrice) -> Result<Bytes> {
    Ok(request.0)
}

/// `send` to the one node of the service, so many at once from one task.
pub fn send<R>(bench: Bench, window: usize, size: usize) -> Measured
where
    R: catga::Request<Response = Bytes> + From<Bytes>,
{
    send_to_one_of::<R>(bench, 1, window, size)
}

/// `send` to one of the nodes of the service, each in its turn.
pub fn send_to_one_of<R>(bench: Bench, nodes: usize, window: usize, size: usize) -> Measured
where
    R: catga::Request<Response = Bytes> + From<Bytes>,
{
    two_cores(async move {
        let tally = bench.tally(1);
        let mut servers = Vec::new();
        for n in 1..=nodes {
            let all = handlers![price, price_once];
            let server = Catga::builder()
                .connect(&bench.url)
                .service("prices")
                .node(format!("node{n}"))
                .handlers(all);
            servers.push(server.start().await.expect("it starts"));
        }
        let client = Catga::builder()
            .connect(&bench.url)
            .service("prices")
            .node("client")
            .handlers(handlers![]);
        let client = client.start().await.expect("it starts");
        assert_eq!(client.nodes().len(), nodes + 1, "all nodes are seen");
        let clock = bench.begin();
        let each = stream::iter(0..bench.operations).map(|i| {
            let (client, tally) = (&client, &tally);
            async move {
                tally.sent(i);
                let answer = client.send(R::from(payload(i, size))).await;
                tally.one(number(&answer.expect("an answer")));
            }
        });
        each.buffer_unordered(window).for_each(|()| async {}).await;
        clock.end_with(&tally)
    })
}
