//! A member of a group: what its reader, its keeper and its receipts share.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use catga_core::{Delivery, Error, Name, QoS, SubscriptionStats};
use crossbeam_queue::SegQueue;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::acks::Acks;
use crate::claims::{self, Entry, Verdict};
use crate::closed::Closed;
use crate::completions::Completions;
use crate::connection::Connection;
use crate::receipt::{Held, StreamReceipt};
use crate::room::Room;
use crate::source::{Out, Parked, Source, Sources, Take, Taken, Who};
use crate::time::millis;
use crate::wire::{self, EntryId};

/// A member of a group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) connection: Arc<Connection>,
    pub(crate) message: Name,
    pub(crate) who: Who,
    pub(crate) qos: QoS,
    /// How long a delivery may stay unsettled.
    pub(crate) lease: Duration,
    /// After which silence a message is taken over.
    pub(crate) idle: Duration,
    /// Whether the inbox claims what is handed out.
    pub(crate) claims: bool,
    pub(crate) sources: Sources,
    pub(crate) acks: Arc<Acks>,
    pub(crate) completions: Completions,
    pub(crate) room: Arc<Room>,
    pub(crate) max_in_flight: AtomicUsize,
    /// Raised when nothing more is to be fetched.
    pub(crate) left: Closed,
    /// Wakes the keeper: something was put off, or is missing.
    pub(crate) parked: Notify,
    /// Whether a reply with entries may be lost, which the keeper looks for: it takes nothing else meanwhile.
    missing: AtomicBool,
    /// Wakes the reader, who waits until they are found.
    found: Notify,
    pub(crate) counters: Counters,
    fetched: SegQueue<Fetched>,
    /// What waited for longer than its lease.
    late: SegQueue<Fetched>,
    waiting: AtomicUsize,
    /// How many receive now.
    receiving: AtomicUsize,
    /// When somebody received last, and when the first of what waits was fetched: in milliseconds since `began`.
    received: AtomicU64,
    fetched_since: AtomicU64,
    began: Instant,
    pub(crate) arrived: Notify,
    /// What could not be done, to be told to who receives.
    pub(crate) problem: arc_swap::ArcSwapOption<Error>,
}

/// How long after a receive another is expected.
const BREATH: Duration = Duration::from_millis(20);

/// Somebody receives.
#[derive(Debug)]
pub(crate) struct Receiving(Arc<Group>);

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.received.store(self.0.now(), Ordering::SeqCst);
        self.0.receiving.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a member counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) duplicates: AtomicU64,
    /// Messages that were trimmed before they were handled.
    pub(crate) lost: AtomicU64,
    /// What the group has not seen yet, as it was when somebody looked.
    pub(crate) behind: AtomicU64,
}

/// An entry that waits to be received.
#[derive(Debug)]
struct Fetched {
    out: Out,
    entry: Entry,
    held: Option<Held>,
}

impl Group {
    #[expect(
        clippy::too_many_arguments,
        reason = "one caller, which has just these parts"
    )]
    pub(crate) fn new(
        connection: Arc<Connection>,
        message: Name,
        who: Who,
        qos: QoS,
        lease: Duration,
        idle: Duration,
        claims: bool,
        max_in_flight: usize,
        sources: Vec<Arc<Source>>,
    ) -> Self {
        let pending = Arc::clone(&connection.server.pending);
        let completions = Completions::spawn(&connection.server, &who.group);
        Self {
            connection,
            message,
            who,
            qos,
            lease,
            idle,
            claims,
            sources: Sources::new(sources),
            acks: Arc::new(Acks::new(pending)),
            completions,
            room: Arc::default(),
            max_in_flight: AtomicUsize::new(max_in_flight.max(1)),
            left: Closed::default(),
            parked: Notify::new(),
            missing: AtomicBool::new(false),
            found: Notify::new(),
            counters: Counters::default(),
            fetched: SegQueue::new(),
            late: SegQueue::new(),
            waiting: AtomicUsize::new(0),
            receiving: AtomicUsize::new(0),
            received: AtomicU64::new(0),
            fetched_since: AtomicU64::new(0),
            began: Instant::now(),
            arrived: Notify::new(),
            problem: arc_swap::ArcSwapOption::empty(),
        }
    }

    fn now(&self) -> u64 {
        millis(self.began.elapsed())
    }

    /// Says that somebody receives, until the guard is dropped.
    pub(crate) fn receive(self: &Arc<Self>) -> Receiving {
        self.receiving.fetch_add(1, Ordering::SeqCst);
        self.room.fetch.notify_one();
        Receiving(Arc::clone(self))
    }

    /// Whether what is fetched will be received: a member that nobody receives from leaves it to the others.
    fn is_wanted(&self) -> bool {
        self.receiving.load(Ordering::SeqCst) > 0
            || self.now() < self.received.load(Ordering::SeqCst) + millis(BREATH)
    }

    /// Whether something was fetched so long ago that it goes back to the group, for another member.
    pub(crate) fn is_stale(&self) -> bool {
        let age = self
            .now()
            .saturating_sub(self.fetched_since.load(Ordering::SeqCst));
        let waits = self.waiting.load(Ordering::SeqCst) > 0;
        !self.late.is_empty() || (waits && age >= millis(self.lease / 2))
    }

    /// How many messages may be fetched.
    pub(crate) fn free(&self) -> usize {
        if !self.is_wanted() {
            return 0;
        }
        let most = self.max_in_flight.load(Ordering::Relaxed);
        let taken = self.room.held() + self.waiting.load(Ordering::SeqCst);
        most.saturating_sub(taken)
    }

    pub(crate) fn has_room(&self) -> bool {
        self.room.held() < self.max_in_flight.load(Ordering::Relaxed)
    }

    /// Tells whoever receives that something could not be done.
    pub(crate) fn complain(&self, error: Error) {
        tracing::debug!(message = %self.message, group = self.who.group, %error, "nothing can be received now");
        self.problem.store(Some(Arc::new(error)));
        self.arrived.notify_one();
    }

    /// Says that what was read may not have arrived, and waits until that is found.
    pub(crate) async fn look(&self) {
        self.missing.store(true, Ordering::SeqCst);
        self.parked.notify_one();
        while self.missing.load(Ordering::SeqCst) {
            // One that is told between the two is kept.
            self.found.notified().await;
        }
    }

    /// Whether something may be missing.
    pub(crate) fn is_missing(&self) -> bool {
        self.missing.load(Ordering::SeqCst)
    }

    /// Says that nothing is missing any more.
    pub(crate) fn is_found(&self) {
        self.missing.store(false, Ordering::SeqCst);
        self.found.notify_one();
    }

    /// Counts what was trimmed before it was handled.
    pub(crate) fn lost(&self, lost: u64) {
        if lost > 0 {
            self.counters.lost.fetch_add(lost, Ordering::Relaxed);
            tracing::warn!(
                message = %self.message,
                group = self.who.group,
                lost_by_trim = lost,
                "messages were trimmed before they were handled"
            );
        }
    }

    pub(crate) async fn took(&self, source: &Arc<Source>, take: Take) {
        self.lost(take.lost);
        self.accept(source, take.taken).await;
    }

    /// Takes entries in: those of other groups are acked at sight, ids that are claimed elsewhere are put off or acked, and
    /// the rest waits to be received.
    pub(crate) async fn accept(&self, source: &Arc<Source>, taken: Vec<Taken>) {
        let mut entries = VecDeque::with_capacity(taken.len());
        for Taken {
            entry,
            count,
            ran,
            at,
        } in taken
        {
            let Some((id, read)) = wire::entry(&self.message, self.qos, entry) else {
                continue;
            };
            if read
                .text(wire::GROUP)
                .is_some_and(|group| group != self.who.group)
            {
                self.ack_unseen(source, id).await;
                continue;
            }
            entries.push_back(Entry {
                id,
                read,
                count,
                ran,
                at,
            });
        }
        if self.claims {
            let verdicts = claims::claim(self, source, entries).await;
            for verdict in verdicts {
                match verdict {
                    Verdict::Goes(goes) => {
                        let (entry, held) = *goes;
                        self.fetched(source, entry, held);
                    }
                    Verdict::Duplicate(id) => {
                        self.counters.duplicates.fetch_add(1, Ordering::Relaxed);
                        self.ack_unseen(source, id).await;
                    }
                }
            }
            return;
        }
        for entry in entries {
            self.fetched(source, entry, None);
        }
    }

    /// Acks what nobody is to see.
    async fn ack_unseen(&self, source: &Arc<Source>, id: EntryId) {
        if !source.is_ordered {
            // Closed meanwhile: it comes again, to somebody who knows it too.
            let _ = self.acks.push(source, id).await;
            return;
        }
        // The next of its partition comes behind it.
        let acked = source.ack(&self.connection.server, &self.who, id).await;
        if let Err(error) = acked {
            tracing::debug!(message = %self.message, %error, "a copy was not acked; it comes again when its lease ends");
        }
    }

    fn fetched(&self, source: &Arc<Source>, entry: Entry, held: Option<Held>) {
        if self.waiting.fetch_add(1, Ordering::SeqCst) == 0 {
            self.fetched_since.store(self.now(), Ordering::SeqCst);
        }
        self.fetched.push(Fetched {
            out: Out::new(source, &self.room),
            entry,
            held,
        });
        self.arrived.notify_one();
    }

    fn pop(&self) -> Option<Fetched> {
        let fetched = self.fetched.pop()?;
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        // What waits behind it was not fetched before.
        self.fetched_since.store(
            millis(fetched.entry.at.duration_since(self.began)),
            Ordering::SeqCst,
        );
        Some(fetched)
    }

    /// The next that waits, with a place of its own.
    pub(crate) fn next(self: &Arc<Self>) -> Option<Delivery> {
        loop {
            let Fetched { out, entry, held } = self.pop()?;
            let Entry {
                id,
                read,
                count,
                ran,
                at,
            } = entry;
            // Whoever gets it renews its lease after a third of one.
            if at.elapsed() >= self.lease / 2 {
                // It waited too long, and goes back.
                self.late.push(Fetched {
                    out,
                    entry: Entry {
                        id,
                        read,
                        count,
                        ran,
                        at,
                    },
                    held,
                });
                self.parked.notify_one();
                continue;
            }
            let generation = read.generation();
            let claimed = held.is_some();
            // Who redrives a message may have seen it handled half-way.
            let ran = ran || generation > 0;
            let envelope = read.envelope.with_partition(Some(out.source.partition));
            let receipt = StreamReceipt::new(
                Arc::clone(self),
                out,
                id,
                count,
                generation,
                ran,
                held,
                at + self.lease,
            );
            let delivery = Delivery::new(envelope, Box::new(receipt))
                .with_count(count)
                .with_generation(generation)
                .with_may_have_run(ran);
            return Some(if claimed {
                delivery.with_claim_held()
            } else {
                delivery
            });
        }
    }

    /// Gives back at once what was fetched and not received.
    pub(crate) async fn give_back(&self) {
        while let Some(fetched) = self.late.pop().or_else(|| self.pop()) {
            let Fetched { out, entry, held } = fetched;
            let source = &*out.source;
            let parked = Parked {
                id: entry.id,
                after: Duration::ZERO,
                change: -1,
                ran: entry.ran,
            };
            let server = &self.connection.server;
            let given = match held {
                None => source
                    .park(server, "close", &self.who, &[parked])
                    .await
                    .map(drop),
                Some(held) => held.give_up(self, source, parked, "n").await.map(drop),
            };
            if let Err(error) = given {
                tracing::debug!(message = %self.message, %error, "a message was not given back; it comes again when its lease ends");
            }
        }
    }

    pub(crate) fn stats(&self) -> SubscriptionStats {
        let behind = self.counters.behind.load(Ordering::Relaxed);
        let waiting = self.waiting.load(Ordering::SeqCst) as u64;
        SubscriptionStats::new(
            self.counters.lost.load(Ordering::Relaxed),
            Some(behind + waiting),
        )
        .with_duplicates(self.counters.duplicates.load(Ordering::Relaxed))
    }
}
