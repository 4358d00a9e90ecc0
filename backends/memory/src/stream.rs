//! The task that owns one log.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use catga_core::{DeadLetter, DeadLetterFilter, Envelope, Error, Name, Published, Subscribe};
use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::closed::Closed;
use crate::group::Counts;
use crate::handover::{Handed, Handover, Token};
use crate::log::{Log, MemberId, Verdict};
use crate::options::Settings;
use crate::room::{Queued, Room};
use crate::store::Memory;
use crate::timer::Timer;
use crate::window::Print;

/// How many commands wait before their senders do.
const QUEUE: usize = 1024;
/// How many commands are obeyed before entries are handed out.
const BATCH: usize = 64;
/// How many stored messages are taken in before.
const STORED_BATCH: usize = 256;

/// A message that waits to be stored: for room, or to hear whether it is a duplicate. Who sent it has it stored, or
/// knows it as stored before, exactly when `accepted` reached him.
#[derive(Debug)]
pub(crate) struct Publish {
    pub(crate) envelope: Envelope,
    pub(crate) queued: Queued,
    /// What a duplicate is recognised by; `None` at QoS 1.
    pub(crate) print: Option<Print>,
    pub(crate) accepted: oneshot::Sender<Published>,
}

/// What members say on the message path.
#[derive(Debug)]
pub(crate) enum Command {
    Fetch(Fetch),
    Settle {
        token: Token,
        verdict: Verdict,
        /// `None` for an ack at QoS 1, which nobody waits for.
        reply: Option<oneshot::Sender<Result<(), Error>>>,
    },
}

/// A member waits for entries.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) member: MemberId,
    pub(crate) max: usize,
    /// The end of the member's connection.
    pub(crate) closed: Closed,
    pub(crate) reply: oneshot::Sender<Batch>,
}

/// What a fetch is answered with. Handled only by who could [`take`](Handover::take) it.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) entries: Vec<Handed>,
    pub(crate) handover: Arc<Handover>,
}

/// What is asked off the message path, or from a `Drop`.
#[derive(Debug)]
pub(crate) enum Control {
    /// A member comes; the reply counts for it.
    Join {
        member: MemberId,
        subscribe: Subscribe,
        reply: oneshot::Sender<Result<Counts, Error>>,
    },
    /// A member may hold more or fewer deliveries.
    Limit {
        member: MemberId,
        max_in_flight: usize,
    },
    /// A member goes; these it was sent and never handed out.
    Leave {
        member: MemberId,
        unseen: Vec<Token>,
    },
    /// A member was sent more than it can hand out.
    GiveBack(Vec<Token>),
    ListLetters {
        filter: DeadLetterFilter,
        after: Option<u64>,
        limit: usize,
        reply: oneshot::Sender<Vec<DeadLetter>>,
    },
    InspectLetter {
        number: u64,
        reply: oneshot::Sender<Option<DeadLetter>>,
    },
    /// The reply says whether there was such a letter.
    Redrive {
        number: u64,
        reply: oneshot::Sender<bool>,
    },
    Purge {
        filter: DeadLetterFilter,
        reply: oneshot::Sender<u64>,
    },
}

/// The way to a log. Its task ends when the last holder of this is gone.
#[derive(Debug)]
pub(crate) struct Stream {
    /// What handlers commit.
    pub(crate) memory: Memory,
    pub(crate) room: Arc<Room>,
    /// What is stored from here on: who sends it has taken a place in the [`Room`], which is the bound.
    pub(crate) stored: mpsc::UnboundedSender<Envelope>,
    /// Apart from the commands: while the log is full nobody reads it, so that publishers queue up
    /// in the order in which they came while acks make room.
    pub(crate) publishes: mpsc::Sender<Publish>,
    pub(crate) commands: mpsc::Sender<Command>,
    /// Without a bound, because `Drop` cannot wait: a few for each subscription, and nothing per message.
    pub(crate) control: mpsc::UnboundedSender<Control>,
    next_member: AtomicU64,
}

impl Stream {
    pub(crate) fn new_member(&self) -> MemberId {
        self.next_member.fetch_add(1, Ordering::Relaxed)
    }
}

pub(crate) fn spawn(
    name: Name,
    settings: Settings,
    letters: Arc<AtomicU64>,
    memory: Memory,
) -> Arc<Stream> {
    let room = Arc::new(Room::new(settings.capacity));
    let (stored, store) = mpsc::unbounded_channel();
    let (publishes, publish_queue) = mpsc::channel(QUEUE.min(settings.capacity));
    let (commands, command_queue) = mpsc::channel(QUEUE);
    let (control, control_queue) = mpsc::unbounded_channel();
    let actor = Actor {
        log: Log::new(name, settings, letters),
        room: Arc::clone(&room),
        spare: false,
        stored: store,
        publishes: publish_queue,
        commands: command_queue,
        control: control_queue,
        parked: Vec::new(),
    };
    tokio::spawn(actor.run());
    Arc::new(Stream {
        memory,
        room,
        stored,
        publishes,
        commands,
        control,
        next_member: AtomicU64::new(0),
    })
}

/// What the task of a log was woken by.
enum First {
    Tick,
    Control(Control),
    Command(Command),
    Stored(Envelope),
    Publish(Publish),
    End,
}

/// When a turn of the task began: one look at the clock for all that is done in it.
#[derive(Clone, Copy)]
struct Now {
    instant: Instant,
    published_at: SystemTime,
}

impl Default for Now {
    fn default() -> Self {
        Self {
            instant: Instant::now(),
            published_at: SystemTime::now(),
        }
    }
}

struct Actor {
    log: Log,
    room: Arc<Room>,
    /// Whether a place is taken for the first in the queue of publishes.
    spare: bool,
    stored: mpsc::UnboundedReceiver<Envelope>,
    publishes: mpsc::Receiver<Publish>,
    commands: mpsc::Receiver<Command>,
    control: mpsc::UnboundedReceiver<Control>,
    /// Members that wait, by group, in the order in which they came.
    parked: Vec<VecDeque<Fetch>>,
}

impl Actor {
    async fn run(mut self) {
        let mut timer = Timer::new();
        loop {
            let room = self.has_room();
            // All senders go together, so that one closed channel ends the task.
            let first = select! {
                biased;
                () = timer.fired() => First::Tick,
                control = self.control.recv() => control.map_or(First::End, First::Control),
                command = self.commands.recv() => command.map_or(First::End, First::Command),
                stored = self.stored.recv() => stored.map_or(First::End, First::Stored),
                publish = self.publishes.recv(), if room => publish.map_or(First::End, First::Publish),
            };
            let now = Now::default();
            match first {
                First::Tick => {}
                First::Control(control) => self.control(control, now),
                First::Command(command) => self.obey(command, now),
                First::Stored(envelope) => self.log.push(envelope, now.published_at),
                First::Publish(publish) => self.accept(publish, now),
                First::End => return,
            }
            self.drain(now);
            self.log.expire(now.instant);
            self.dispatch(now.instant);
            self.room.free(self.log.take_freed());
            self.log.publish_waiting();
            timer.arm(self.log.next_deadline());
        }
    }

    /// Takes what else is there, so that entries go out in batches and nobody starves.
    fn drain(&mut self, now: Now) {
        while let Ok(control) = self.control.try_recv() {
            self.control(control, now);
        }
        for _ in 0..BATCH {
            let Ok(command) = self.commands.try_recv() else {
                break;
            };
            self.obey(command, now);
        }
        for _ in 0..STORED_BATCH {
            let Ok(envelope) = self.stored.try_recv() else {
                break;
            };
            self.log.push(envelope, now.published_at);
        }
        for _ in 0..BATCH {
            if !self.has_room() {
                break;
            }
            let Ok(publish) = self.publishes.try_recv() else {
                break;
            };
            self.accept(publish, now);
        }
    }

    /// Takes in what was stored up to now.
    fn take_stored(&mut self, now: Now) {
        while let Ok(envelope) = self.stored.try_recv() {
            self.log.push(envelope, now.published_at);
        }
    }

    /// Whether the first in the queue may be stored.
    fn has_room(&mut self) -> bool {
        self.spare = self.spare || self.room.try_take();
        self.spare || self.log.drops_oldest()
    }

    /// Stores a message, unless its publisher has given up: the reply decides it for both. Nobody
    /// can see the log between the reply and the push.
    fn accept(&mut self, publish: Publish, now: Now) {
        let Publish {
            envelope,
            print,
            accepted,
            queued,
        } = publish;
        if print.is_some_and(|print| self.log.knows(print, now.instant)) {
            // Who gave up does not hear that it was stored before, by another publish.
            let _ = accepted.send(Published::duplicate());
        } else if accepted.send(Published::new()).is_ok() {
            // What was stored before this is in front of it, also where one publisher did both.
            self.take_stored(now);
            if !std::mem::take(&mut self.spare) {
                self.room.take();
            }
            self.log.push(envelope, now.published_at);
            if let Some(print) = print {
                self.log.remember(print, now.instant);
            }
        }
        drop(queued);
    }

    fn obey(&mut self, command: Command, now: Now) {
        match command {
            Command::Fetch(fetch) => {
                // A member that left needs no answer: it took its receiver along.
                if let Some(group) = self.log.group_of(fetch.member) {
                    self.parked[group].push_back(fetch);
                }
            }
            Command::Settle {
                token,
                verdict,
                reply,
            } => {
                let settled = self.log.settle(token, verdict, now.instant);
                if let Some(reply) = reply {
                    let _ = reply.send(settled);
                }
            }
        }
    }

    // Who asked may be gone; then nobody misses the reply.
    fn control(&mut self, control: Control, now: Now) {
        // Whoever asks has seen these stored.
        self.take_stored(now);
        match control {
            Control::Join {
                member,
                subscribe,
                reply,
            } => {
                let joined = self.log.join(member, &subscribe).map(|group| {
                    if self.parked.len() <= group {
                        self.parked.resize_with(group + 1, VecDeque::new);
                    }
                    self.log.counts(member)
                });
                let _ = reply.send(joined);
            }
            Control::Limit {
                member,
                max_in_flight,
            } => self.log.limit(member, max_in_flight),
            Control::Leave { member, unseen } => {
                self.log.give_back(&unseen, now.instant);
                if let Some(group) = self.log.leave(member) {
                    self.parked[group].retain(|fetch| fetch.member != member);
                }
            }
            Control::GiveBack(tokens) => self.log.give_back(&tokens, now.instant),
            Control::ListLetters {
                filter,
                after,
                limit,
                reply,
            } => {
                let _ = reply.send(self.log.letters.list(&filter, after, limit));
            }
            Control::InspectLetter { number, reply } => {
                let _ = reply.send(self.log.letters.inspect(number));
            }
            Control::Redrive { number, reply } => {
                let _ = reply.send(self.log.redrive(number));
            }
            Control::Purge { filter, reply } => {
                let _ = reply.send(self.log.letters.purge(&filter));
            }
        }
    }

    /// Answers those who wait, as far as there is something for them.
    fn dispatch(&mut self, now: Instant) {
        let Self { log, parked, .. } = self;
        for (group, parked) in parked.iter_mut().enumerate() {
            let mut at = 0;
            while log.has_ready(group) && at < parked.len() {
                let fetch = &parked[at];
                if fetch.reply.is_closed() || fetch.closed.is_raised() {
                    parked.remove(at);
                    continue;
                }
                let handover = Arc::default();
                let entries = log.take(fetch.member, fetch.max, now, &handover);
                if entries.is_empty() {
                    // This member holds all that it may; those behind it may have room.
                    at += 1;
                    continue;
                }
                let fetch = parked.remove(at).expect("`at` is within the queue");
                if let Err(unread) = fetch.reply.send(Batch { entries, handover }) {
                    let tokens: Vec<Token> = unread.entries.iter().map(|e| e.token).collect();
                    log.give_back(&tokens, now);
                }
            }
        }
    }
}
