//! `POST /orders` that is one request to one of the nodes, in its turn, and nothing else: what `bare --one-request` does by hand.
//!
//! `one_request URL NODE` is one of the nodes.

use std::net::Ipv4Addr;
use std::process::ExitCode;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::serve::ListenerExt;
use catga::MessageId;
use catga::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

/// Answered anew each time.
#[derive(Request, Serialize, Deserialize)]
#[response(Order)]
#[request(idempotent = false)]
struct MakeOrder {
    product_id: String,
    quantity: u32,
}

#[derive(Serialize, Deserialize)]
struct Order {
    id: MessageId,
    processed_by: String,
}

#[handler(concurrency = 256)]
async fn make_order(_: MakeOrder, ctx: Context) -> Result<Order> {
    Ok(Order {
        id: ctx.id(),
        processed_by: ctx.node().to_string(),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    product_id: String,
    quantity: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Accepted<'a> {
    order_id: MessageId,
    status: &'static str,
    processed_by: &'a str,
}

async fn create(Shared(node): Shared<Catga>, body: Bytes) -> Response {
    let Ok(Asked {
        product_id,
        quantity,
    }) = serde_json::from_slice(&body)
    else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let request = MakeOrder {
        product_id,
        quantity,
    };
    let Ok(order) = node.send(request).await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let accepted = Accepted {
        order_id: order.id,
        status: "Created",
        processed_by: &order.processed_by,
    };
    let text = serde_json::to_string(&accepted).expect("it can be written");
    let json = [(header::CONTENT_TYPE, "application/json")];
    (StatusCode::CREATED, json, text).into_response()
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, name] = &arguments[..] else {
        eprintln!("usage: one_request URL NODE");
        return ExitCode::from(2);
    };
    let node = Catga::builder()
        .connect(url)
        .service("orders")
        .node(name)
        .handlers(handlers![make_order]);
    let node = node.start().await.expect("it starts");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a port");
    let address = listener.local_addr().expect("it listens");
    let router = Router::new()
        .route("/orders", post(create))
        .route("/nodes", axum::routing::get(nodes))
        .with_state(node);
    println!("[{name}] listening on http://{address}");
    let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
    axum::serve(listener, router).await.expect("it goes on");
    ExitCode::SUCCESS
}

async fn nodes(Shared(node): Shared<Catga>) -> String {
    node.nodes().len().to_string()
}
