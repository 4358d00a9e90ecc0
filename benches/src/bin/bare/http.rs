//! What HTTP clients see.

use std::net::Ipv4Addr;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::serve::ListenerExt;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::shop::{Broker, Request, Shop};

const MAX_BODY_BYTES: usize = 16 * 1024;
const MAX_QUANTITY: u32 = 100_000;
const MAX_PRODUCT_BYTES: usize = 128;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    product_id: String,
    quantity: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Accepted<'a> {
    order_id: Uuid,
    status: &'static str,
    processed_by: &'a str,
}

/// Answers until the process ends.
pub async fn serve<B: Broker>(shop: Shop<B>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a port");
    let address = listener.local_addr().expect("it listens");
    let name = shop.name().to_owned();
    let router = Router::new()
        .route("/orders", post(create::<B>))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(shop);
    println!("[{name}] listening on http://{address}");
    let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
    axum::serve(listener, router).await.expect("it goes on");
}

async fn create<B: Broker>(State(shop): State<Shop<B>>, body: Bytes) -> Response {
    let Ok(asked) = serde_json::from_slice::<Asked>(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let product = &asked.product_id;
    let fits = product.len() <= MAX_PRODUCT_BYTES
        && !product.trim().is_empty()
        && !product.chars().any(char::is_control)
        && (1..=MAX_QUANTITY).contains(&asked.quantity);
    if !fits {
        return StatusCode::UNPROCESSABLE_ENTITY.into_response();
    }
    let order = shop.order(Request {
        id: Uuid::now_v7(),
        product_id: asked.product_id,
        quantity: asked.quantity,
    });
    let order = order.await;
    let accepted = Accepted {
        order_id: order.id,
        status: "Created",
        processed_by: &order.processed_by,
    };
    let text = serde_json::to_string(&accepted).expect("it can be written");
    let json = HeaderValue::from_static("application/json");
    let location = HeaderValue::try_from(format!("/orders/{}", order.id));
    let headers = [
        (header::CONTENT_TYPE, json),
        (
            header::LOCATION,
            location.expect("an id is a header's text"),
        ),
    ];
    (StatusCode::CREATED, headers, text).into_response()
}
