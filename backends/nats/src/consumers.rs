//! All consumers of a stream.

use std::collections::HashSet;

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
    /// Those of a cluster that did not answer.
    #[serde(default)]
    missing: Option<Vec<String>>,
}

/// Lists them, page by page: all, or it fails.
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
        if page.missing.is_some_and(|missing| !missing.is_empty()) {
            return Err(error::not_all_listed(operation, stream));
        }
        if found.len() >= page.total || !more {
            let names: HashSet<_> = found.iter().map(|info: &Info| &info.name).collect();
            // One that was deleted meanwhile moves the others from page to page.
            return if names.len() == page.total {
                Ok(found)
            } else {
                Err(error::not_all_listed(operation, stream))
            };
        }
    }
}
