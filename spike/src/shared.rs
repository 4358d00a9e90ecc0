//! What both drivers share: error shorthands, header fields, a reply on the wire, a watch by comparing snapshots.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use catga_core::{
    Error, ErrorKind, Load, Name, NodeEvent, NodeId, NodeInfo, NodeRegistry, NodeWatch,
    RemoteError, Reply, async_trait,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};

pub fn err(kind: ErrorKind, op: &'static str, text: impl fmt::Display) -> Error {
    Error::new(kind, op, text.to_string())
}
pub fn lost(op: &'static str) -> Error {
    err(
        ErrorKind::LostOwnership,
        op,
        "the lease ran out and another owner may have it",
    )
}
pub fn unknown(op: &'static str, text: impl fmt::Display) -> Error {
    err(ErrorKind::Timeout, op, text).with_unknown_outcome()
}
/// `a.b` as one token.
pub fn token(name: &Name) -> String {
    name.as_str().replace('.', "=")
}
pub fn untoken(text: &str) -> Result<Name, Error> {
    Name::new(text.replace('=', "."))
}
pub fn millis(t: SystemTime) -> u64 {
    t.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis() as u64
}
pub fn from_millis(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
}

/// A reply as stored or sent: `Reply` itself is not Serialize, so every backend writes one of these.
#[derive(Serialize, Deserialize)]
pub struct WireReply {
    pub content_type: String,
    pub ok: Option<Vec<u8>>,
    pub error: Option<RemoteError>,
}
pub fn pack(reply: &Reply) -> Vec<u8> {
    let (ok, error) = match &reply.result {
        Ok(bytes) => (Some(bytes.to_vec()), None),
        Err(e) => (None, Some(e.clone())),
    };
    serde_json::to_vec(&WireReply {
        content_type: reply.content_type.clone(),
        ok,
        error,
    })
    .expect("plain data")
}
pub fn unpack(bytes: &[u8]) -> Result<Reply, Error> {
    let w: WireReply =
        serde_json::from_slice(bytes).map_err(|e| err(ErrorKind::Decode, "reply", e))?;
    let reply = match (w.ok, w.error) {
        (Some(b), _) => Reply::ok(Bytes::from(b)),
        (None, Some(e)) => Reply::err(e),
        _ => {
            return Err(err(
                ErrorKind::Decode,
                "reply",
                "neither response nor error",
            ));
        }
    };
    Ok(reply.with_content_type(w.content_type))
}
/// What a caller gets when a node gives its request back and the broker cannot pass it on.
pub fn given_back() -> Reply {
    Reply::err(RemoteError {
        kind: "unavailable".into(),
        message: "given back".into(),
        retryable: true,
    })
}

/// Counts what a member holds, and wakes its fetcher when one is settled or dropped.
#[derive(Debug, Default)]
pub struct Room {
    held: AtomicUsize,
    freed: Notify,
}
impl Room {
    pub fn take(self: &Arc<Self>) -> Slot {
        self.held.fetch_add(1, Ordering::SeqCst);
        Slot(Arc::clone(self))
    }
    pub async fn wait(&self, max: usize) -> usize {
        loop {
            let freed = self.freed.notified();
            let room = max.saturating_sub(self.held.load(Ordering::SeqCst));
            if room > 0 {
                return room;
            }
            freed.await;
        }
    }
}
#[derive(Debug)]
pub struct Slot(Arc<Room>);
impl Drop for Slot {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::SeqCst);
        self.0.freed.notify_waiters();
        self.0.freed.notify_one();
    }
}

#[derive(Debug)]
pub struct DiffWatch(mpsc::Receiver<NodeEvent>);
#[async_trait]
impl NodeWatch for DiffWatch {
    async fn next(&mut self) -> Option<NodeEvent> {
        self.0.recv().await
    }
}
/// Watches by comparing `nodes()` at each hint from the broker and at each tick.
pub fn watch_by_diff(
    registry: Arc<dyn NodeRegistry>,
    mut hints: mpsc::Receiver<()>,
    tick: Duration,
) -> Box<dyn NodeWatch> {
    let (tx, rx) = mpsc::channel(64);
    tokio::spawn(async move {
        let mut seen: BTreeMap<NodeId, NodeInfo> = BTreeMap::new();
        loop {
            if let Ok(nodes) = registry.nodes().await {
                let now: BTreeMap<_, _> = nodes.into_iter().map(|n| (n.id.clone(), n)).collect();
                let mut events = Vec::new();
                for (id, old) in &seen {
                    if now.get(id).is_none_or(|n| n.incarnation != old.incarnation) {
                        events.push(NodeEvent::Left(old.clone()));
                    }
                }
                for (id, n) in &now {
                    match seen.get(id) {
                        Some(old) if old.incarnation == n.incarnation => {
                            let moved =
                                old.load.as_percent().abs_diff(n.load.as_percent()) >= Load::STEP;
                            if moved || old.draining != n.draining {
                                events.push(NodeEvent::Updated(n.clone()));
                            }
                        }
                        _ => events.push(NodeEvent::Joined(n.clone())),
                    }
                }
                seen = now;
                for e in events {
                    if tx.send(e).await.is_err() {
                        return;
                    }
                }
            }
            tokio::select! { biased;
                hint = hints.recv() => if hint.is_none() { tokio::time::sleep(tick).await },
                () = tokio::time::sleep(tick) => {}
            }
            if tx.is_closed() {
                return;
            }
        }
    });
    Box::new(DiffWatch(rx))
}
