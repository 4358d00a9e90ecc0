//! The one task that owns the tables of a bus; everybody else reads them without a lock.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::ArcSwap;
use catga_core::Name;
use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, oneshot};

use crate::desk::{self, Desk};
use crate::options::Settings;
use crate::ring::{Ring, Topic};
use crate::store::Memory;
use crate::stream::{self, Stream};
use crate::sync::yield_now;

/// By names of this program, which need no protection by a slow hash.
type ByName<T> = FxHashMap<Name, T>;

type Topics = ByName<Topic>;

/// What publishers and callers look up by message name.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    /// QoS 0 subscribers.
    pub(crate) topics: ArcSwap<Topics>,
    /// QoS 1 and 2 logs, kept for the life of the bus.
    pub(crate) streams: ArcSwap<ByName<Arc<Stream>>>,
    /// Requests that somebody serves or served.
    pub(crate) desks: ArcSwap<ByName<Arc<Desk>>>,
}

/// By the one task that changes them.
impl Tables {
    /// Puts a ring in: when this returns, it gets what is published.
    pub(crate) async fn join(&self, message: Name, group: Option<&Name>, ring: Arc<Ring>) {
        let mut topics = Topics::clone(&self.topics.load());
        topics.entry(message).or_default().join(group, ring);
        self.replace(topics).await;
    }

    /// Takes a ring out; what it holds goes to the other members of its group, and is dropped where there are none.
    pub(crate) async fn leave(&self, message: &Name, group: Option<&Name>, ring: &Arc<Ring>) {
        let mut topics = Topics::clone(&self.topics.load());
        if let Some(topic) = topics.get_mut(message) {
            topic.leave(ring);
            if topic.is_empty() {
                topics.remove(message);
            }
        }
        let heirs = group.and_then(|group| Some((topics.get(message)?.clone(), group)));
        self.replace(topics).await;
        if let Some((topic, group)) = heirs {
            while let (Some(heir), Some(envelope)) = (topic.member(group), ring.pop()) {
                heir.push(envelope);
            }
        }
        ring.drop_rest();
    }

    /// Puts a new table in place and waits until nobody publishes by the old one.
    ///
    /// A publisher holds the table no longer than its pushes take, and `swap` has turned every such
    /// hold into a count: once the old table is ours alone, rings that are not in the new one are
    /// quiet. Every change waits, so that there is never a table older than the old one.
    async fn replace(&self, topics: Topics) {
        let mut old = self.topics.swap(Arc::new(topics));
        while let Err(shared) = Arc::try_unwrap(old) {
            old = shared;
            yield_now().await;
        }
    }
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
pub(crate) fn spawn(
    settings: Settings,
    tables: Arc<Tables>,
    memory: Memory,
) -> mpsc::UnboundedSender<Command> {
    let (commands, mut queue) = mpsc::unbounded_channel();
    let keeper = Keeper {
        settings,
        tables,
        memory,
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
    memory: Memory,
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
                self.tables.join(message, group.as_ref(), ring).await;
                let _ = reply.send(());
            }
            Command::Leave {
                message,
                group,
                ring,
                reply,
            } => {
                self.tables.leave(&message, group.as_ref(), &ring).await;
                let _ = reply.send(());
            }
            Command::Stream { name, reply } => {
                let stream = find_or_add(&self.tables.streams, &name, || {
                    stream::spawn(
                        name.clone(),
                        self.settings,
                        Arc::clone(&self.letter_numbers),
                        self.memory.clone(),
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
}

fn find_or_add<T>(
    table: &ArcSwap<ByName<Arc<T>>>,
    name: &Name,
    make: impl FnOnce() -> Arc<T>,
) -> Arc<T> {
    let present = table.load();
    if let Some(found) = present.get(name) {
        return Arc::clone(found);
    }
    let added = make();
    let mut changed = ByName::clone(&present);
    changed.insert(name.clone(), Arc::clone(&added));
    table.store(Arc::new(changed));
    added
}

#[cfg(test)]
mod tests {
    use catga_core::{Bytes, Envelope, QoS};

    use super::*;

    const MESSAGE: Name = Name::from_static("orders.created");
    const GROUP: Name = Name::from_static("g");

    async fn join(keeper: &mpsc::UnboundedSender<Command>) -> Arc<Ring> {
        let ring = Arc::new(Ring::new(8));
        let (reply, joined) = oneshot::channel();
        let join = Command::Join {
            message: MESSAGE,
            group: Some(GROUP),
            ring: Arc::clone(&ring),
            reply,
        };
        keeper.send(join).unwrap();
        joined.await.unwrap();
        ring
    }

    #[tokio::test]
    async fn a_publisher_with_the_old_table_loses_nothing() {
        let tables = Arc::new(Tables::default());
        let keeper = spawn(Settings::default(), Arc::clone(&tables), Memory::spawn());
        let leaves = join(&keeper).await;
        let stays = join(&keeper).await;
        let (reply, mut left) = oneshot::channel();
        let leave = Command::Leave {
            message: MESSAGE,
            group: Some(GROUP),
            ring: Arc::clone(&leaves),
            reply,
        };
        let publisher = tables.topics.load();
        keeper.send(leave).unwrap();
        for _ in 0..10 {
            yield_now().await;
        }
        assert!(left.try_recv().is_err(), "the old table is still in use");
        let mut envelope = Envelope::received(MESSAGE, QoS::AtMostOnce, Bytes::new());
        // In turn, so that one of the two goes into the ring that leaves.
        publisher[&MESSAGE].publish(&mut envelope);
        publisher[&MESSAGE].publish(&mut envelope);
        drop(publisher);
        left.await.unwrap();
        assert!(leaves.pop().is_none());
        assert!(stays.pop().is_some() && stays.pop().is_some());
    }
}
