//! A Redis Cluster: three primaries, each with a replica.

use super::daemon::TRIES;
use super::resp::field;
use super::wait::{free_port, wait_for};
use super::{RedisOptions, RedisServer, Role, Server, ServerError};
use crate::proxy::Proxy;

/// The hash slots of a cluster.
const SLOTS: u32 = 16_384;

/// Three primaries that share the slots, and a replica of each.
#[derive(Debug)]
pub struct RedisCluster {
    /// The primaries of the beginning, then the replicas in their order.
    servers: Vec<RedisServer>,
    /// Where they talk to each other.
    buses: Vec<u16>,
}

impl RedisCluster {
    /// How many primaries there are.
    pub const PRIMARIES: usize = 3;
    /// How many servers there are: each primary has a replica.
    pub const SERVERS: usize = 2 * Self::PRIMARIES;

    /// Starts six servers, and waits until all slots are served and each primary has its replica.
    ///
    /// # Errors
    /// When there is no server, or they do not become a cluster.
    pub fn start(options: &RedisOptions) -> Result<Self, ServerError> {
        Self::run(options, [None; Self::SERVERS])
    }

    /// As [`start`](Self::start), each server behind a proxy: it is the proxies' addresses that the servers tell clients
    /// of, who so do not walk around them. The replicas come through them, too; the servers see whether others are
    /// alive on a way of their own, and fail over when one is dead, not when its proxy is.
    ///
    /// The proxies have to run meanwhile, on another thread than this blocks.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn behind(
        options: &RedisOptions,
        proxies: &[Proxy; Self::SERVERS],
    ) -> Result<Self, ServerError> {
        Self::run(options, proxies.each_ref().map(Some))
    }

    fn run(
        options: &RedisOptions,
        proxies: [Option<&Proxy>; Self::SERVERS],
    ) -> Result<Self, ServerError> {
        let options = options
            .clone()
            .setting("cluster-enabled", "yes")
            // On a busy machine one that is alive may say nothing for a second, or two.
            .setting("cluster-node-timeout", "3000");
        let (mut servers, mut buses) = (Vec::new(), Vec::new());
        for proxy in proxies {
            let (server, bus) = Self::one(&options, proxy)?;
            if let Some(proxy) = proxy {
                proxy.forward_to(server.address());
            }
            servers.push(server);
            buses.push(bus);
        }
        let cluster = Self { servers, buses };
        cluster.join()?;
        Ok(cluster)
    }

    /// One server, and the port where it talks to the others: another one, when somebody else took that.
    fn one(
        options: &RedisOptions,
        proxy: Option<&Proxy>,
    ) -> Result<(RedisServer, u16), ServerError> {
        let mut tries = 1..TRIES;
        loop {
            // Else it is that of clients and 10,000, which there may not be.
            let bus = free_port()?;
            let mut options = options.clone().setting("cluster-port", &bus.to_string());
            if let Some(proxy) = proxy {
                options = announcing(options, proxy, bus);
            }
            match RedisServer::with(&options) {
                Ok(server) => return Ok((server, bus)),
                Err(error) if tries.next().is_none() || !error.says_a_port_was_taken() => {
                    return Err(error);
                }
                Err(_) => {}
            }
        }
    }

    fn join(&self) -> Result<(), ServerError> {
        let (primaries, replicas) = self.servers.split_at(Self::PRIMARIES);
        let mut from = 0;
        for (server, share) in primaries.iter().zip(1..) {
            let to = SLOTS * share / 3;
            server.ask(&format!("CLUSTER ADDSLOTSRANGE {from} {}", to - 1))?;
            server.ask(&format!("CLUSTER SET-CONFIG-EPOCH {share}"))?;
            from = to;
        }
        for server in &self.servers[1..] {
            let (port, bus) = (self.servers[0].port(), self.buses[0]);
            server.ask(&format!("CLUSTER MEET 127.0.0.1 {port} {bus}"))?;
        }
        self.wait_for("all know each other", |info| {
            field(info, "cluster_known_nodes") == Some("6")
        })?;
        for (primary, replica) in primaries.iter().zip(replicas) {
            let id = primary.ask("CLUSTER MYID")?;
            wait_for("a replica finds its primary", || {
                // Not before it has heard of it.
                Ok(replica.ask(&format!("CLUSTER REPLICATE {id}")).ok())
            })?;
        }
        self.wait_for("all slots are served", |info| {
            field(info, "cluster_state") == Some("ok")
        })?;
        wait_for("the replicas follow", || {
            let follows = |replica: &RedisServer| {
                let info = replica.ask("INFO replication");
                info.is_ok_and(|info| field(&info, "master_link_status") == Some("up"))
            };
            Ok(replicas.iter().all(follows).then_some(()))
        })
    }

    /// Waits until all servers that run say so.
    fn wait_for(&self, what: &str, holds: impl Fn(&str) -> bool) -> Result<(), ServerError> {
        wait_for(what, || {
            let mut running = self.servers.iter().filter(|server| server.is_alive());
            let all = running.all(|server| {
                let info = server.ask("CLUSTER INFO");
                info.is_ok_and(|info| holds(&info))
            });
            Ok(all.then_some(()))
        })
    }

    /// The servers: three that were the primaries in the beginning, then their replicas.
    #[must_use]
    pub fn servers(&self) -> &[RedisServer] {
        &self.servers
    }

    /// One of them, to kill, pause or restart it.
    ///
    /// # Panics
    /// When there is no such server: there are six.
    pub fn server_mut(&mut self, index: usize) -> &mut RedisServer {
        &mut self.servers[index]
    }

    /// The other of a primary and its replica.
    ///
    /// # Panics
    /// When there is no such server: there are six.
    pub fn other_mut(&mut self, index: usize) -> &mut RedisServer {
        &mut self.servers[(index + Self::PRIMARIES) % Self::SERVERS]
    }

    /// Where clients reach the servers, as URLs.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(RedisServer::url).collect()
    }

    /// Waits until the other of a primary and its replica is the primary, and all slots are served.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_for_fail_over(&self, primary: usize) -> Result<usize, ServerError> {
        let replica = (primary + Self::PRIMARIES) % Self::SERVERS;
        wait_for("the replica takes over", || {
            let role = self.servers[replica].role().ok();
            Ok((role == Some(Role::Primary)).then_some(()))
        })?;
        self.wait_for("all slots are served", |info| {
            field(info, "cluster_state") == Some("ok")
        })?;
        Ok(replica)
    }

    /// Which server has a key and takes writes.
    ///
    /// # Errors
    /// When none does in time.
    pub fn server_of(&self, key: &str) -> Result<usize, ServerError> {
        wait_for(&format!("a server has `{key}`"), || {
            let has = |server: &RedisServer| {
                // The others say where it is; a replica says so, too.
                server.is_alive() && server.ask(&format!("EXISTS {key}")).is_ok()
            };
            Ok(self.servers.iter().position(has))
        })
    }

    /// Starts a server again that was killed, and waits until it follows the one that took its place.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn bring_back(&mut self, index: usize) -> Result<(), ServerError> {
        self.servers[index].restart()?;
        wait_for("it follows who took its place", || {
            let info = self.servers[index].ask("INFO replication");
            let follows = info.is_ok_and(|info| field(&info, "master_link_status") == Some("up"));
            Ok(follows.then_some(()))
        })?;
        self.wait_for("all slots are served", |info| {
            field(info, "cluster_state") == Some("ok")
        })
    }

    /// How many of the replicas of the beginning are primaries now.
    ///
    /// # Errors
    /// When one does not answer.
    pub fn fail_overs(&self) -> Result<usize, ServerError> {
        let replicas = self.servers[Self::PRIMARIES..].iter();
        let roles: Result<Vec<_>, _> = replicas.map(RedisServer::role).collect();
        let is_primary = |role: &Role| *role == Role::Primary;
        Ok(roles?.into_iter().filter(is_primary).count())
    }

    /// Who is what, for the log of a test.
    #[must_use]
    pub fn roles(&self) -> String {
        let roles: Vec<_> = self.servers.iter().map(RedisServer::shown_role).collect();
        roles.join(" ")
    }
}

/// With the address of a proxy for clients and replicas, and the server's own for the talk of the servers.
fn announcing(options: RedisOptions, proxy: &Proxy, bus: u16) -> RedisOptions {
    let address = proxy.address();
    options
        .setting("cluster-announce-ip", &address.ip().to_string())
        .setting("cluster-announce-port", &address.port().to_string())
        .setting("cluster-announce-bus-port", &bus.to_string())
        .announced_at(address)
}
