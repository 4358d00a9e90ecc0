//! `GET /health`: this node, and the cluster as it sees it.

use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use catga::prelude::Catga;
use catga::{HealthStatus, NodeInfo};
use serde::Serialize;

use crate::api::App;
use crate::reply;

/// How long the registry may take to say who was seen when.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    current_node: Seen,
    total_nodes: usize,
    online_nodes: usize,
    nodes: Vec<Seen>,
}

/// A node, as HTTP clients see it.
#[expect(clippy::struct_field_names, reason = "they are the keys of the JSON")]
#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Seen {
    node_id: String,
    endpoint: Option<String>,
    /// By the clock of the registry.
    last_seen: String,
    /// In per cent.
    load: u8,
    is_online: bool,
}

impl Seen {
    pub(crate) fn new(node: &NodeInfo, is_online: bool) -> Self {
        // What cannot be written as a date is far from now, and not our node's.
        let last_seen = node.last_seen.max(SystemTime::UNIX_EPOCH);
        Self {
            node_id: node.id.to_string(),
            endpoint: node.endpoint.clone(),
            last_seen: humantime::format_rfc3339_millis(last_seen).to_string(),
            load: node.load.as_percent(),
            is_online,
        }
    }
}

/// 200 while the node works, also in part; else 503.
pub(crate) async fn health(State(app): State<App>) -> Response {
    let status = match app.catga.health().status {
        HealthStatus::Down => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    };
    reply::json(status, &report(&app).await)
}

async fn report(app: &App) -> Report {
    let live = live(&app.catga).await;
    let mut nodes: Vec<_> = live.iter().map(|node| Seen::new(node, true)).collect();
    let is_there = |id: &str| live.iter().any(|node| node.id.as_str() == id);
    let gone = app.roster.gone();
    let gone = gone.iter().filter(|node| !is_there(node.id.as_str()));
    nodes.extend(gone.map(|node| Seen::new(node, false)));
    nodes.sort_by(|a, b| a.node_id.cmp(&b.node_id));
    let own = app.catga.node().as_str();
    let current = nodes.iter().find(|node| node.node_id == own).cloned();
    Report {
        current_node: current.expect("a node is there for itself"),
        total_nodes: nodes.len(),
        online_nodes: live.len(),
        nodes,
    }
}

/// Those whom requests go to. When they were seen last stands in the registry, since heartbeats are written there and not sent to
/// every node; while it does not answer, it is when this node heard of them last.
async fn live(catga: &Catga) -> Vec<NodeInfo> {
    let mut live = catga.nodes();
    if let Some(registry) = &catga.backend().registry
        && let Ok(Ok(registered)) = tokio::time::timeout(PATIENCE, registry.nodes()).await
    {
        for node in &mut live {
            let mut registered = registered.iter();
            let same = registered.find(|r| (&r.id, r.incarnation) == (&node.id, node.incarnation));
            if let Some(same) = same {
                node.clone_from(same);
            }
        }
    }
    live
}
