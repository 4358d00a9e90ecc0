//! A primary, its replica, and sentinels that put the one in the place of the other.

use std::fs;
use std::net::SocketAddr;

use tempfile::TempDir;

use super::daemon::start;
use super::resp::{ask, field};
use super::wait::{free_port, loopback, wait_for};
use super::{Process, RedisOptions, RedisServer, Role, Server, ServerError, redis_server};
use crate::proxy::Proxy;

/// What the sentinels call the primary.
const NAME: &str = "catga";

/// What a sentinel logs when somebody else has.
const TAKEN: &str = "Address already in use";

/// A primary, a replica, and three sentinels of which two have to agree.
#[derive(Debug)]
pub struct RedisSentinel {
    servers: [RedisServer; 2],
    sentinels: Vec<Sentinel>,
    folder: TempDir,
}

#[derive(Debug)]
struct Sentinel {
    port: u16,
    /// Where clients reach it.
    announced: SocketAddr,
    process: Process,
}

impl RedisSentinel {
    /// How many sentinels there are.
    pub const SENTINELS: usize = 3;
    /// How many servers and sentinels there are.
    pub const PROXIES: usize = 2 + Self::SENTINELS;

    /// Starts all five, and waits until the replica follows and the sentinels know of each other.
    ///
    /// # Errors
    /// When there is no server, or they do not find each other.
    pub fn start(options: &RedisOptions) -> Result<Self, ServerError> {
        Self::started(options, [None; Self::PROXIES])
    }

    /// As [`start`](Self::start), each behind a proxy: first the primary's, then the replica's, then those of the
    /// sentinels. It is the proxies' addresses that clients are told of, who so do not walk around them; nor do the
    /// replica and the sentinels, for whom a server is down when its proxy is.
    ///
    /// The proxies have to run meanwhile, on another thread than this blocks.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn behind(
        options: &RedisOptions,
        proxies: &[Proxy; Self::PROXIES],
    ) -> Result<Self, ServerError> {
        Self::started(options, proxies.each_ref().map(Some))
    }

    fn started(
        options: &RedisOptions,
        proxies: [Option<&Proxy>; Self::PROXIES],
    ) -> Result<Self, ServerError> {
        start(
            || Self::run(options, proxies),
            Self::wait,
            |servers: &Self| servers.log().contains(TAKEN),
        )
    }

    fn run(
        options: &RedisOptions,
        proxies: [Option<&Proxy>; Self::PROXIES],
    ) -> Result<Self, ServerError> {
        let primary = server(options.clone(), proxies[0])?;
        let of = primary.announced();
        let of = format!("{} {}", of.ip(), of.port());
        let replica = server(options.clone().setting("replicaof", &of), proxies[1])?;
        let folder = TempDir::with_prefix("catga-sentinel-")?;
        let password = options.given_password();
        let password = password.map_or(String::new(), |password| {
            format!("sentinel auth-pass {NAME} {password}\n")
        });
        let mut sentinels = Vec::new();
        for (index, proxy) in proxies[2..].iter().enumerate() {
            let port = free_port()?;
            let own = loopback(port);
            if let Some(proxy) = proxy {
                proxy.forward_to(own);
            }
            let announced = proxy.map_or(own, Proxy::address);
            let (ip, announced_port) = (announced.ip(), announced.port());
            let config = folder.path().join(format!("sentinel-{index}.conf"));
            let lines = format!(
                "port {port}\nbind 127.0.0.1\ndir \"{}\"\nsentinel announce-ip {ip}\nsentinel announce-port {announced_port}\nsentinel monitor {NAME} {of} 2\nsentinel down-after-milliseconds {NAME} 500\nsentinel failover-timeout {NAME} 5000\nsentinel parallel-syncs {NAME} 1\n{password}",
                folder.path().display()
            );
            fs::write(&config, lines)?;
            let log = folder.path().join(format!("log-{index}"));
            let arguments = [config.as_os_str(), "--sentinel".as_ref()];
            let process = Process::start(redis_server()?.path(), arguments, &log)?;
            sentinels.push(Sentinel {
                port,
                announced,
                process,
            });
        }
        Ok(Self {
            servers: [primary, replica],
            sentinels,
            folder,
        })
    }

    /// What the sentinels have logged.
    #[must_use]
    pub fn log(&self) -> String {
        let logs = (0..self.sentinels.len()).map(|index| {
            let log = self.folder.path().join(format!("log-{index}"));
            fs::read_to_string(log).unwrap_or_default()
        });
        logs.collect()
    }

    fn wait(&self) -> Result<(), ServerError> {
        wait_for("the replica follows, and the sentinels see all", || {
            let mut sentinels = self.sentinels.iter();
            if !sentinels.all(|sentinel| sentinel.process.is_alive()) {
                let log = self.log();
                return Err(ServerError::new(format!("a sentinel has ended: {log}")));
            }
            let followed = self.servers[1]
                .ask("INFO replication")
                .is_ok_and(|info| field(&info, "master_link_status") == Some("up"));
            let seen = self.sentinels.iter().all(|sentinel| {
                ask(sentinel.port, None, "INFO sentinel")
                    .is_ok_and(|info| info.contains("slaves=1,sentinels=3"))
            });
            Ok((followed && seen).then_some(()))
        })
    }

    /// The primary of the beginning, and its replica.
    #[must_use]
    pub fn servers(&self) -> &[RedisServer; 2] {
        &self.servers
    }

    /// One of them, to kill, pause or restart it.
    ///
    /// # Panics
    /// When there is no such server: there are two.
    pub fn server_mut(&mut self, index: usize) -> &mut RedisServer {
        &mut self.servers[index]
    }

    /// Where clients reach the sentinels.
    #[must_use]
    pub fn sentinels(&self) -> Vec<SocketAddr> {
        let sentinels = self.sentinels.iter();
        sentinels.map(|sentinel| sentinel.announced).collect()
    }

    /// What the sentinels call the primary.
    #[must_use]
    pub fn name(&self) -> &str {
        NAME
    }

    /// Which server the sentinels hold for the primary, if all of them agree and it is one.
    #[must_use]
    pub fn primary(&self) -> Option<usize> {
        let command = format!("SENTINEL get-master-addr-by-name {NAME}");
        let mut said = self
            .sentinels
            .iter()
            .map(|sentinel| ask(sentinel.port, None, &command).ok());
        let first = said.next()??;
        if !said.all(|other| other.as_ref() == Some(&first)) {
            return None;
        }
        let (_, port) = first.rsplit_once('\n')?;
        let index = self
            .servers
            .iter()
            .position(|server| server.announced().port().to_string() == port)?;
        let role = self.servers[index].role().ok()?;
        (role == Role::Primary).then_some(index)
    }

    /// Waits until the sentinels agree on another primary than this one.
    ///
    /// # Errors
    /// When they do not in time.
    pub fn wait_for_fail_over(&self, from: usize) -> Result<usize, ServerError> {
        wait_for("another primary", || {
            Ok(self.primary().filter(|primary| *primary != from))
        })
    }

    /// Kills the primary, waits until the other is one, and brings the first back behind it.
    ///
    /// # Errors
    /// When there is no primary, or the other does not take its place in time.
    pub fn kill_primary(&mut self) -> Result<(), ServerError> {
        let from = self.known_primary()?;
        self.servers[from].kill()?;
        let to = self.wait_for_fail_over(from)?;
        self.servers[from].restart()?;
        self.follow(from, to)
    }

    /// Asks the primary to step down: its replica takes its place, and has it behind itself.
    ///
    /// # Errors
    /// When there is no primary, or the other does not take its place in time.
    pub fn step_down(&self) -> Result<(), ServerError> {
        let from = self.known_primary()?;
        let fail_over = format!("SENTINEL FAILOVER {NAME}");
        wait_for("the sentinels let the primary step down", || {
            // They may not have heard of its replica for a moment.
            Ok(ask(self.sentinels[0].port, None, &fail_over).ok())
        })?;
        let to = self.wait_for_fail_over(from)?;
        self.follow(from, to)
    }

    fn known_primary(&self) -> Result<usize, ServerError> {
        wait_for("the sentinels agree on a primary", || Ok(self.primary()))
    }

    /// The sentinels tell it, too, but not before it has been a primary beside the other for 8 s.
    fn follow(&self, replica: usize, primary: usize) -> Result<(), ServerError> {
        let of = self.servers[primary].announced();
        let follow = format!("REPLICAOF {} {}", of.ip(), of.port());
        self.servers[replica].ask(&follow)?;
        wait_for("the replica follows", || {
            let followed = self.servers[replica]
                .ask("INFO replication")
                .is_ok_and(|info| field(&info, "master_link_status") == Some("up"));
            Ok(followed.then_some(()))
        })
    }

    /// Who is what, for the log of a test.
    #[must_use]
    pub fn roles(&self) -> String {
        self.servers
            .each_ref()
            .map(RedisServer::shown_role)
            .join(" ")
    }
}

/// Starts a server, which tells others of its proxy.
fn server(options: RedisOptions, proxy: Option<&Proxy>) -> Result<RedisServer, ServerError> {
    let Some(proxy) = proxy else {
        return RedisServer::with(&options);
    };
    let address = proxy.address();
    let options = options
        .setting("replica-announce-ip", &address.ip().to_string())
        .setting("replica-announce-port", &address.port().to_string())
        .announced_at(address);
    let server = RedisServer::with(&options)?;
    proxy.forward_to(server.address());
    Ok(server)
}
