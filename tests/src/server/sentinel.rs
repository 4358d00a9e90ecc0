//! A primary, its replica, and sentinels that put the one in the place of the other.

use std::fs;
use std::net::SocketAddr;

use tempfile::TempDir;

use super::daemon::start;
use super::resp::{ask, field};
use super::wait::{free_port, loopback, wait_for};
use super::{Process, RedisOptions, RedisServer, Role, ServerError, redis_server};

/// What the sentinels call the primary.
const NAME: &str = "catga";

/// What a sentinel logs when somebody else has.
const TAKEN: &str = "Address already in use";

/// A primary, a replica, and three sentinels of which two have to agree.
#[derive(Debug)]
pub struct RedisSentinel {
    servers: [RedisServer; 2],
    sentinels: Vec<(u16, Process)>,
    folder: TempDir,
}

impl RedisSentinel {
    /// Starts all five, and waits until the replica follows and the sentinels know of each other.
    ///
    /// # Errors
    /// When there is no server, or they do not find each other.
    pub fn start(options: &RedisOptions) -> Result<Self, ServerError> {
        start(
            || Self::run(options),
            Self::wait,
            |servers: &Self| servers.log().contains(TAKEN),
        )
    }

    fn run(options: &RedisOptions) -> Result<Self, ServerError> {
        let primary = RedisServer::with(options)?;
        let of = format!("127.0.0.1 {}", primary.port());
        let replica = RedisServer::with(&options.clone().setting("replicaof", &of))?;
        let folder = TempDir::with_prefix("catga-sentinel-")?;
        let password = options.given_password();
        let password = password.map_or(String::new(), |password| {
            format!("sentinel auth-pass {NAME} {password}\n")
        });
        let mut sentinels = Vec::new();
        for index in 0..3 {
            let port = free_port()?;
            let config = folder.path().join(format!("sentinel-{index}.conf"));
            let lines = format!(
                "port {port}\nbind 127.0.0.1\ndir \"{}\"\nsentinel monitor {NAME} {of} 2\nsentinel down-after-milliseconds {NAME} 500\nsentinel failover-timeout {NAME} 5000\nsentinel parallel-syncs {NAME} 1\n{password}",
                folder.path().display()
            );
            fs::write(&config, lines)?;
            let log = folder.path().join(format!("log-{index}"));
            let arguments = [config.as_os_str(), "--sentinel".as_ref()];
            let process = Process::start(redis_server()?.path(), arguments, &log)?;
            sentinels.push((port, process));
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
            if !self.sentinels.iter().all(|(_, process)| process.is_alive()) {
                let log = self.log();
                return Err(ServerError::new(format!("a sentinel has ended: {log}")));
            }
            let followed = self.servers[1]
                .ask("INFO replication")
                .is_ok_and(|info| field(&info, "master_link_status") == Some("up"));
            let seen = self.sentinels.iter().all(|(port, _)| {
                ask(*port, None, "INFO sentinel")
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

    /// Where the sentinels are.
    #[must_use]
    pub fn sentinels(&self) -> Vec<SocketAddr> {
        let ports = self.sentinels.iter().map(|(port, _)| *port);
        ports.map(loopback).collect()
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
            .map(|(port, _)| ask(*port, None, &command).ok());
        let first = said.next()??;
        if !said.all(|other| other.as_ref() == Some(&first)) {
            return None;
        }
        let (_, port) = first.rsplit_once('\n')?;
        let index = self
            .servers
            .iter()
            .position(|server| server.port().to_string() == port)?;
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

    /// Who is what, for the log of a test.
    #[must_use]
    pub fn roles(&self) -> String {
        self.servers
            .each_ref()
            .map(RedisServer::shown_role)
            .join(" ")
    }
}
