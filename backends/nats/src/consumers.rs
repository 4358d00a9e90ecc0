//! All consumers of a stream.

use async_nats::jetstream::consumer::Info;
use catga_core::Error;
use serde::Deserialize;
use serde_json::json;

use crate::connection::Connection;
use crate::error;

#[derive(Deserialize)]
struct Page {
    total: usize,
    consumers: Option<Vec<Info>>,
}

/// Lists them, page by page.
pub(crate) async fn list(
    connection: &Connection,
    operation: &'static str,
    stream: &str,
) -> Result<Vec<Info>, Error> {
    let call = format!("CONSUMER.LIST.{stream}");
    let mut found = Vec::new();
    loop {
        let from = json!({ "offset": found.len() });
        let page = connection.api::<Page>(operation, &call, &from).await?;
        let page = page.map_err(|problem| {
            error::jetstream(operation, &format!("stream `{stream}`"), &problem)
        })?;
        let some = page.consumers.unwrap_or_default();
        let more = !some.is_empty();
        found.extend(some);
        if !more || found.len() >= page.total {
            return Ok(found);
        }
    }
}
