//! Ordered: a stream for each partition, read by the one member that owns it, one entry at a time.
//!
//! The owner takes the next entry when the one before is settled; what was put off holds up its partition. Members share
//! the partitions evenly, and hand one over between two entries.

use std::collections::HashMap;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use catga_core::{Error, ErrorKind, Name};
use redis::Value;
use tokio::select;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::closed::Closed;
use crate::error;
use crate::group::Group;
use crate::keeper;
use crate::link::jittered;
use crate::names::Member;
use crate::reader::{self, BLOCK, Blocking, Line, pause};
use crate::script;
use crate::server::Server;
use crate::source::{Source, Taken, read_take};
use crate::time::millis;
use crate::value;
use crate::wire::EntryId;

/// How long to wait before a partition is asked for again that another member owns.
const ASK: Duration = Duration::from_millis(500);
/// How often the members are counted.
const COUNT: Duration = Duration::from_millis(500);
/// How often it is looked how much is behind.
const LOOK: Duration = Duration::from_secs(1);
/// A member that was not counted for so long is none.
const COUNTED: Duration = Duration::from_secs(5);
/// How long a look at idle partitions waits at the server where it cannot be ended.
const SHORT: Duration = Duration::from_millis(50);
/// How long to wait after an error.
const AGAIN: Duration = Duration::from_millis(100);

/// Notes in which order a group handles a message, and compares it with what was noted before.
pub(crate) async fn agree(
    server: &Server,
    message: &Name,
    member: &Member,
    ordered: Option<NonZeroU16>,
) -> Result<(), Error> {
    let key = server.names.order(message, member);
    let asked = ordered.map_or(0, NonZeroU16::get).to_string();
    let mut note = redis::cmd("SET");
    note.arg(&key).arg(&asked).arg("NX").arg("GET");
    let there = server
        .call("subscribe", &key, &note, server.call_deadline())
        .await?;
    match value::text(&there) {
        Some(there) if there != asked => Err(error::other_order(message, member, there, &asked)),
        _ => Ok(()),
    }
}

/// What a member knows of a partition.
#[derive(Clone, Copy, Debug)]
enum Known {
    /// To be asked for from then on; another member owns it.
    Others(Instant),
    /// Ours, with nothing to do before then, unless something comes behind this entry.
    Idle { last: EntryId, until: Instant },
    /// Ours, and an entry of it is out.
    Out,
}

/// The idle partitions, and what came last to each.
type Idle = HashMap<usize, EntryId>;

/// What the reader tells the watcher.
#[derive(Debug, Default)]
struct Watched {
    idle: arc_swap::ArcSwap<Idle>,
    changed: Notify,
    /// Partitions to which something came.
    woken: crossbeam_queue::SegQueue<usize>,
    something: Notify,
}

/// Reads for a member of an ordered group, until it leaves.
pub(crate) async fn read(group: Arc<Group>, blocking: Arc<Blocking>) {
    let server = Arc::clone(&group.connection.server);
    let watched = Arc::new(Watched::default());
    let looking = watch(
        Arc::clone(&group),
        Arc::clone(&watched),
        Arc::clone(&blocking),
    );
    let reader = Reader {
        known: group
            .sources
            .all()
            .iter()
            .map(|_| Known::Others(Instant::now()))
            .collect(),
        share: usize::MAX,
        count_at: Instant::now(),
        renew_at: Instant::now(),
        look_at: Instant::now(),
        server,
        watched,
        blocking,
        group,
    };
    tokio::join!(reader.run(), looking);
}

struct Reader {
    group: Arc<Group>,
    server: Arc<Server>,
    watched: Arc<Watched>,
    blocking: Arc<Blocking>,
    known: Vec<Known>,
    /// How many partitions are ours by right.
    share: usize,
    count_at: Instant,
    renew_at: Instant,
    /// When it is looked what is behind, and which members are gone.
    look_at: Instant,
}

impl Reader {
    async fn run(mut self) {
        let (left, closed) = (self.group.left.clone(), self.server.closed.clone());
        let mut cursor = 0;
        while !left.is_raised() && !closed.is_raised() {
            if let Err(error) = self.round(&mut cursor).await {
                if error.kind() != ErrorKind::NotFound {
                    self.group.complain(error);
                } else if let Err(error) =
                    reader::make_again(&self.group, &self.server, &self.group.sources.all()).await
                {
                    self.group.complain(error);
                }
                pause(AGAIN, &left, &closed).await;
                continue;
            }
            self.tell_watcher().await;
            let next = self.next();
            select! {
                biased;
                () = left.raised() => {}
                () = closed.raised() => {}
                () = self.group.room.fetch.notified() => {}
                () = self.watched.something.notified() => {}
                () = sleep_until(next) => {}
            }
        }
        self.leave().await;
    }

    /// Asks for all partitions that may have something for us.
    async fn round(&mut self, cursor: &mut usize) -> Result<(), Error> {
        let now = Instant::now();
        if self.group.is_stale() {
            self.group.give_back().await;
        }
        if self.count_at <= now {
            self.count().await?;
            self.count_at = Instant::now() + jittered(COUNT);
        }
        if self.look_at <= now {
            // Whose turn it is takes what others left, one behind the other: here nothing is taken.
            keeper::reap(&self.group, &self.server, 0).await?;
            self.look_at = Instant::now() + jittered(LOOK);
        }
        while let Some(index) = self.watched.woken.pop() {
            if let Known::Idle { until, .. } = &mut self.known[index] {
                *until = now;
            }
        }
        let sources = self.group.sources.all();
        for (known, source) in self.known.iter_mut().zip(sources.iter()) {
            if matches!(known, Known::Out) && source.out.load(Ordering::SeqCst) == 0 {
                *known = Known::Idle {
                    last: EntryId::default(),
                    until: now,
                };
            }
        }
        let renew = self.renew_at <= now;
        if renew {
            self.renew_at = now + self.group.lease / 3;
        }
        let number = self.known.len();
        for step in 0..number {
            let index = (*cursor + step) % number;
            let ask = match self.known[index] {
                // What nothing can be taken of is left to the others.
                Known::Others(at) => {
                    at <= now && self.owned() < self.share && self.group.free() > 0
                }
                Known::Idle { until, .. } => {
                    if self.owned() > self.share {
                        disown(&self.group, &sources[index]).await?;
                        self.known[index] = Known::Others(Instant::now() + jittered(ASK * 2));
                        continue;
                    }
                    until <= now && self.group.free() > 0
                }
                Known::Out => false,
            };
            let keep = renew && !matches!(self.known[index], Known::Others(_));
            if ask || keep {
                self.ask(index, &sources[index]).await?;
            }
        }
        *cursor = (*cursor + 1) % number.max(1);
        Ok(())
    }

    fn owned(&self) -> usize {
        let owned = |known: &&Known| !matches!(known, Known::Others(_));
        self.known.iter().filter(owned).count()
    }

    /// When something is to be done that nobody tells of.
    fn next(&self) -> Instant {
        let now = Instant::now();
        let times = self.known.iter().filter_map(|known| match known {
            // A place that is freed is told.
            Known::Others(at) => {
                (self.owned() < self.share && self.group.free() > 0).then_some(*at)
            }
            Known::Idle { until, .. } => (self.group.free() > 0).then_some(*until),
            Known::Out => None,
        });
        let first = times.min().unwrap_or(self.count_at);
        first
            .min(self.count_at)
            .min(self.renew_at)
            .min(self.look_at)
            .max(now + Duration::from_millis(1))
    }

    /// The next entry of one partition.
    async fn ask(&mut self, index: usize, source: &Arc<Source>) -> Result<(), Error> {
        let who = &self.group.who;
        let mut call = script::NEXT_IN_ORDER.call(3);
        call.arg(&source.stream).arg(&source.due).arg(&source.owner);
        call.arg(&who.group)
            .arg(&who.consumer)
            .arg(millis(self.group.lease));
        let room = self.group.free() > 0 && source.out.load(Ordering::SeqCst) == 0;
        call.arg(u8::from(room));
        let at = Instant::now();
        let told = self
            .server
            .run("receive", &source.stream, &script::NEXT_IN_ORDER, &call)
            .await?;
        let mut told = value::list(told).into_iter();
        let mut part = || told.next().unwrap_or_default();
        let (state, wait) = (value::int(&part()), value::int(&part()).unwrap_or(-1));
        let take = read_take(Value::Array(vec![part(), part()]), at);
        let last = value::text(&part())
            .and_then(|id| id.parse().ok())
            .unwrap_or_default();
        let wait = u64::try_from(wait).ok().map(Duration::from_millis);
        self.known[index] = match state {
            Some(0) => Known::Others(Instant::now() + wait.unwrap_or(ASK).min(jittered(ASK))),
            Some(2) => {
                source.read(take.taken.last().and_then(Taken::id));
                source.out.fetch_add(1, Ordering::SeqCst);
                self.group.took(source, take).await;
                source.out.fetch_sub(1, Ordering::SeqCst);
                // An entry that was acked at sight or put off is not out.
                Known::Out
            }
            // Asked only to stay its owner; or the last place was taken meanwhile, and it is ours now.
            _ if !room => {
                if matches!(self.known[index], Known::Others(_)) {
                    self.known[index] = Known::Out;
                }
                return Ok(());
            }
            _ => {
                self.group.lost(take.lost);
                let until =
                    Instant::now() + wait.unwrap_or(BLOCK * 4).max(Duration::from_millis(1));
                Known::Idle { last, until }
            }
        };
        Ok(())
    }

    /// Counts the members, and so what is ours by right.
    async fn count(&mut self) -> Result<(), Error> {
        let key = self
            .server
            .names
            .sharing(&self.group.message, &self.group.who.member);
        let mut call = script::SEEN.call(1);
        call.arg(&key)
            .arg(&self.group.who.consumer)
            .arg(millis(COUNTED));
        let told = self
            .server
            .run("receive", &key, &script::SEEN, &call)
            .await?;
        let members = usize::try_from(value::count(&told)).unwrap_or(1).max(1);
        self.share = self.known.len().div_ceil(members);
        Ok(())
    }

    /// Tells which partitions are idle.
    async fn tell_watcher(&self) {
        let idle: Idle = self
            .known
            .iter()
            .enumerate()
            .filter_map(|(index, known)| match known {
                Known::Idle { last, .. } if *last != EntryId::default() => Some((index, *last)),
                _ => None,
            })
            .collect();
        if **self.watched.idle.load() != idle {
            let more = idle.len() > self.watched.idle.load().len();
            self.watched.idle.store(Arc::new(idle));
            self.watched.changed.notify_one();
            if more {
                self.blocking.wake(&self.server).await;
            }
        }
    }

    /// Is no member any more that shares the partitions.
    async fn leave(&self) {
        if self.server.closed.is_raised() {
            return;
        }
        let key = self
            .server
            .names
            .sharing(&self.group.message, &self.group.who.member);
        let mut leave = redis::cmd("ZREM");
        leave.arg(&key).arg(&self.group.who.consumer);
        let _ = self
            .server
            .call("close", &key, &leave, self.server.call_deadline())
            .await;
    }
}

/// Hands a partition over.
pub(crate) async fn disown(group: &Group, source: &Source) -> Result<(), Error> {
    let mut call = script::DISOWN.call(1);
    call.arg(&source.owner).arg(&group.who.consumer);
    let server = &group.connection.server;
    let disowned = server.run("close", &source.owner, &script::DISOWN, &call);
    disowned.await.map(drop)
}

/// Looks for what comes to idle partitions, without taking it.
async fn watch(group: Arc<Group>, watched: Arc<Watched>, blocking: Arc<Blocking>) {
    let server = Arc::clone(&group.connection.server);
    let (left, closed): (Closed, Closed) = (group.left.clone(), server.closed.clone());
    let mut line = Line::new(&server, blocking);
    let wait = if server.is_cluster() { SHORT } else { BLOCK };
    let sources = group.sources.all();
    let mut told = Idle::new();
    while !left.is_raised() && !closed.is_raised() {
        let idle: Idle = watched
            .idle
            .load()
            .iter()
            // Told before, and not looked at yet.
            .filter(|(index, last)| told.get(*index) != Some(*last))
            .map(|(index, last)| (*index, *last))
            .collect();
        if idle.is_empty() {
            select! {
                biased;
                () = left.raised() => {}
                () = closed.raised() => {}
                () = watched.changed.notified() => {}
            }
            continue;
        }
        if let Err(error) = line.connect().await {
            group.complain(error);
            pause(AGAIN, &left, &closed).await;
            continue;
        }
        let mut look = redis::cmd("XREAD");
        look.arg("COUNT")
            .arg(1)
            .arg("BLOCK")
            .arg(millis(wait))
            .arg("STREAMS");
        let order: Vec<_> = idle.iter().collect();
        for (index, _) in &order {
            look.arg(&sources[**index].stream);
        }
        for (_, last) in &order {
            look.arg(last.to_string());
        }
        match line.ask(&look, wait).await {
            Ok(found) => {
                for stream in value::list(found) {
                    let parts = value::list(stream);
                    let name = parts.first().and_then(value::text);
                    let index = sources
                        .iter()
                        .position(|source| Some(source.stream.as_str()) == name);
                    if let Some(index) = index {
                        told.insert(index, idle.get(&index).copied().unwrap_or_default());
                        watched.woken.push(index);
                        watched.something.notify_one();
                    }
                }
            }
            Err(error) => {
                tracing::debug!(message = %group.message, %error, "idle partitions cannot be looked at");
                pause(AGAIN, &left, &closed).await;
            }
        }
    }
}
