//! Looking for an order that any of the nodes may have made.
//!
//! Every node hears of every order (`OrderShipped`, QoS 1), so that its own book mostly has it. Who asks another node right after the
//! order was made may be faster than that event: then the other nodes are asked, all at once. By a request to each, and
//! not by `broadcast`: that waits for the slowest of them, and here the first who has it is enough.

use std::time::Duration;

use axum::http::StatusCode;
use catga::{ErrorKind, MessageId};
use tokio::task::JoinSet;

use crate::api::App;
use crate::messages::{FindOrder, Order};
use crate::reply::Refusal;

/// How long another node may take to look.
const PATIENCE: Duration = Duration::from_secs(2);

/// The order, or `None` where no node has it.
pub(crate) async fn find(app: &App, id: MessageId) -> Result<Option<Order>, Refusal> {
    if let Some(order) = app.book.find(id).await? {
        return Ok(Some(order));
    }
    let mut asked = JoinSet::new();
    let others = app.catga.nodes().into_iter();
    for node in others.filter(|node| node.id != *app.catga.node()) {
        let catga = app.catga.clone();
        asked.spawn(async move {
            let request = catga.send_to(node.id.as_str(), FindOrder { id });
            let answer = tokio::time::timeout(PATIENCE, request).await;
            (node.id, answer)
        });
    }
    let mut silent = Vec::new();
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok((_, Ok(Ok(Some(order))))) => return Ok(Some(order)),
            Ok((_, Ok(Ok(None)))) => {}
            // Who is gone has no book any more.
            Ok((_, Ok(Err(error)))) if is_gone(error.kind()) => {}
            Ok((node, _)) => silent.push(node.to_string()),
            Err(_) => silent.push("one of the nodes".to_owned()),
        }
    }
    if silent.is_empty() {
        return Ok(None);
    }
    let reason = format!(
        "not found here, and not answered by {}: try again",
        silent.join(", ")
    );
    Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason))
}

fn is_gone(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NoResponders
            | ErrorKind::NoHandler
            | ErrorKind::NodeGone
            | ErrorKind::UnknownNode
    )
}
