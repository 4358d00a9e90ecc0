//! What streams keep: everything that a group has not acked, within the bounds of the user.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use catga_core::Error;
use tokio::select;
use tokio::time::sleep;

use crate::link::jittered;
use crate::route::{Route, Routes};
use crate::script;
use crate::server::Server;
use crate::value;

/// How often the streams of a process are looked at.
const EVERY: Duration = Duration::from_secs(5);
/// After so many messages a stream is looked at before its time.
const MANY: u64 = 20_000;
/// How often it is looked whether there were so many.
const LOOK: Duration = Duration::from_millis(500);

/// Trims the streams that this process has to do with, until the server is closed.
pub(crate) async fn keep_trimming(server: Arc<Server>, routes: Arc<Routes>) {
    let mut since = Duration::ZERO;
    loop {
        let wait = jittered(LOOK);
        select! {
            biased;
            () = server.closed.raised() => return,
            () = sleep(wait) => {}
        }
        since += wait;
        let all = since >= EVERY;
        if all {
            since = Duration::ZERO;
        }
        for route in routes.all() {
            let many = route.added.load(Ordering::Relaxed) >= MANY;
            if !(all || many) || !server.link.is_connected() {
                continue;
            }
            let touched = route.added.swap(0, Ordering::Relaxed) > 0;
            if !touched && !route.trimmed.load(Ordering::Relaxed) {
                continue;
            }
            if let Err(error) = trim_route(&server, &route).await {
                tracing::debug!(message = %route.name, %error, "a stream was not trimmed");
            }
        }
    }
}

async fn trim_route(server: &Server, route: &Route) -> Result<(), Error> {
    trim(server, &route.stream, &route.stream).await?;
    for partition in route.partitions() {
        let stream = server.names.stream(&route.name, partition);
        trim(server, &stream, &route.stream).await?;
    }
    Ok(())
}

/// Trims one stream of a message, whose groups all are on that of partition 0.
pub(crate) async fn trim(server: &Server, stream: &str, first: &str) -> Result<(), Error> {
    let keep = server.settings.keep;
    let max_len = keep
        .max_len
        .map_or(-1, |most| i64::try_from(most).unwrap_or(i64::MAX));
    let max_age = keep
        .max_age
        .map_or(-1, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
    let mut call = script::TRIM.call(2);
    call.arg(stream)
        .arg(first)
        .arg(keep.without_group())
        .arg(max_len)
        .arg(max_age);
    let told = value::list(server.run("trim", stream, &script::TRIM, &call).await?);
    let [deleted, lost, grouped] = &told[..] else {
        return Ok(());
    };
    let lost = value::count(lost);
    if lost > 0 {
        tracing::warn!(
            stream,
            lost,
            "messages were deleted that not every group has acked: `max_len` or `max_age` say so"
        );
    }
    let deleted = value::count(deleted);
    if deleted > 0 && value::count(grouped) == 0 {
        tracing::warn!(
            stream,
            deleted,
            "nobody reads this stream, and it was cut to its bound"
        );
    }
    Ok(())
}
