//! The task that owns one log.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use catga_core::{DeadLetter, DeadLetterFilter, Envelope, Error, Name, Published, Subscribe};
use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::closed::Closed;
use crate::group::Counts;
use crate::handover::{Handed, Handover, Token};
use crate::log::{Log, MemberId, Verdict};
use crate::options::Settings;
use crate::store::Memory;
use crate::timer::Timer;
use crate::window::Print;

/// How many commands wait before their senders do.
const QUEUE: usize = 1024;
/// How many commands are obeyed before entries are handed out.
const BATCH: usize = 64;

/// A message to be stored. Who sent it has it stored, or knows it as stored before, exactly when `accepted`
/// reached him.
#[derive(Debug)]
pub(crate) struct Publish {
    pub(crate) envelope: Envelope,
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
    let (publishes, publish_queue) = mpsc::channel(QUEUE.min(settings.capacity));
    let (commands, command_queue) = mpsc::channel(QUEUE);
    let (control, control_queue) = mpsc::unbounded_channel();
    let actor = Actor {
        log: Log::new(name, settings, letters),
        memory,
        publishes: publish_queue,
        commands: command_queue,
        control: control_queue,
        parked: Vec::new(),
    };
    tokio::spawn(actor.run());
    Arc::new(Stream {
        publishes,
        commands,
        control,
        next_member: AtomicU64::new(0),
    })
}

struct Actor {
    log: Log,
    memory: Memory,
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
            let room = self.log.has_room();
            // All senders go together, so that one closed channel ends the task.
            select! {
                biased;
                () = timer.fired() => {}
                control = self.control.recv() => match control {
                    Some(control) => self.control(control),
                    None => return,
                },
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                publish = self.publishes.recv(), if room => match publish {
                    Some(publish) => self.accept(publish),
                    None => return,
                },
            }
            self.drain();
            let now = Instant::now();
            self.log.expire(now);
            self.dispatch(now);
            self.log.publish_waiting();
            timer.arm(self.log.next_deadline());
        }
    }

    /// Takes what else is there, so that entries go out in batches and nobody starves.
    fn drain(&mut self) {
        while let Ok(control) = self.control.try_recv() {
            self.control(control);
        }
        for _ in 0..BATCH {
            let Ok(command) = self.commands.try_recv() else {
                break;
            };
            self.obey(command);
        }
        for _ in 0..BATCH {
            if !self.log.has_room() {
                break;
            }
            let Ok(publish) = self.publishes.try_recv() else {
                break;
            };
            self.accept(publish);
        }
    }

    /// Stores a message, unless its publisher has given up: the reply decides it for both. Nobody
    /// can see the log between the reply and the push.
    fn accept(&mut self, publish: Publish) {
        let Some(print) = publish.print else {
            if publish.accepted.send(Published::new()).is_ok() {
                self.log.push(publish.envelope);
            }
            return;
        };
        let now = Instant::now();
        if self.log.knows(print, now) {
            // Who gave up does not hear that it was stored before, by another publish.
            let _ = publish.accepted.send(Published::duplicate());
        } else if publish.accepted.send(Published::new()).is_ok() {
            self.log.push(publish.envelope);
            self.log.remember(print, now);
        }
    }

    fn obey(&mut self, command: Command) {
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
                let settled = self.settle(token, verdict);
                if let Some(reply) = reply {
                    let _ = reply.send(settled);
                }
            }
        }
    }

    /// Settles a delivery. The effects of one that completed are on their way to the store before anybody can
    /// know of the completion.
    fn settle(&mut self, token: Token, verdict: Verdict) -> Result<(), Error> {
        let effects = match &verdict {
            Verdict::Commit(effects) => Some(effects.clone()),
            _ => None,
        };
        self.log.settle(token, verdict, Instant::now())?;
        if let Some(effects) = effects {
            self.memory.apply(effects);
        }
        Ok(())
    }

    // Who asked may be gone; then nobody misses the reply.
    fn control(&mut self, control: Control) {
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
                self.log.give_back(&unseen, Instant::now());
                if let Some(group) = self.log.leave(member) {
                    self.parked[group].retain(|fetch| fetch.member != member);
                }
            }
            Control::GiveBack(tokens) => self.log.give_back(&tokens, Instant::now()),
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
