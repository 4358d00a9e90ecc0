//! `nats-server` with JetStream: one, or a cluster of three.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::daemon::start;
use super::wait::{free_port, loopback, wait_for};
use super::{Binary, Daemon, Server, ServerError, nats_server};
use crate::proxy::Proxy;

const LIMIT: Duration = Duration::from_secs(1);

/// What differs from a plain server with JetStream on file.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct NatsOptions {
    without_jetstream: bool,
    advertise: Option<SocketAddr>,
    room: Option<u64>,
    store: Option<PathBuf>,
    config: String,
}

impl NatsOptions {
    /// Without JetStream.
    pub fn without_jetstream(mut self) -> Self {
        self.without_jetstream = true;
        self
    }

    /// With so many bytes for all that JetStream stores.
    pub fn room(mut self, bytes: u64) -> Self {
        self.room = Some(bytes);
        self
    }

    /// With its data in this folder.
    pub fn store(mut self, folder: &Path) -> Self {
        self.store = Some(folder.to_owned());
        self
    }

    /// What clients are told to connect to: a proxy, which they else would walk around.
    pub fn advertise(mut self, address: SocketAddr) -> Self {
        self.advertise = Some(address);
        self
    }

    /// Lines of the configuration file: `max_payload: 1024`, `authorization { .. }`.
    pub fn config(mut self, lines: &str) -> Self {
        self.config.push_str(lines);
        self.config.push('\n');
        self
    }
}

/// One server.
#[derive(Debug)]
pub struct NatsServer {
    daemon: Daemon,
    name: String,
    options: NatsOptions,
    monitor: u16,
    cluster: Option<Cluster>,
}

/// The place of a server in its cluster.
#[derive(Clone, Debug)]
struct Cluster {
    port: u16,
    routes: Vec<u16>,
}

impl NatsServer {
    /// Starts a server with JetStream on file, and waits until it is ready.
    ///
    /// # Errors
    /// When there is none, or it does not become ready.
    pub fn start() -> Result<Self, ServerError> {
        Self::with(&NatsOptions::default())
    }

    /// Starts a server, and waits until it is ready.
    ///
    /// # Errors
    /// When there is none, it refuses its configuration, or does not become ready.
    pub fn with(options: &NatsOptions) -> Result<Self, ServerError> {
        let binary = nats_server()?;
        let run = || Self::started(&binary, options, None);
        start(run, Server::wait, |server| server.daemon.lost_its_port())
    }

    fn started(
        binary: &Binary,
        options: &NatsOptions,
        cluster: Option<Cluster>,
    ) -> Result<Self, ServerError> {
        let daemon = Daemon::new("nats-server", binary.clone())?;
        let mut server = Self {
            name: format!("catga-{}-{}", std::process::id(), daemon.port()),
            daemon,
            options: options.clone(),
            monitor: free_port()?,
            cluster,
        };
        server.run()?;
        Ok(server)
    }

    fn config(&self) -> String {
        let Self { name, options, .. } = self;
        let mut config = format!(
            "server_name: {name}\nlisten: \"{}\"\nhttp: \"{}\"\n",
            self.daemon.address(),
            loopback(self.monitor)
        );
        let mut line = |line: std::fmt::Arguments<'_>| {
            writeln!(config, "{line}").expect("a string takes all");
        };
        if !options.without_jetstream {
            let own = || self.daemon.store();
            let store = options.store.clone().unwrap_or_else(own);
            let store = store.display().to_string();
            let room = options
                .room
                .map(|bytes| format!(", max_file_store: {bytes}"));
            let room = room.unwrap_or_default();
            line(format_args!("jetstream {{ store_dir: {store:?}{room} }}"));
        }
        if let Some(address) = options.advertise {
            line(format_args!("client_advertise: \"{address}\""));
        }
        if let Some(Cluster { port, routes }) = &self.cluster {
            let routes: Vec<_> = routes
                .iter()
                .map(|port| format!("nats://{}", loopback(*port)))
                .collect();
            line(format_args!(
                "cluster {{ name: catga, listen: \"{}\", routes: {routes:?} }}",
                loopback(*port)
            ));
        }
        line(format_args!("{}", options.config));
        config
    }

    fn greeting(&self) -> std::io::Result<String> {
        let stream = TcpStream::connect_timeout(&self.daemon.address(), LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut info = String::new();
        BufReader::new(stream).read_line(&mut info)?;
        Ok(info)
    }

    /// What the [monitoring endpoint](https://docs.nats.io/running-a-nats-service/nats_admin/monitoring) says: `/jsz`,
    /// `/varz`, `/connz`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn get(&self, path: &str) -> Result<String, ServerError> {
        let mut stream = TcpStream::connect_timeout(&loopback(self.monitor), LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or(("", &answer));
        Ok(body.to_owned())
    }

    /// Gives it other options while it runs (SIGHUP), those that a server can change so; returns when they hold.
    ///
    /// # Errors
    /// When it does not run, or does not take them.
    pub fn reload(&mut self, options: NatsOptions) -> Result<(), ServerError> {
        const RELOADED: &str = "Reloaded server configuration";
        let before = self.log().matches(RELOADED).count();
        self.options = options;
        fs::write(self.daemon.file("server.conf"), self.config())?;
        self.daemon.hang_up()?;
        wait_for("it has read its configuration", || {
            let log = self.log();
            Ok((log.matches(RELOADED).count() > before).then_some(()))
        })
    }

    /// Its name, as it greets clients.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where clients reach it, as a URL: where it listens, or the proxy that it tells them of.
    #[must_use]
    pub fn url(&self) -> String {
        let advertised = self.options.advertise;
        let address = advertised.unwrap_or_else(|| self.daemon.address());
        format!("nats://{address}")
    }
}

impl Server for NatsServer {
    fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    fn daemon_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    fn run(&mut self) -> Result<(), ServerError> {
        let file = self.daemon.file("server.conf");
        fs::write(&file, self.config())?;
        self.daemon.start([Path::new("-c"), &file])
    }

    /// Whether it greets clients, and its health is good.
    fn is_ready(&self) -> bool {
        let name = format!("\"server_name\":\"{}\"", self.name);
        let greeted = self.greeting().is_ok_and(|info| info.contains(&name));
        greeted
            && self
                .get("/healthz")
                .is_ok_and(|health| health.contains("\"ok\""))
    }
}

/// Three servers with JetStream, each a peer of the others.
#[derive(Debug)]
pub struct NatsCluster {
    servers: Vec<NatsServer>,
}

impl NatsCluster {
    /// Starts three servers, and waits until they have a leader.
    ///
    /// # Errors
    /// When there is no server, or they do not become a cluster.
    pub fn start() -> Result<Self, ServerError> {
        Self::with(&NatsOptions::default())
    }

    /// How many servers there are.
    pub const SERVERS: usize = 3;

    /// Starts three servers with these options, and waits until they have a leader.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn with(options: &NatsOptions) -> Result<Self, ServerError> {
        Self::started(options, [None; Self::SERVERS])
    }

    /// As [`with`](Self::with), each server behind a proxy: it is the proxies' addresses that the servers tell clients
    /// of, who so do not walk around them. The servers talk to each other on ways of their own.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn behind(
        options: &NatsOptions,
        proxies: &[Proxy; Self::SERVERS],
    ) -> Result<Self, ServerError> {
        Self::started(options, proxies.each_ref().map(Some))
    }

    fn started(
        options: &NatsOptions,
        proxies: [Option<&Proxy>; Self::SERVERS],
    ) -> Result<Self, ServerError> {
        let binary = nats_server()?;
        start(
            || Self::run(&binary, options, proxies),
            Self::wait,
            |cluster: &Self| {
                cluster
                    .servers
                    .iter()
                    .any(|server| server.daemon.lost_its_port())
            },
        )
    }

    fn run(
        binary: &Binary,
        options: &NatsOptions,
        proxies: [Option<&Proxy>; Self::SERVERS],
    ) -> Result<Self, ServerError> {
        let ports = [free_port()?, free_port()?, free_port()?];
        let mut servers = Vec::new();
        for (port, proxy) in ports.into_iter().zip(proxies) {
            let routes = ports.into_iter().filter(|other| *other != port).collect();
            let place = Some(Cluster { port, routes });
            let mut options = options.clone();
            if let Some(proxy) = proxy {
                options = options.advertise(proxy.address());
            }
            let server = NatsServer::started(binary, &options, place)?;
            if let Some(proxy) = proxy {
                proxy.forward_to(server.daemon.address());
            }
            servers.push(server);
        }
        Ok(Self { servers })
    }

    fn wait(&self) -> Result<(), ServerError> {
        self.servers.iter().try_for_each(Server::wait)?;
        self.wait_for_leader().map(drop)
    }

    /// The servers.
    #[must_use]
    pub fn servers(&self) -> &[NatsServer] {
        &self.servers
    }

    /// One of them, to kill, pause or restart it.
    ///
    /// # Panics
    /// When there is no such server: there are three.
    pub fn server_mut(&mut self, index: usize) -> &mut NatsServer {
        &mut self.servers[index]
    }

    /// Where clients reach them, as URLs.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(NatsServer::url).collect()
    }

    /// Which server leads JetStream now, if those that answer agree.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        let mut leaders = self.servers.iter().filter_map(|server| {
            let state = server.get("/jsz").ok()?;
            let (_, meta) = state.split_once("\"meta_cluster\"")?;
            let (_, leader) = meta.split_once("\"leader\":")?;
            leader
                .trim_start()
                .strip_prefix('"')?
                .split_once('"')
                .map(|(name, _)| name.to_owned())
        });
        let first = leaders.next()?;
        let agreed = leaders.all(|leader| leader == first);
        let index = self.servers.iter().position(|server| server.name == first);
        index.filter(|_| agreed)
    }

    /// Waits until one of those that run leads.
    ///
    /// # Errors
    /// When they do not agree in time.
    pub fn wait_for_leader(&self) -> Result<usize, ServerError> {
        wait_for("the cluster has a leader", || {
            let runs = |index: &usize| self.servers[*index].is_alive();
            Ok(self.leader().filter(runs))
        })
    }

    /// Who leads and who follows, for the log of a test.
    #[must_use]
    pub fn roles(&self) -> String {
        let leader = self.leader();
        let roles = self.servers.iter().enumerate().map(|(index, server)| {
            let role = match (server.process(), leader) {
                (None, _) => "down",
                (_, Some(leader)) if leader == index => "leader",
                _ => "follower",
            };
            format!("{}={role}", server.address())
        });
        roles.collect::<Vec<_>>().join(" ")
    }
}
