//! The inbox of a bus, for requests and for whoever moves messages elsewhere.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use catga_core::{
    Claim, ClaimEnd, ClaimOutcome, Effects, Error, InboxKey, InboxStore, Name, Owner, Reply,
    async_trait,
};
use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::bus::Connection;
use crate::error;
use crate::inbox::{Claimed, Inbox, Lost, Response};
use crate::options::Settings;
use crate::store::{self, Memory};
use crate::timer::{FAR, Timer};

/// How many commands wait before their senders do.
const QUEUE: usize = 1024;

/// What is asked of the owner of a bus's inbox.
#[derive(Debug)]
pub(crate) enum Command {
    Claim {
        key: InboxKey,
        owner: Owner,
        lease: Duration,
        generation: u32,
        reply: oneshot::Sender<ClaimOutcome>,
    },
    Settle {
        key: InboxKey,
        owner: Owner,
        how: Settle,
        reply: oneshot::Sender<Result<(), Lost>>,
    },
}

/// What is asked for a claim that is held.
#[derive(Debug)]
pub(crate) enum Settle {
    Renew(Duration),
    Complete {
        response: Option<Reply>,
        effects: Option<Effects>,
    },
    Release(ClaimEnd),
}

/// Starts the task that owns the inbox. It ends when all senders are gone.
pub(crate) fn spawn(settings: Settings, memory: Memory) -> mpsc::Sender<Command> {
    let (commands, queue) = mpsc::channel(QUEUE);
    let actor = Actor {
        settings,
        memory,
        inboxes: BTreeMap::new(),
    };
    tokio::spawn(actor.run(queue));
    commands
}

struct Actor {
    settings: Settings,
    memory: Memory,
    /// By message name, so that one that is busy does not push the ids of others out.
    inboxes: BTreeMap<Name, Inbox<InboxKey, Owner>>,
}

impl Actor {
    async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut timer = Timer::new();
        loop {
            select! {
                biased;
                () = timer.fired() => {
                    let now = Instant::now();
                    self.inboxes.values_mut().for_each(|inbox| inbox.expire(now));
                    let deadlines = self.inboxes.values().filter_map(Inbox::next_deadline);
                    timer.arm(deadlines.min());
                }
                command = queue.recv() => match command {
                    Some(command) => timer.arm(self.obey(command)),
                    None => return,
                },
            }
        }
    }

    /// Does as told, and says when there is something to do next.
    // Who asked may be gone; then nobody misses the reply, and the claim ends with its lease.
    fn obey(&mut self, command: Command) -> Option<Instant> {
        let now = Instant::now();
        match command {
            Command::Claim {
                key,
                owner,
                lease,
                generation,
                reply,
            } => {
                let inbox = self.inbox(&key.message);
                let lease = Some(now + lease.min(FAR));
                let claimed = inbox.claim(&key, owner, lease, generation, now);
                let deadline = inbox.next_deadline();
                let _ = reply.send(outcome(claimed, key, owner, generation, now));
                deadline
            }
            Command::Settle {
                key,
                owner,
                how,
                reply,
            } => {
                let inbox = self.inbox(&key.message);
                let (settled, effects) = match how {
                    Settle::Renew(lease) => {
                        let lease = now + lease.min(FAR);
                        (inbox.renew(&key, owner, lease, now), None)
                    }
                    Settle::Release(end) => (inbox.release(&key, owner, end, now), None),
                    Settle::Complete { response, effects } => {
                        match inbox.complete(&key, owner, response, now) {
                            Ok(true) => (Ok(()), effects),
                            // Applied when it completed.
                            Ok(false) => (Ok(()), None),
                            Err(lost) => (Err(lost), None),
                        }
                    }
                };
                let deadline = inbox.next_deadline();
                if let Some(effects) = effects {
                    self.memory.apply(effects);
                }
                let _ = reply.send(settled);
                deadline
            }
        }
    }

    fn inbox(&mut self, message: &Name) -> &mut Inbox<InboxKey, Owner> {
        let Settings { inbox, limits, .. } = self.settings;
        self.inboxes
            .entry(message.clone())
            .or_insert_with(|| Inbox::new(message.clone(), limits, inbox))
    }
}

fn outcome(
    claimed: Claimed,
    key: InboxKey,
    owner: Owner,
    generation: u32,
    now: Instant,
) -> ClaimOutcome {
    match claimed {
        Claimed::Granted {
            attempt,
            may_have_run,
        } => ClaimOutcome::Granted(
            // The owner alone tells claims apart here.
            Claim::new(key, owner, 1)
                .with_generation(generation)
                .with_attempt(attempt, may_have_run),
        ),
        Claimed::Running { until } => ClaimOutcome::Running {
            retry_after: until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now)),
        },
        Claimed::Completed(response) => ClaimOutcome::Completed {
            response_dropped: response == Response::Dropped,
            response: match response {
                Response::Kept(reply) => Some(*reply),
                Response::None | Response::Dropped => None,
            },
        },
        Claimed::Dead { generation } => ClaimOutcome::Dead { generation },
    }
}

/// A connection's way to the inbox of its bus.
#[derive(Debug)]
pub(crate) struct MemoryInbox {
    connection: Arc<Connection>,
}

impl MemoryInbox {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self { connection }
    }

    async fn ask<T>(
        &self,
        operation: &'static str,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Error> {
        self.connection.check_open(operation)?;
        let (reply, answer) = oneshot::channel();
        let sent = self.connection.bus.inbox.send(command(reply)).await;
        sent.map_err(|_| error::gone(operation))?;
        answer.await.map_err(|_| error::gone(operation))
    }

    async fn settle(
        &self,
        operation: &'static str,
        claim: &Claim,
        how: Settle,
    ) -> Result<(), Error> {
        let settled = self.ask(operation, |reply| Command::Settle {
            key: claim.key.clone(),
            owner: claim.owner,
            how,
            reply,
        });
        settled.await?.map_err(|Lost| error::lost_claim(operation))
    }
}

#[async_trait]
impl InboxStore for MemoryInbox {
    async fn claim(
        &self,
        key: &InboxKey,
        owner: Owner,
        lease: Duration,
        generation: u32,
    ) -> Result<ClaimOutcome, Error> {
        self.ask("claim", |reply| Command::Claim {
            key: key.clone(),
            owner,
            lease,
            generation,
            reply,
        })
        .await
    }

    async fn renew(&self, claim: &mut Claim, lease: Duration) -> Result<(), Error> {
        self.settle("renew", claim, Settle::Renew(lease)).await
    }

    async fn complete(
        &self,
        claim: &Claim,
        response: Option<&Reply>,
        effects: Option<&Effects>,
    ) -> Result<(), Error> {
        store::check("complete", effects)?;
        let how = Settle::Complete {
            response: response.cloned(),
            effects: effects.cloned(),
        };
        self.settle("complete", claim, how).await
    }

    async fn release(&self, claim: &Claim, end: ClaimEnd) -> Result<(), Error> {
        self.settle("release", claim, Settle::Release(end)).await
    }

    fn commit_store(&self) -> Option<&(dyn Any + Send + Sync)> {
        Some(&self.connection.bus.memory)
    }
}
