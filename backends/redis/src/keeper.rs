//! What a member looks after beside reading: what is due, what others left behind, new partitions.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use catga_core::{Error, ErrorKind};
use redis::Value;
use tokio::select;
use tokio::time::{Instant, sleep_until};

use crate::group::Group;
use crate::link::jittered;
use crate::reader;
use crate::server::Server;
use crate::source::Source;
use crate::value;

/// How often it is looked for what others put off.
const DUE: Duration = Duration::from_millis(200);
/// How often it is looked for what others left behind: a part of the lease, within bounds.
const REAP: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long to wait for a place for more of what is there to be taken.
const PLACE: Duration = Duration::from_millis(20);
/// How often it is looked for partitions that are published to for the first time.
const PARTITIONS: Duration = Duration::from_secs(1);
/// The most that is taken at once.
const MOST: usize = 256;

/// Looks after these things until the member leaves.
pub(crate) async fn keep(group: Arc<Group>, every_partition: bool) {
    let server = Arc::clone(&group.connection.server);
    let reap_every = (group.idle / 4).clamp(REAP.0, REAP.1);
    let mut due_at = Instant::now();
    let mut reap_at = Instant::now() + jittered(reap_every);
    let mut partitions_at = Instant::now() + PARTITIONS;
    // Whether others left more than there were places for.
    let mut is_more = false;
    loop {
        let next = due_at.min(reap_at).min(partitions_at);
        select! {
            biased;
            () = group.left.raised() => return,
            () = server.closed.raised() => return,
            () = group.parked.notified() => due_at = Instant::now(),
            () = sleep_until(next) => {}
        }
        let now = Instant::now();
        if group.is_stale() {
            group.give_back().await;
        }
        if !server.link.is_connected() {
            due_at = now + DUE;
            reap_at = reap_at.max(now + DUE);
            partitions_at = partitions_at.max(now + DUE);
            continue;
        }
        if group.is_missing() {
            match reader::leftovers(&group, &server).await {
                Ok(()) => group.is_found(),
                Err(error) => complain(&group, error),
            }
        }
        if due_at <= now {
            let wait = match due(&group, &server).await {
                Ok(wait) => wait,
                Err(error) => {
                    complain(&group, error);
                    DUE
                }
            };
            due_at = Instant::now() + wait;
        }
        if reap_at <= now {
            let wait = if is_more && group.free() == 0 {
                PLACE
            } else {
                let reaped = reap(&group, &server, MOST).await.unwrap_or_else(|error| {
                    complain(&group, error);
                    (false, group.idle)
                });
                is_more = reaped.0;
                match reaped {
                    (true, _) => PLACE,
                    (false, shortest) => jittered((shortest / 4).clamp(REAP.0, REAP.1)),
                }
            };
            reap_at = Instant::now() + wait;
        }
        if partitions_at <= now {
            if every_partition && let Err(error) = partitions(&group, &server).await {
                complain(&group, error);
            }
            partitions_at = Instant::now() + PARTITIONS;
        }
    }
}

fn complain(group: &Group, error: Error) {
    // A group that is gone is made again by who reads.
    if error.kind() != ErrorKind::NotFound && error.kind() != ErrorKind::Closed {
        group.complain(error);
    }
}

/// Takes what is due, and says when to look again.
async fn due(group: &Group, server: &Server) -> Result<Duration, Error> {
    let mut wait = DUE;
    for source in group.sources.all().iter() {
        let free = group.free().min(MOST);
        if free == 0 {
            // What is due comes as soon as there is a place.
            return Ok(PLACE);
        }
        let take = source.due(server, &group.who, free).await?;
        let next = take.rest.first().and_then(value::int).unwrap_or(-1);
        if let Ok(next) = u64::try_from(next) {
            wait = wait.min(Duration::from_millis(next.max(1)));
        }
        group.took(source, take).await;
    }
    Ok(wait)
}

/// Takes over at most so many of each stream, forgets members that are gone, and counts what is behind. Returns whether there may be
/// more than there were places for, and the shortest silence after which a member's messages may be taken.
pub(crate) async fn reap(
    group: &Group,
    server: &Server,
    most: usize,
) -> Result<(bool, Duration), Error> {
    let (mut behind, mut shortest, mut is_more) = (0, group.idle, false);
    for source in group.sources.all().iter() {
        let free = group.free().min(most);
        let take = source.reap(server, &group.who, group.idle, free).await?;
        is_more |= free > 0 && take.taken.len() >= free;
        behind += take.rest.first().map_or(0, value::count);
        if let Some(silence) = take.rest.get(1) {
            shortest = shortest.min(Duration::from_millis(value::count(silence)));
        }
        if !take.taken.is_empty() {
            tracing::info!(
                message = %group.message,
                group = group.who.group,
                number = take.taken.len(),
                "took over what nobody had settled within its lease"
            );
        }
        group.took(source, take).await;
    }
    group.counters.behind.store(behind, Ordering::Relaxed);
    Ok((is_more, shortest))
}

/// Adds the partitions that were not there before.
pub(crate) async fn partitions(group: &Group, server: &Server) -> Result<(), Error> {
    let key = server.names.partitions(&group.message);
    let mut ask = redis::cmd("SMEMBERS");
    ask.arg(&key);
    let found = server
        .call("receive", &key, &ask, server.call_deadline())
        .await?;
    let known: HashSet<u16> = group
        .sources
        .all()
        .iter()
        .map(|source| source.partition)
        .collect();
    for partition in value::list(found).iter().filter_map(number) {
        if known.contains(&partition) {
            continue;
        }
        let stream = server.names.stream(&group.message, partition);
        let source = Arc::new(Source::new(stream, partition, &group.who.member));
        reader::make_again(group, server, std::slice::from_ref(&source)).await?;
        group.connection.route(&group.message).exists(partition);
        group.sources.add(source);
    }
    Ok(())
}

fn number(value: &Value) -> Option<u16> {
    value::text(value)?.parse().ok()
}
