//! Reading what is new, on a connection of its own: a read that blocks keeps it from everybody else.
//!
//! A read is never given up half-way while its connection lives: the server would hand the next entry to nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use catga_core::Error;
use redis::aio::ConnectionLike;
use redis::{Cmd, RedisError, Value};
use tokio::select;
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Conn, Factory};
use crate::closed::Closed;
use crate::error;
use crate::group::Group;
use crate::link::jittered;
use crate::script;
use crate::server::Server;
use crate::source::{Source, Taken};
use crate::time::millis;
use crate::value;

/// How long a read waits at the server.
pub(crate) const BLOCK: Duration = Duration::from_millis(500);
/// How long to wait where it may not be waited for what comes.
const SHORT: Duration = Duration::from_millis(50);
/// The most entries of one read.
const MOST: usize = 256;
/// The first and the longest wait between two tries.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// A connection that reads wait on.
#[derive(Debug, Default)]
pub(crate) struct Blocking {
    /// What the server calls it, so that a read that waits can be ended; 0 when that is not known.
    client: AtomicI64,
}

/// The connection itself, which its reader owns.
pub(crate) struct Line {
    factory: Factory,
    patience: Duration,
    conn: Option<Conn>,
    blocking: Arc<Blocking>,
}

impl Blocking {
    /// Ends a read that waits, where we may; else it ends by itself.
    pub(crate) async fn wake(&self, server: &Server) {
        let client = self.client.load(Ordering::SeqCst);
        if client == 0 || server.closed.is_raised() || !server.link.is_connected() {
            return;
        }
        let mut unblock = redis::cmd("CLIENT");
        unblock.arg("UNBLOCK").arg(client);
        let by = Instant::now() + BLOCK;
        if let Err(error) = server.call("close", "CLIENT UNBLOCK", &unblock, by).await {
            tracing::debug!(%error, "a read that waits is not ended");
        }
    }
}

impl Line {
    pub(crate) fn new(server: &Server, blocking: Arc<Blocking>) -> Self {
        Self {
            factory: server.factory.clone(),
            patience: server.settings.call_timeout,
            conn: None,
            blocking,
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.conn.is_some()
    }

    /// Connects, unless it is.
    pub(crate) async fn connect(&mut self) -> Result<(), Error> {
        if self.conn.is_some() {
            return Ok(());
        }
        let mut conn = self.factory.once().await?;
        if matches!(conn, Conn::Single(_)) {
            let mut ask = redis::cmd("CLIENT");
            ask.arg("ID");
            let client = timeout(self.patience, conn.req_packed_command(&ask)).await;
            let client = match client {
                Ok(Ok(client)) => value::int(&client).unwrap_or(0),
                _ => 0,
            };
            self.blocking.client.store(client, Ordering::SeqCst);
        }
        self.conn = Some(conn);
        Ok(())
    }

    /// Asks something that may wait at the server for `wait`.
    pub(crate) async fn ask(&mut self, cmd: &Cmd, wait: Duration) -> Result<Value, RedisError> {
        let lost = || RedisError::from(std::io::Error::from(std::io::ErrorKind::NotConnected));
        let conn = self.conn.as_mut().ok_or_else(lost)?;
        let answer = match timeout(wait + self.patience, conn.req_packed_command(cmd)).await {
            Ok(Ok(Value::ServerError(error))) => Err(error.into()),
            Ok(answer) => answer,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        };
        if let Err(error) = &answer
            && error::is_broken(error)
            && !error::is_no_group(error)
        {
            self.drop_connection();
        }
        answer
    }

    fn drop_connection(&mut self) {
        self.conn = None;
        self.blocking.client.store(0, Ordering::SeqCst);
    }
}

/// Waits, but not for longer than it matters.
pub(crate) async fn pause(wait: Duration, left: &Closed, closed: &Closed) {
    select! {
        biased;
        () = left.raised() => {}
        () = closed.raised() => {}
        () = sleep(jittered(wait)) => {}
    }
}

/// Reads for a member without an order, until it leaves.
pub(crate) async fn read(group: Arc<Group>, blocking: Arc<Blocking>) {
    let server = Arc::clone(&group.connection.server);
    let (left, closed) = (group.left.clone(), server.closed.clone());
    let mut line = Line::new(&server, blocking);
    let (mut wait, mut cursor) = (BACK_OFF.0, 0);
    // What was read before and did not arrive is looked for after each new connection.
    let mut look = false;
    // How many streams had nothing, one behind the other.
    let mut empty = 0;
    while !left.is_raised() && !closed.is_raised() {
        let free = group.free();
        if free == 0 {
            select! {
                biased;
                () = left.raised() => {}
                () = closed.raised() => {}
                () = group.room.fetch.notified() => {}
                () = sleep(BLOCK) => {}
            }
            continue;
        }
        if !line.is_connected() {
            let connected = select! {
                biased;
                () = left.raised() => break,
                () = closed.raised() => break,
                connected = line.connect() => connected,
            };
            if let Err(error) = connected {
                group.complain(error);
                pause(wait, &left, &closed).await;
                wait = (wait * 2).min(BACK_OFF.1);
                continue;
            }
        }
        if look {
            select! {
                biased;
                () = left.raised() => break,
                () = closed.raised() => break,
                () = group.look() => look = false,
            }
        }
        let sources = group.sources.all();
        let (chosen, each) = choose(&sources, free.min(MOST), &mut cursor);
        // Where they take turns, none waits while another may have something.
        let turns = chosen.len() < sources.len();
        let mut latest = Instant::now();
        let answer = if turns && empty >= sources.len() {
            empty = 0;
            wait_for_any(&group, &server, &mut line, &sources).await
        } else {
            let block = (!turns).then_some(BLOCK);
            let cmd = read_command(&group, &chosen, each, block);
            // The server gave it away by then: this process may have stood still before it saw the answer.
            latest = Instant::now() + block.unwrap_or_default();
            line.ask(&cmd, block.unwrap_or_default()).await.map(Some)
        };
        match answer {
            Ok(read) => {
                if wait > BACK_OFF.0 {
                    // What could not be done can be now.
                    group.problem.store(None);
                    wait = BACK_OFF.0;
                }
                let Some(read) = read else {
                    continue;
                };
                let found = entries(read, &chosen, latest.min(Instant::now()));
                empty = if found.is_empty() {
                    empty + chosen.len()
                } else {
                    0
                };
                for source in &chosen {
                    let mut found = found.iter().filter(|(of, _)| Arc::ptr_eq(of, source));
                    source.read(found.find_map(|(_, taken)| taken.last()?.id()));
                }
                for (source, taken) in found {
                    group.accept(source, taken).await;
                }
            }
            Err(error) if server.is_cluster() && error::is_redirected(&error) => {
                // Nothing was read, and the client looks where the slot is now.
                pause(wait, &left, &closed).await;
                wait = (wait * 2).min(BACK_OFF.1);
            }
            Err(error) if error::is_no_group(&error) => {
                if let Err(error) = make_again(&group, &server, &sources).await {
                    group.complain(error);
                }
                pause(wait, &left, &closed).await;
                wait = (wait * 2).min(BACK_OFF.1);
            }
            Err(error) => {
                look = true;
                let error = error::certain(error::of("receive", &sources[0].stream, &error));
                group.complain(error);
                pause(wait, &left, &closed).await;
                wait = (wait * 2).min(BACK_OFF.1);
            }
        }
    }
}

/// With fewer places than streams, they take turns: how many entries is said for each of them.
fn choose(sources: &[Arc<Source>], free: usize, cursor: &mut usize) -> (Vec<Arc<Source>>, usize) {
    let number = sources.len().min(free).max(1);
    let chosen = (0..number)
        .map(|step| Arc::clone(&sources[(*cursor + step) % sources.len()]))
        .collect();
    *cursor = (*cursor + number) % sources.len();
    (chosen, (free / number).max(1))
}

/// Waits until a stream has something that the group has not read, and takes none of it.
async fn wait_for_any(
    group: &Group,
    server: &Server,
    line: &mut Line,
    sources: &[Arc<Source>],
) -> Result<Option<Value>, RedisError> {
    let streams = || sources.iter().map(|source| &source.stream);
    let mut call = script::AT.call(sources.len());
    script::args(&mut call, streams());
    call.arg(&group.who.group);
    let by = server.call_deadline();
    let at = match server
        .try_run("receive", &sources[0].stream, &script::AT, &call, by)
        .await
    {
        Ok(at) => value::list(at?),
        // There is no connection for commands; the one for reading is asked next.
        Err(_) => {
            sleep(SHORT).await;
            return Ok(None);
        }
    };
    let mut look = redis::cmd("XREAD");
    look.arg("COUNT").arg(1).arg("BLOCK").arg(millis(BLOCK));
    look.arg("STREAMS");
    script::args(&mut look, streams());
    script::args(
        &mut look,
        at.iter().map(|id| value::text(id).unwrap_or("0")),
    );
    match line.ask(&look, BLOCK).await {
        Err(error) if error::says(&error, "NOPERM") => sleep(SHORT).await,
        looked => drop(looked?),
    }
    Ok(None)
}

fn read_command(
    group: &Group,
    chosen: &[Arc<Source>],
    each: usize,
    block: Option<Duration>,
) -> Cmd {
    let mut cmd = redis::cmd("XREADGROUP");
    cmd.arg("GROUP")
        .arg(&group.who.group)
        .arg(&group.who.consumer);
    cmd.arg("COUNT").arg(each);
    if let Some(block) = block {
        cmd.arg("BLOCK").arg(millis(block));
    }
    cmd.arg("STREAMS");
    for source in chosen {
        cmd.arg(&source.stream);
    }
    for _ in chosen {
        cmd.arg(">");
    }
    cmd
}

/// What was read, by stream. Its leases began by `at`.
fn entries(read: Value, chosen: &[Arc<Source>], at: Instant) -> Vec<(&Arc<Source>, Vec<Taken>)> {
    let mut all = Vec::new();
    for stream in value::list(read) {
        let mut parts = value::list(stream).into_iter();
        let (Some(name), Some(entries)) = (parts.next(), parts.next()) else {
            continue;
        };
        let name = value::text(&name);
        let Some(source) = chosen
            .iter()
            .find(|source| Some(source.stream.as_str()) == name)
        else {
            continue;
        };
        let taken = value::list(entries).into_iter().map(|entry| Taken {
            entry,
            count: 1,
            ran: false,
            at,
        });
        all.push((source, taken.collect()));
    }
    all
}

/// Takes what was read before and did not arrive: the keeper does, who takes nothing else meanwhile.
pub(crate) async fn leftovers(group: &Group, server: &Server) -> Result<(), Error> {
    for source in group.sources.all().iter() {
        loop {
            let take = match source.leftovers(server, &group.who, MOST).await {
                // It is made again by the next read.
                Err(error) if error.kind() == catga_core::ErrorKind::NotFound => break,
                take => take?,
            };
            if take.taken.is_empty() {
                group.lost(take.lost);
                break;
            }
            tracing::debug!(message = %group.message, number = take.taken.len(), "read before, and arrived now");
            group.took(source, take).await;
        }
    }
    Ok(())
}

/// Makes groups again that are gone, from the beginning: what a new stream has is nobody's yet.
pub(crate) async fn make_again(
    group: &Group,
    server: &Server,
    sources: &[Arc<Source>],
) -> Result<(), Error> {
    for source in sources {
        if source.ensure(server, "receive", &group.who, "0").await? {
            source.begin_again();
            tracing::warn!(
                message = %group.message,
                group = group.who.group,
                stream = source.stream,
                "the group was gone, and with it what it had pending: it begins again at the oldest message"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Member;
    use catga_core::Name;

    #[test]
    fn streams_take_turns_when_there_are_fewer_places() {
        let member = Member {
            group: Name::from_static("g"),
            node: None,
        };
        let sources: Vec<_> = (0..3)
            .map(|p| Arc::new(Source::new(format!("s{p}"), p, &member)))
            .collect();
        let mut cursor = 0;
        let names = |chosen: &[Arc<Source>]| -> String {
            chosen.iter().map(|source| source.stream.as_str()).collect()
        };
        let (chosen, each) = choose(&sources, 2, &mut cursor);
        assert_eq!((names(&chosen).as_str(), each), ("s0s1", 1));
        let (chosen, each) = choose(&sources, 2, &mut cursor);
        assert_eq!((names(&chosen).as_str(), each), ("s2s0", 1));
        let (chosen, each) = choose(&sources, 64, &mut cursor);
        assert_eq!((chosen.len(), each), (3, 21));
    }
}
