//! A TCP proxy that does to a connection what networks do.
//!
//! Faults are set per direction, hold for all connections, also those that are there already, and are healed:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! use std::time::Duration;
//! use catga_testkit::proxy::{Direction, Fault, Proxy};
//!
//! # let server = tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
//! let proxy = Proxy::start(server, 7).await?;
//! // Clients connect to `proxy.address()`.
//! proxy.set(Direction::ToClient, Fault::Delay { by: Duration::from_millis(200), jitter: Duration::from_millis(50) });
//! proxy.set(Direction::ToServer, Fault::BlackHole);
//! proxy.heal();
//! # Ok(())
//! # }
//! ```

mod connection;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

impl Direction {
    fn opposite(self) -> Self {
        match self {
            Self::ToServer => Self::ToClient,
            Self::ToClient => Self::ToServer,
        }
    }
}

/// What happens to the bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    Pass,
    /// They arrive later, in their order.
    Delay {
        /// By this much,
        by: Duration,
        /// and up to this much more, drawn anew for each read.
        jitter: Duration,
    },
    /// They arrive slowly.
    Throttle {
        /// So many in a second.
        bytes_per_second: u32,
    },
    /// None arrives, nor the end of the connection: no FIN, no RST. What was sent meanwhile arrives when it is healed, as TCP
    /// sends again what was lost.
    BlackHole,
    /// The connection that brings this many more bytes ends before the next one; once, then they pass.
    CutAfter(u64),
    /// One bit of the byte after this many more is flipped; once, then they pass.
    CorruptAfter(u64),
}

/// What happens to those who connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// They get to the server.
    #[default]
    Open,
    /// They are refused: nobody listens.
    Refuse,
    /// They are accepted, and nothing answers.
    Silent,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    /// Where new connections lead.
    server: SocketAddr,
    to_server: Fault,
    to_client: Fault,
    gate: Gate,
    /// How often all connections were reset.
    resets: u64,
}

impl Settings {
    fn healthy(server: SocketAddr, resets: u64) -> Self {
        Self {
            server,
            to_server: Fault::Pass,
            to_client: Fault::Pass,
            gate: Gate::Open,
            resets,
        }
    }

    fn fault(&self, direction: Direction) -> Fault {
        match direction {
            Direction::ToServer => self.to_server,
            Direction::ToClient => self.to_client,
        }
    }

    fn fault_mut(&mut self, direction: Direction) -> &mut Fault {
        match direction {
            Direction::ToServer => &mut self.to_server,
            Direction::ToClient => &mut self.to_client,
        }
    }
}

/// What the connections of a proxy share.
#[derive(Debug)]
struct Shared {
    settings: watch::Sender<Settings>,
    passed: [AtomicU64; 2],
    connections: AtomicU64,
    /// Where the connections to the server come from.
    upstream: watch::Sender<BTreeSet<SocketAddr>>,
    seed: u64,
}

impl Shared {
    fn passed(&self, direction: Direction) -> &AtomicU64 {
        &self.passed[usize::from(direction == Direction::ToClient)]
    }
}

/// A proxy in front of a server. It ends with its value, and all its connections with it.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _connections: JoinSet<()>,
}

impl Proxy {
    /// Listens on a free port of the loopback. The seed decides what chance does: jitter, and which bit is flipped.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(server: SocketAddr, seed: u64) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            settings: watch::Sender::new(Settings::healthy(server, 0)),
            passed: Default::default(),
            connections: AtomicU64::new(0),
            upstream: watch::Sender::default(),
            seed,
        });
        let mut connections = JoinSet::new();
        connections.spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self {
            address,
            shared,
            _connections: connections,
        })
    }

    /// As [`start`](Self::start), in front of a server that is not there yet: one that tells its clients of the proxy,
    /// and so has to be started after it. Then [`forward_to`](Self::forward_to) it.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn ahead(seed: u64) -> io::Result<Self> {
        // Nobody listens there.
        Self::start((Ipv4Addr::LOCALHOST, 1).into(), seed).await
    }

    /// Where clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where new connections lead from now on: a server that advertises the proxy is started after it.
    pub fn forward_to(&self, server: SocketAddr) {
        let change = |settings: &mut Settings| settings.server = server;
        self.shared.settings.send_modify(change);
    }

    /// What happens from now on to the bytes of one direction.
    pub fn set(&self, direction: Direction, fault: Fault) {
        let change = |settings: &mut Settings| *settings.fault_mut(direction) = fault;
        self.shared.settings.send_modify(change);
    }

    /// What happens from now on to the bytes of both directions.
    pub fn set_both(&self, fault: Fault) {
        self.set(Direction::ToServer, fault);
        self.set(Direction::ToClient, fault);
    }

    /// What happens from now on to those who connect. Connections that are there stay.
    pub fn gate(&self, gate: Gate) {
        self.shared
            .settings
            .send_modify(|settings| settings.gate = gate);
    }

    /// Resets all connections (RST).
    pub fn reset(&self) {
        self.shared
            .settings
            .send_modify(|settings| settings.resets += 1);
    }

    /// Heals everything.
    pub fn heal(&self) {
        self.shared.settings.send_modify(|settings| {
            *settings = Settings::healthy(settings.server, settings.resets);
        });
    }

    /// What happens to the bytes of one direction: a fault that happens once is gone when it has happened.
    #[must_use]
    pub fn fault(&self, direction: Direction) -> Fault {
        self.shared.settings.borrow().fault(direction)
    }

    /// How many bytes have passed in one direction.
    #[must_use]
    pub fn passed(&self, direction: Direction) -> u64 {
        self.shared.passed(direction).load(Ordering::Relaxed)
    }

    /// Where the server sees connections of this proxy come from: whatever else it sees walked around it.
    #[must_use]
    pub fn upstream(&self) -> BTreeSet<SocketAddr> {
        self.shared.upstream.borrow().clone()
    }

    /// How many connections have been accepted.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("address", &self.address)
            .field("settings", &*self.shared.settings.borrow())
            .finish_non_exhaustive()
    }
}

/// Accepts as the gate says, until it is dropped, and all connections with it.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let address = listener.local_addr().expect("it listens");
    let mut listener = Some(listener);
    let mut settings = shared.settings.subscribe();
    let mut connections = JoinSet::new();
    loop {
        let Settings { server, gate, .. } = *settings.borrow_and_update();
        if gate == Gate::Refuse {
            listener = None;
        } else if listener.is_none() {
            // The port may be taken for a moment by a connection that ends.
            listener = TcpListener::bind(address).await.ok();
        }
        let Some(listening) = &listener else {
            let again = tokio::time::sleep(Duration::from_millis(5));
            tokio::select! {
                biased;
                changed = settings.changed() => if changed.is_err() { return },
                () = again, if gate != Gate::Refuse => {}
            }
            continue;
        };
        tokio::select! {
            biased;
            changed = settings.changed() => if changed.is_err() { return },
            accepted = listening.accept() => {
                let Ok((client, _)) = accepted else { continue };
                let number = shared.connections.fetch_add(1, Ordering::Relaxed);
                connections.spawn(serve(client, server, gate, number, Arc::clone(&shared)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(
    client: TcpStream,
    server: SocketAddr,
    gate: Gate,
    number: u64,
    shared: Arc<Shared>,
) {
    if gate == Gate::Silent {
        // Until it is reset, or the proxy ends.
        connection::silent(&client, &shared).await;
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else {
        // As if the server were there no more.
        return;
    };
    let Ok(from) = server.local_addr() else {
        return;
    };
    let _upstream = Upstream::new(&shared, from);
    connection::run(client, server, number, &shared).await;
}

/// A connection to the server, for as long as it is there.
struct Upstream<'a>(&'a Shared, SocketAddr);

impl<'a> Upstream<'a> {
    fn new(shared: &'a Shared, from: SocketAddr) -> Self {
        shared.upstream.send_modify(|all| {
            all.insert(from);
        });
        Self(shared, from)
    }
}

impl Drop for Upstream<'_> {
    fn drop(&mut self) {
        self.0.upstream.send_modify(|all| {
            all.remove(&self.1);
        });
    }
}

#[cfg(test)]
mod tests;
