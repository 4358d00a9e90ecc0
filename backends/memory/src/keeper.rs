//! The one task that owns the tables of a bus; everybody else reads them without a lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::ArcSwap;
use catga_core::Name;
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;

use crate::desk::{self, Desk};
use crate::options::Settings;
use crate::ring::{Ring, Topic};
use crate::stream::{self, Stream};

type Topics = HashMap<Name, Topic>;

/// What publishers and callers look up by message name.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    /// QoS 0 subscribers.
    pub(crate) topics: ArcSwap<Topics>,
    /// QoS 1 logs, kept for the life of the bus.
    pub(crate) streams: ArcSwap<HashMap<Name, Arc<Stream>>>,
    /// Requests that somebody serves or served.
    pub(crate) desks: ArcSwap<HashMap<Name, Arc<Desk>>>,
}

/// What the owner of the tables is asked for.
#[derive(Debug)]
pub(crate) enum Command {
    /// Put a ring into the table.
    Join {
        message: Name,
        group: Option<Name>,
        ring: Arc<Ring>,
        reply: oneshot::Sender<()>,
    },
    /// Take it out; what it holds goes to another member of its group.
    Leave {
        message: Name,
        group: Option<Name>,
        ring: Arc<Ring>,
        reply: oneshot::Sender<()>,
    },
    /// Find or make a stream.
    Stream {
        name: Name,
        reply: oneshot::Sender<Arc<Stream>>,
    },
    /// Find or make a desk.
    Desk {
        name: Name,
        reply: oneshot::Sender<Arc<Desk>>,
    },
}

/// Starts the task. It ends when all senders are gone.
///
/// The channel has no bound because `Drop` cannot wait for one; a subscription sends twice in its
/// life and everybody else waits for the reply.
pub(crate) fn spawn(settings: Settings, tables: Arc<Tables>) -> mpsc::UnboundedSender<Command> {
    let (commands, mut queue) = mpsc::unbounded_channel();
    let keeper = Keeper {
        settings,
        tables,
        letter_numbers: Arc::default(),
    };
    tokio::spawn(async move {
        while let Some(command) = queue.recv().await {
            keeper.obey(command).await;
        }
    });
    commands
}

struct Keeper {
    settings: Settings,
    tables: Arc<Tables>,
    /// Numbers the dead letters of all streams by age.
    letter_numbers: Arc<AtomicU64>,
}

impl Keeper {
    async fn obey(&self, command: Command) {
        // Who asked may have given up; the tables are right all the same.
        match command {
            Command::Join {
                message,
                group,
                ring,
                reply,
            } => {
                let mut topics = Topics::clone(&self.tables.topics.load());
                topics
                    .entry(message)
                    .or_default()
                    .join(group.as_ref(), ring);
                self.tables.topics.store(Arc::new(topics));
                let _ = reply.send(());
            }
            Command::Leave {
                message,
                group,
                ring,
                reply,
            } => {
                self.leave(&message, group.as_ref(), &ring).await;
                let _ = reply.send(());
            }
            Command::Stream { name, reply } => {
                let stream = find_or_add(&self.tables.streams, &name, || {
                    stream::spawn(
                        name.clone(),
                        self.settings,
                        Arc::clone(&self.letter_numbers),
                    )
                });
                let _ = reply.send(stream);
            }
            Command::Desk { name, reply } => {
                let desk = find_or_add(&self.tables.desks, &name, || {
                    desk::spawn(name.clone(), self.settings.capacity)
                });
                let _ = reply.send(desk);
            }
        }
    }

    async fn leave(&self, message: &Name, group: Option<&Name>, ring: &Arc<Ring>) {
        let mut topics = Topics::clone(&self.tables.topics.load());
        if let Some(topic) = topics.get_mut(message) {
            topic.leave(ring);
            if topic.is_empty() {
                topics.remove(message);
            }
        }
        let heirs = group.and_then(|group| Some((topics.get(message)?.clone(), group)));
        let mut old = self.tables.topics.swap(Arc::new(topics));
        let Some((topic, group)) = heirs else { return };
        // A publisher may still be pushing by the old table. It holds the table no longer than that
        // takes, and `swap` has turned every such hold into a count, so that the ring is quiet
        // once the old table is ours alone.
        while let Err(shared) = Arc::try_unwrap(old) {
            old = shared;
            yield_now().await;
        }
        while let (Some(heir), Some(envelope)) = (topic.member(group), ring.pop()) {
            heir.push(envelope);
        }
    }
}

fn find_or_add<T>(
    table: &ArcSwap<HashMap<Name, Arc<T>>>,
    name: &Name,
    make: impl FnOnce() -> Arc<T>,
) -> Arc<T> {
    let present = table.load();
    if let Some(found) = present.get(name) {
        return Arc::clone(found);
    }
    let added = make();
    let mut changed = HashMap::clone(&present);
    changed.insert(name.clone(), Arc::clone(&added));
    table.store(Arc::new(changed));
    added
}
