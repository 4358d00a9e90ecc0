//! A stream and its group, as one member of it sees them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use catga_core::Error;
use crossbeam_queue::SegQueue;
use redis::Value;
use tokio::time::Instant;

use crate::connection::Connection;
use crate::names::{self, Member};
use crate::room::Room;
use crate::script::{self, Script};
use crate::server::Server;
use crate::time::millis;
use crate::value;
use crate::wire::EntryId;

/// How many bits of a number are kept; milliseconds have the rest.
const NUMBER_BITS: u32 = 20;

/// One stream of a member.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) partition: u16,
    pub(crate) stream: String,
    /// When entries that were put off are due.
    pub(crate) due: String,
    /// Who handles an ordered partition now.
    pub(crate) owner: String,
    /// The last entry that was read and arrived: what was read behind it did not arrive.
    last: AtomicU64,
    /// What was taken, and not read, since a read arrived last: it may be behind the last.
    taken: SegQueue<EntryId>,
    /// Whether it is handled in order, one entry at a time.
    pub(crate) is_ordered: bool,
    /// How many entries are out.
    pub(crate) out: AtomicUsize,
}

/// An entry that was taken, how often it was delivered, and when its lease began.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) entry: Value,
    pub(crate) count: u32,
    /// Whether it was begun in a delivery that is not counted.
    pub(crate) ran: bool,
    pub(crate) at: Instant,
}

impl Taken {
    pub(crate) fn id(&self) -> Option<EntryId> {
        let Value::Array(parts) = &self.entry else {
            return None;
        };
        value::text(parts.first()?)?.parse().ok()
    }
}

/// An entry that is put off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parked {
    pub(crate) id: EntryId,
    pub(crate) after: Duration,
    /// What is added to its count.
    pub(crate) change: i32,
    /// Whether it may have run.
    pub(crate) ran: bool,
}

/// What a script took.
#[derive(Debug, Default)]
pub(crate) struct Take {
    pub(crate) taken: Vec<Taken>,
    /// How many entries were trimmed before they were handled.
    pub(crate) lost: u64,
    /// What else it told.
    pub(crate) rest: Vec<Value>,
}

/// Who reads: the group's name, and that of this consumer.
#[derive(Debug)]
pub(crate) struct Who {
    pub(crate) member: Member,
    pub(crate) group: String,
    pub(crate) consumer: String,
}

impl Source {
    pub(crate) fn new(stream: String, partition: u16, member: &Member) -> Self {
        Self {
            partition,
            due: names::due(&stream, member),
            owner: names::owner(&stream, member),
            stream,
            last: AtomicU64::new(0),
            taken: SegQueue::new(),
            is_ordered: false,
            out: AtomicUsize::new(0),
        }
    }

    /// Handled in order.
    pub(crate) fn ordered(mut self, is_ordered: bool) -> Self {
        self.is_ordered = is_ordered;
        self
    }

    /// The last entry that was read.
    pub(crate) fn last(&self) -> EntryId {
        let last = self.last.load(Ordering::SeqCst);
        EntryId {
            millis: last >> NUMBER_BITS,
            number: last & ((1 << NUMBER_BITS) - 1),
        }
    }

    /// Notes that a read arrived, and its last entry. Until then others had read nothing that is behind it: what was taken from
    /// them before is older than what will be read.
    pub(crate) fn read(&self, last: Option<EntryId>) {
        while let Some(id) = self.taken.pop() {
            self.passed(id);
        }
        if let Some(id) = last {
            self.passed(id);
        }
    }

    fn passed(&self, id: EntryId) {
        // No server adds a million entries in a millisecond.
        let number = id.number.min((1 << NUMBER_BITS) - 1);
        let id = (id.millis << NUMBER_BITS) | number;
        self.last.fetch_max(id, Ordering::SeqCst);
    }

    /// Notes what was taken, from others or from what was put off.
    fn took(&self, take: &Take) {
        let last = self.last();
        let ids = take.taken.iter().filter_map(Taken::id);
        for id in ids.filter(|id| *id > last) {
            self.taken.push(id);
        }
    }

    /// What was taken since a read arrived. It stays noted. One task asks.
    fn taken(&self) -> Vec<EntryId> {
        let taken: Vec<_> = std::iter::from_fn(|| self.taken.pop()).collect();
        for id in &taken {
            self.taken.push(*id);
        }
        taken
    }

    /// Forgets what arrived: the stream begins again.
    pub(crate) fn begin_again(&self) {
        while self.taken.pop().is_some() {}
        self.last.store(0, Ordering::SeqCst);
    }

    /// Makes the group, when it is not there; whether it was not.
    pub(crate) async fn ensure(
        &self,
        server: &Server,
        operation: &'static str,
        who: &Who,
        start: &str,
    ) -> Result<bool, Error> {
        Connection::make_group(server, operation, &self.stream, &who.group, start).await
    }

    /// Takes with a script that returns entries, how many were lost, and more.
    async fn take(
        &self,
        server: &Server,
        script: &Script,
        call: &redis::Cmd,
    ) -> Result<Take, Error> {
        // The lease began at the server when it answered, which is later.
        let at = Instant::now();
        let told = server.run("receive", &self.stream, script, call).await?;
        let take = read_take(told, at);
        self.took(&take);
        Ok(take)
    }

    /// Takes what is due; the rest is when the next is.
    pub(crate) async fn due(&self, server: &Server, who: &Who, most: usize) -> Result<Take, Error> {
        let mut call = script::DUE.call(2);
        call.arg(&self.stream).arg(&self.due);
        call.arg(&who.group).arg(&who.consumer).arg(most);
        self.take(server, &script::DUE, &call).await
    }

    /// Takes what nobody has touched for `idle`; the rest is how much is behind.
    pub(crate) async fn reap(
        &self,
        server: &Server,
        who: &Who,
        idle: Duration,
        most: usize,
    ) -> Result<Take, Error> {
        let idle = millis(idle);
        let mut call = script::REAP.call(2);
        call.arg(&self.stream).arg(&self.due);
        call.arg(&who.group).arg(&who.consumer).arg(idle).arg(most);
        // Also one whose node was cut off for a while comes back to its name.
        call.arg((idle * 3).max(30_000));
        self.take(server, &script::REAP, &call).await
    }

    /// Takes what was read and did not arrive. Nothing is to be read or taken meanwhile.
    pub(crate) async fn leftovers(
        &self,
        server: &Server,
        who: &Who,
        most: usize,
    ) -> Result<Take, Error> {
        let mut call = script::LEFTOVERS.call(1);
        call.arg(&self.stream).arg(&who.group).arg(&who.consumer);
        call.arg(most).arg(self.last().to_string());
        script::args(&mut call, self.taken().iter().map(ToString::to_string));
        self.take(server, &script::LEFTOVERS, &call).await
    }

    /// Puts entries off that this consumer owns. Returns for each whether it was still ours.
    pub(crate) async fn park(
        &self,
        server: &Server,
        operation: &'static str,
        who: &Who,
        entries: &[Parked],
    ) -> Result<Vec<bool>, Error> {
        let mut call = script::PARK.call(2);
        call.arg(&self.stream).arg(&self.due);
        call.arg(&who.group).arg(&who.consumer);
        for Parked {
            id,
            after,
            change,
            ran,
        } in entries
        {
            call.arg(id)
                .arg(millis(*after))
                .arg(change)
                .arg(u8::from(*ran));
        }
        let told = server
            .run(operation, &self.stream, &script::PARK, &call)
            .await?;
        let told = value::list(told);
        Ok(told
            .iter()
            .map(|told| value::int(told) == Some(1))
            .collect())
    }

    /// Acks one entry.
    pub(crate) async fn ack(&self, server: &Server, who: &Who, id: EntryId) -> Result<(), Error> {
        let mut ack = redis::cmd("XACK");
        ack.arg(&self.stream).arg(&who.group).arg(id);
        let by = server.call_deadline();
        server
            .call("settle", &self.stream, &ack, by)
            .await
            .map(drop)
    }

    /// Gives back what did not arrive, and removes this consumer when it owns nothing.
    pub(crate) async fn leave(&self, server: &Server, who: &Who) -> Result<(), Error> {
        let mut call = script::LEAVE.call(2);
        call.arg(&self.stream).arg(&self.due);
        call.arg(&who.group)
            .arg(&who.consumer)
            .arg(self.last().to_string());
        script::args(&mut call, self.taken().iter().map(ToString::to_string));
        server
            .run("close", &self.stream, &script::LEAVE, &call)
            .await
            .map(drop)
    }
}

/// `{ entries, lost, .. }`.
pub(crate) fn read_take(told: Value, at: Instant) -> Take {
    let mut told = value::list(told).into_iter();
    let entries = value::list(told.next().unwrap_or_default());
    let lost = told.next().map_or(0, |lost| value::count(&lost));
    Take {
        taken: entries
            .into_iter()
            .filter_map(|entry| read_taken(entry, at))
            .collect(),
        lost,
        rest: told.collect(),
    }
}

/// `{ id, fields, count, ran }`.
fn read_taken(entry: Value, at: Instant) -> Option<Taken> {
    let mut parts = value::list(entry);
    let more = (parts.len() > 2).then(|| parts.split_off(2))?;
    let count = value::count(&more[0]);
    Some(Taken {
        entry: Value::Array(parts),
        count: u32::try_from(count).unwrap_or(u32::MAX).max(1),
        ran: more.get(1).is_some_and(|ran| value::int(ran) == Some(1)),
        at,
    })
}

/// The sources of a member that may become more.
#[derive(Debug)]
pub(crate) struct Sources(arc_swap::ArcSwap<Vec<Arc<Source>>>);

impl Sources {
    pub(crate) fn new(sources: Vec<Arc<Source>>) -> Self {
        Self(arc_swap::ArcSwap::from_pointee(sources))
    }

    pub(crate) fn all(&self) -> Arc<Vec<Arc<Source>>> {
        self.0.load_full()
    }

    /// Adds one. One task does.
    pub(crate) fn add(&self, source: Arc<Source>) {
        let mut all = (*self.all()).clone();
        all.push(source);
        self.0.store(Arc::new(all));
    }
}

/// An entry that is out, until this is dropped.
#[derive(Debug)]
pub(crate) struct Out {
    pub(crate) source: Arc<Source>,
    /// Woken when it is not out any more.
    room: Arc<Room>,
}

impl Out {
    pub(crate) fn new(source: &Arc<Source>, room: &Arc<Room>) -> Self {
        source.out.fetch_add(1, Ordering::SeqCst);
        Self {
            source: Arc::clone(source),
            room: Arc::clone(room),
        }
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        self.source.out.fetch_sub(1, Ordering::SeqCst);
        if self.source.is_ordered {
            self.room.fetch.notify_one();
        }
    }
}
