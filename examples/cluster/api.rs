//! What HTTP clients see.

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::Response;
use axum::routing::{get, post};
use catga::MessageId;
use catga::prelude::Catga;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::watch::Receiver;

use crate::book::Book;
use crate::messages::{CreateOrder, MAX_QUANTITY, Order};
use crate::reply::{self, Refusal};
use crate::roster::Roster;
use crate::{find, health, metrics, trace, watch};

/// A body that is larger is no order.
const MAX_BODY_BYTES: usize = 16 * 1024;
const MAX_KEY_BYTES: usize = 255;
/// The header by which a client says that two requests are one
/// ([draft-ietf-httpapi-idempotency-key-header](https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/)).
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What the routes share.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) catga: Catga,
    pub(crate) book: Book,
    pub(crate) roster: Roster,
    pub(crate) metrics: PrometheusHandle,
    /// Turns true when the node is on its way out.
    pub(crate) stopping: Receiver<bool>,
}

pub(crate) fn router(app: App) -> Router {
    Router::new()
        .route("/health", get(health::health))
        .route("/orders", post(create))
        .route("/orders/{id}", get(show))
        .route("/nodes/watch", get(watch::watch))
        .route("/metrics", get(metrics::show))
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(app)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Accepted<'a> {
    order_id: MessageId,
    status: &'static str,
    processed_by: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    order_id: MessageId,
    product_id: &'a str,
    quantity: u32,
    status: &'static str,
    processed_by: &'a str,
}

/// An order that exists has been created; nothing else happens to it here.
const STATUS: &str = "Created";

async fn create(
    State(app): State<App>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    trace::within("POST /orders", &headers, make(&app, &headers, body)).await
}

async fn make(
    app: &App,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let body = body.map_err(|error| Refusal::new(error.status(), error.body_text()))?;
    let asked = read(&body)?;
    let order = match key(headers)? {
        None => app.catga.send(asked).await?,
        Some(key) => {
            // The key is the id of the request, and so of the order: whichever node is asked again, and whichever answers, it is one.
            let request = app.catga.request(asked.clone());
            let order = request.id(MessageId::from_key(key)).send().await?;
            if (&order.product_id, order.quantity) != (&asked.product_id, asked.quantity) {
                let reason = "this Idempotency-Key was used for another order";
                return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, reason));
            }
            order
        }
    };
    let accepted = Accepted {
        order_id: order.id,
        status: STATUS,
        processed_by: &order.processed_by,
    };
    let mut response = reply::json(StatusCode::CREATED, &accepted);
    let location = HeaderValue::try_from(format!("/orders/{}", order.id));
    let location = location.expect("an id is a header's text");
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

async fn show(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Refusal> {
    let nowhere = || Refusal::new(StatusCode::NOT_FOUND, "no order has this id");
    let Ok(Path(id)) = id else {
        return Err(nowhere());
    };
    let id: MessageId = id.parse().map_err(|_| nowhere())?;
    let order: Order = find::find(&app, id).await?.ok_or_else(nowhere)?;
    let shown = Shown {
        order_id: order.id,
        product_id: &order.product_id,
        quantity: order.quantity,
        status: STATUS,
        processed_by: &order.processed_by,
    };
    Ok(reply::json(StatusCode::OK, &shown))
}

async fn nothing_here(uri: Uri) -> Refusal {
    let path: String = uri.path().chars().take(100).collect();
    let reason = format!(
        "there is nothing at {path}: see /health, /orders, /orders/<id>, /nodes/watch, /metrics"
    );
    Refusal::new(StatusCode::NOT_FOUND, reason)
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    let reason = format!("{} does not take {method}", uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, reason)
}

/// The order in a body, or what is wrong with it, by its field.
fn read(body: &[u8]) -> Result<CreateOrder, Refusal> {
    let wrong = |reason: String| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, reason);
    let body: Value = serde_json::from_slice(body).map_err(|error| {
        let reason = format!("the body is not JSON: {error}");
        Refusal::new(StatusCode::BAD_REQUEST, reason)
    })?;
    let Value::Object(mut fields) = body else {
        return Err(wrong("the body is not a JSON object".to_owned()));
    };
    let mut field = |name: &str| {
        let value = fields.remove(name);
        value.ok_or_else(|| wrong(format!("`{name}` is missing")))
    };
    let Value::String(product_id) = field("productId")? else {
        return Err(wrong("`productId` is not a string".to_owned()));
    };
    let quantity = field("quantity")?;
    let number = quantity.as_u64().and_then(|n| u32::try_from(n).ok());
    let quantity = number.ok_or_else(|| {
        wrong(format!(
            "`quantity` is not a whole number from 1 to {MAX_QUANTITY}"
        ))
    })?;
    let order = CreateOrder {
        product_id,
        quantity,
    };
    order.check().map_err(wrong)?;
    Ok(order)
}

fn key(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let fits = |key: &&str| (1..=MAX_KEY_BYTES).contains(&key.len());
    match key.to_str().ok().filter(fits) {
        Some(key) => Ok(Some(key)),
        None => {
            let reason = format!("Idempotency-Key is not 1 to {MAX_KEY_BYTES} ASCII characters");
            Err(Refusal::new(StatusCode::BAD_REQUEST, reason))
        }
    }
}
