//! A stream with a bound on its size is emptied of what all of its groups have handled: else it would stay full.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_nats::jetstream::consumer::Info as Consumer;
use async_nats::jetstream::stream::{Info, RetentionPolicy};
use catga_core::Error;
use serde::Deserialize;
use serde_json::json;
use tokio::select;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::closed::Closed;
use crate::connection::Connection;
use crate::{consumers, error};

/// How often streams are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// A full stream is looked at earlier, and not more often than this.
const FULL: Duration = Duration::from_millis(250);
/// A server counts what waits for a group some time after it stored it, and a replica later still: what was stored for
/// so long is counted.
const COUNTED: Duration = Duration::from_secs(2);

/// The last message of each stream, as it was at an earlier look.
type Looks = HashMap<String, (Instant, u64)>;

#[derive(Deserialize)]
struct Purged {
    purged: u64,
}

/// Looks from time to time, and when a publish met a full stream, as long as there is the connection.
pub(crate) async fn keep_trimming(connection: Weak<Connection>, closed: Closed, full: Arc<Notify>) {
    let mut looks = Looks::new();
    loop {
        sleep(FULL).await;
        let is_full = select! {
            biased;
            () = closed.raised() => return,
            () = full.notified() => true,
            () = sleep(LOOK) => false,
        };
        let Some(connection) = connection.upgrade() else {
            return;
        };
        for stream in connection.routes.bounded() {
            if let Err(error) = trim(&connection, &stream, is_full, &mut looks).await {
                tracing::debug!(stream, %error, "the stream could not be trimmed");
            }
        }
    }
}

/// Purges a stream that is more than 80 % full, or too full for a message, up to the lowest position of its groups.
async fn trim(
    connection: &Connection,
    stream: &str,
    is_full: bool,
    looks: &mut Looks,
) -> Result<(), Error> {
    let what = format!("stream `{stream}`");
    let refused = |problem| error::jetstream("trim", &what, &problem);
    let call = format!("STREAM.INFO.{stream}");
    let info = connection.api::<Info>("trim", &call, &json!({})).await?;
    let info = info.map_err(refused)?;
    let (now, last) = (Instant::now(), info.state.last_sequence);
    let (at, before) = *looks.entry(stream.to_owned()).or_insert((now, last));
    let counted = (at + COUNTED <= now).then_some(before);
    if counted.is_some() {
        looks.insert(stream.to_owned(), (now, last));
    }
    if info.config.retention != RetentionPolicy::Limits || !(is_full || is_nearly_full(&info)) {
        return Ok(());
    }
    let groups = consumers::list(connection, "trim", stream).await?;
    let Some(handled) = handled_by_all(&groups, counted.unwrap_or(0)) else {
        return Ok(());
    };
    if handled < info.state.first_sequence {
        return Ok(());
    }
    let call = format!("STREAM.PURGE.{stream}");
    let up_to = json!({ "seq": handled + 1 });
    let purged = connection.api::<Purged>("trim", &call, &up_to).await?;
    let purged = purged.map_err(refused)?.purged;
    tracing::info!(stream, purged, "what all groups had handled made room");
    Ok(())
}

fn is_nearly_full(info: &Info) -> bool {
    let Ok(bound) = u64::try_from(info.config.max_bytes) else {
        return false;
    };
    info.state.bytes > bound / 5 * 4
}

/// The last message that nobody needs any more; `None` where there is no group, which may still come.
fn handled_by_all(groups: &[Consumer], counted: u64) -> Option<u64> {
    let handled = groups.iter().map(|group| {
        let floor = group.ack_floor.stream_sequence;
        // The floor of a group that gets nothing stays where it was.
        if group.num_pending == 0 && group.num_ack_pending == 0 {
            floor.max(counted)
        } else {
            floor
        }
    });
    handled.min()
}
