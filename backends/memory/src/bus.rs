//! The bus that the connections of one name share.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use catga_core::{Error, Name};
use tokio::sync::{mpsc, oneshot};

use crate::closed::Closed;
use crate::desk::Desk;
use crate::error;
use crate::inbox_store;
use crate::keeper::{self, Tables};
use crate::members;
use crate::options::{Asked, Settings};
use crate::store::Memory;
use crate::stream::Stream;

/// The named buses of this process, by namespace and name.
#[allow(
    clippy::disallowed_types,
    reason = "locked when somebody connects, never for a message"
)]
static BUSES: std::sync::Mutex<BTreeMap<(Name, Name), Weak<Bus>>> =
    std::sync::Mutex::new(BTreeMap::new());

/// The bus that a URL means, made when it is not there.
///
/// A bus whose runtime is gone counts as not there: its tasks are dead and will not come back.
pub(crate) fn find_or_make(asked: &Asked, namespace: &Name) -> Result<Arc<Bus>, Error> {
    let Some(name) = &asked.bus else {
        return Ok(Bus::spawn(asked.settings()));
    };
    let mut buses = BUSES
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    buses.retain(|_, bus| bus.strong_count() > 0);
    let key = (namespace.clone(), name.clone());
    if let Some(bus) = buses.get(&key).and_then(Weak::upgrade)
        && !bus.is_dead()
    {
        asked.check(&bus.settings)?;
        return Ok(bus);
    }
    let bus = Bus::spawn(asked.settings());
    buses.insert(key, Arc::downgrade(&bus));
    Ok(bus)
}

/// What the connections share. Its tasks end when the last holder of it is gone.
#[derive(Debug)]
pub(crate) struct Bus {
    pub(crate) settings: Settings,
    pub(crate) tables: Arc<Tables>,
    pub(crate) keeper: mpsc::UnboundedSender<keeper::Command>,
    pub(crate) members: mpsc::Sender<members::Command>,
    pub(crate) inbox: mpsc::Sender<inbox_store::Command>,
    /// What handlers commit, by the logs and by the inbox.
    pub(crate) memory: Memory,
}

impl Bus {
    fn spawn(settings: Settings) -> Arc<Self> {
        let tables = Arc::new(Tables::default());
        let memory = Memory::spawn();
        Arc::new(Self {
            settings,
            keeper: keeper::spawn(settings, Arc::clone(&tables), memory.clone()),
            members: members::spawn(),
            inbox: inbox_store::spawn(settings, memory.clone()),
            tables,
            memory,
        })
    }

    /// Whether the tasks of the bus ended without its asking.
    pub(crate) fn is_dead(&self) -> bool {
        self.keeper.is_closed()
    }

    /// Asks the owner of the tables.
    pub(crate) async fn ask<T>(
        &self,
        operation: &'static str,
        command: impl FnOnce(oneshot::Sender<T>) -> keeper::Command,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.keeper
            .send(command(reply))
            .map_err(|_| error::gone(operation))?;
        answer.await.map_err(|_| error::gone(operation))
    }

    /// The stream of a message name, made when it is not there.
    pub(crate) async fn stream(
        &self,
        operation: &'static str,
        name: &Name,
    ) -> Result<Arc<Stream>, Error> {
        if let Some(stream) = self.tables.streams.load().get(name) {
            return Ok(Arc::clone(stream));
        }
        self.ask(operation, |reply| keeper::Command::Stream {
            name: name.clone(),
            reply,
        })
        .await
    }

    /// The desk of a request name, made when it is not there.
    pub(crate) async fn desk(
        &self,
        operation: &'static str,
        name: &Name,
    ) -> Result<Arc<Desk>, Error> {
        self.ask(operation, |reply| keeper::Command::Desk {
            name: name.clone(),
            reply,
        })
        .await
    }
}

/// One connection to a bus, shared by all that came from it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) bus: Arc<Bus>,
    pub(crate) closed: Closed,
}

impl Connection {
    pub(crate) fn new(bus: Arc<Bus>) -> Self {
        Self {
            bus,
            closed: Closed::default(),
        }
    }

    /// Refuses what is asked of a connection that was closed, or whose bus is dead.
    pub(crate) fn check_open(&self, operation: &'static str) -> Result<(), Error> {
        if self.closed.is_raised() {
            Err(error::closed(operation))
        } else if self.bus.is_dead() {
            Err(error::gone(operation))
        } else {
            Ok(())
        }
    }
}
