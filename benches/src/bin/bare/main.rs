//! `POST /orders` as the example `cluster` answers it, by hand: axum, the broker's own client, and what a node remembers. It makes the
//! same calls of the broker: a request that one of the nodes answers in its turn and that is claimed where it came over the network, an
//! event that may be lost, and one that is stored and that every node acknowledges. It has no membership, no metrics, no deadline and no
//! second try.
//!
//! `bare memory:// NODES` is all nodes in one process, `bare URL NODE NODES` one of them; `--one-request` leaves out all but the request.

mod book;
mod http;
mod memory;
mod nats;
mod redis;
mod shop;

use std::process::ExitCode;

use shop::Shop;

fn main() -> ExitCode {
    let all: Vec<String> = std::env::args().skip(1).collect();
    let one_request = all.iter().any(|arg| arg == "--one-request");
    let plain: Vec<&str> = all
        .iter()
        .map(String::as_str)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    let number = |text: &str| text.parse::<usize>().ok().filter(|number| *number > 0);
    match plain[..] {
        [url, nodes] if url.starts_with("memory://") => {
            if let Some(nodes) = number(nodes) {
                return memory::run(nodes, one_request);
            }
        }
        [url, node, nodes] => {
            if let (Some(node), Some(nodes)) = (number(node), number(nodes)) {
                return over_a_broker(url, Place { node, nodes }, one_request);
            }
        }
        _ => {}
    }
    eprintln!("usage: bare memory:// NODES | bare URL NODE NODES, and --one-request");
    ExitCode::from(2)
}

/// Which of how many nodes one is, from 1.
#[derive(Clone, Copy)]
pub struct Place {
    pub node: usize,
    pub nodes: usize,
}

#[tokio::main]
async fn over_a_broker(url: &str, place: Place, one_request: bool) -> ExitCode {
    if url.starts_with("nats://") {
        let broker = nats::Nats::connect(url, place).await;
        let shop = Shop::new(broker.clone(), place, one_request);
        broker.serve(&shop).await;
        http::serve(shop).await;
    } else {
        let broker = redis::Redis::connect(url, place).await;
        let shop = Shop::new(broker.clone(), place, one_request);
        broker.serve(&shop).await;
        http::serve(shop).await;
    }
    ExitCode::SUCCESS
}
