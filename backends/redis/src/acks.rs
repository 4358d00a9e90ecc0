//! Acks, collected while the ones before are on their way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use catga_core::Error;
use crossbeam_queue::SegQueue;
use redis::Pipeline;
use tokio::select;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::closed::Closed;
use crate::error;
use crate::link::jittered;
use crate::pending::Pending;
use crate::server::Server;
use crate::source::Source;
use crate::wire::EntryId;

/// The most acks of one command.
const BATCH: usize = 1000;
/// With so many that wait or are on their way, whoever acks waits too: after a crash no more than these are handled again, and
/// what waits, which is as much as is handled at once. The README says so, and a scenario counts.
pub(crate) const QUEUE: usize = 1000;
/// How long to wait before acks are tried again that were not taken.
const AGAIN: std::time::Duration = std::time::Duration::from_millis(100);

/// The acks of one member.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    queue: SegQueue<(Arc<Source>, EntryId)>,
    /// That of the connection, which a close waits for.
    pending: Arc<Pending>,
    /// How many wait or are on their way.
    open: AtomicUsize,
    arrived: Notify,
    /// Nobody tells any more.
    ended: AtomicBool,
    /// Wakes who waits until there is room, or until all are told.
    told: Notify,
}

impl Acks {
    pub(crate) fn new(pending: Arc<Pending>) -> Self {
        Self {
            pending,
            ..Self::default()
        }
    }

    /// Queues an ack, when there is room.
    pub(crate) fn try_push(&self, source: &Arc<Source>, id: EntryId) -> bool {
        if self.ended.load(Ordering::SeqCst) {
            return false;
        }
        let one_more = |open: usize| (open < QUEUE).then_some(open + 1);
        let order = Ordering::SeqCst;
        if self.open.fetch_update(order, order, one_more).is_err() {
            return false;
        }
        self.pending.add();
        self.queue.push((Arc::clone(source), id));
        self.arrived.notify_one();
        true
    }

    /// Queues an ack as soon as there is room; fails when nobody tells the server any more.
    pub(crate) async fn push(&self, source: &Arc<Source>, id: EntryId) -> Result<(), Error> {
        loop {
            // Made before it is asked: what is told between the two still wakes it.
            let told = self.told.notified();
            if self.try_push(source, id) {
                return Ok(());
            }
            if self.ended.load(Ordering::SeqCst) {
                return Err(error::closed("settle"));
            }
            told.await;
        }
    }

    /// Waits until all that were queued are told.
    pub(crate) async fn flushed(&self, by: Instant) -> bool {
        let flushed = async {
            loop {
                let told = self.told.notified();
                if self.open.load(Ordering::SeqCst) == 0 {
                    return;
                }
                told.await;
            }
        };
        tokio::time::timeout_at(by, flushed).await.is_ok()
    }

    /// Tells the server, until everything is closed, or the member has left and nothing is left to tell.
    pub(crate) async fn keep_telling(
        self: Arc<Self>,
        server: Arc<Server>,
        group: String,
        left: Closed,
    ) {
        Arc::clone(&self).tell_all(server, group, left).await;
        self.ended.store(true, Ordering::SeqCst);
        self.told.notify_waiters();
    }

    async fn tell_all(self: Arc<Self>, server: Arc<Server>, group: String, left: Closed) {
        let closed = server.closed.clone();
        let mut batch: Vec<(Arc<Source>, Vec<EntryId>)> = Vec::new();
        loop {
            let mut number = 0;
            while number < BATCH
                && let Some((source, id)) = self.queue.pop()
            {
                number += 1;
                match batch
                    .iter_mut()
                    .find(|(known, _)| Arc::ptr_eq(known, &source))
                {
                    Some((_, ids)) => ids.push(id),
                    None => batch.push((source, vec![id])),
                }
            }
            if batch.is_empty() {
                // A receipt that is out holds us, beside our caller: what is acked after the member has left still comes.
                if left.is_raised() && Arc::strong_count(&self) == 2 {
                    return;
                }
                select! {
                    biased;
                    () = closed.raised() => return,
                    () = self.arrived.notified() => {}
                    () = sleep(AGAIN * 10) => {}
                }
                continue;
            }
            while let Err(error) = tell(&server, &group, &batch).await {
                if closed.is_raised() {
                    return;
                }
                if error.retry() == catga_core::Retry::Never
                    || error.kind() == catga_core::ErrorKind::NotFound
                {
                    // The group is gone, and what it had pending with it.
                    tracing::warn!(group, %error, "acks were not taken");
                    break;
                }
                tracing::debug!(group, %error, "acks were not taken; they are tried again");
                sleep(jittered(AGAIN)).await;
            }
            let number = batch.drain(..).map(|(_, ids)| ids.len()).sum();
            self.open.fetch_sub(number, Ordering::SeqCst);
            self.pending.done(number);
            self.told.notify_waiters();
        }
    }
}

/// One command for each stream; a second time it changes nothing.
async fn tell(
    server: &Server,
    group: &str,
    batch: &[(Arc<Source>, Vec<EntryId>)],
) -> Result<(), Error> {
    let mut pipeline = Pipeline::with_capacity(batch.len());
    for (source, ids) in batch {
        let mut ack = redis::cmd("XACK");
        ack.arg(&source.stream).arg(group);
        for id in ids {
            ack.arg(id);
        }
        pipeline.add_command(ack);
    }
    let stream = &batch[0].0.stream;
    let answers = server
        .pipeline("settle", stream, &pipeline, server.call_deadline())
        .await?;
    for answer in answers {
        answer.map_err(|error| error::of("settle", stream, &error))?;
    }
    Ok(())
}
