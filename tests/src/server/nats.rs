//! `nats-server` with JetStream: one, or a cluster of three.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::wait::{free_port, loopback, wait_for};
use super::{Binary, Process, ServerError, nats_server};

/// How often a server tries to find ports that nobody else takes.
const TRIES: u32 = 5;

const LIMIT: Duration = Duration::from_secs(1);

/// What differs from a plain server with JetStream on file.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct NatsOptions {
    without_jetstream: bool,
    advertise: Option<SocketAddr>,
    config: String,
}

impl NatsOptions {
    /// Without JetStream.
    pub fn without_jetstream(mut self) -> Self {
        self.without_jetstream = true;
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

/// One server. Its data folder goes with it.
#[derive(Debug)]
pub struct NatsServer {
    binary: Binary,
    name: String,
    options: NatsOptions,
    port: u16,
    monitor: u16,
    cluster: Option<Cluster>,
    folder: TempDir,
    process: Option<Process>,
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
        let mut tries = 1..=TRIES;
        loop {
            let mut server = Self::prepared(binary.clone(), options.clone(), None)?;
            match server.run().and_then(|()| server.wait()) {
                Ok(()) => return Ok(server),
                Err(error) if tries.next().is_none() || !server.lost_its_port() => {
                    return Err(error);
                }
                Err(_) => {}
            }
        }
    }

    fn prepared(
        binary: Binary,
        options: NatsOptions,
        cluster: Option<Cluster>,
    ) -> Result<Self, ServerError> {
        let port = free_port()?;
        Ok(Self {
            binary,
            name: format!("catga-{}-{port}", std::process::id()),
            options,
            port,
            monitor: free_port()?,
            cluster,
            folder: TempDir::with_prefix("catga-nats-")?,
            process: None,
        })
    }

    fn run(&mut self) -> Result<(), ServerError> {
        let config = self.folder.path().join("server.conf");
        fs::write(&config, self.config())?;
        let arguments = [Path::new("-c").as_os_str(), config.as_os_str()];
        let process = Process::start(self.binary.path(), arguments, &self.log_file())?;
        self.process = Some(process);
        Ok(())
    }

    fn config(&self) -> String {
        let Self { name, options, .. } = self;
        let mut config = format!(
            "server_name: {name}\nlisten: \"{}\"\nhttp: \"{}\"\n",
            loopback(self.port),
            loopback(self.monitor)
        );
        let mut line = |line: std::fmt::Arguments<'_>| {
            writeln!(config, "{line}").expect("a string takes all");
        };
        if !options.without_jetstream {
            let store = self.store().display().to_string();
            line(format_args!("jetstream {{ store_dir: {store:?} }}"));
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

    fn store(&self) -> std::path::PathBuf {
        self.folder.path().join("store")
    }

    fn log_file(&self) -> std::path::PathBuf {
        self.folder.path().join("log")
    }

    /// Waits until it takes clients, and JetStream is there.
    fn wait(&self) -> Result<(), ServerError> {
        wait_for(&format!("{} is ready", self.shown()), || {
            if !self.process().is_some_and(Process::is_alive) {
                return Err(ServerError::new(format!(
                    "{} has ended: {}",
                    self.shown(),
                    self.log()
                )));
            }
            Ok(self.is_ready().then_some(()))
        })
    }

    /// Whether a client is greeted, by this very server, and its health is good.
    fn is_ready(&self) -> bool {
        let greeted = self
            .greeting()
            .is_ok_and(|info| info.contains(&format!("\"server_name\":\"{}\"", self.name)));
        greeted
            && self
                .get("/healthz")
                .is_ok_and(|health| health.contains("\"ok\""))
    }

    fn greeting(&self) -> std::io::Result<String> {
        let stream = TcpStream::connect_timeout(&self.address(), LIMIT)?;
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

    fn lost_its_port(&self) -> bool {
        self.log().contains("address already in use")
    }

    fn shown(&self) -> String {
        format!("nats-server {} at {}", self.version(), self.address())
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> &str {
        self.binary.version()
    }

    /// Its name, as it greets clients.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        loopback(self.port)
    }

    /// Where it listens, as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Its process, while it has one.
    #[must_use]
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    fn running(&mut self) -> Result<&mut Process, ServerError> {
        let shown = self.shown();
        let ended = || ServerError::new(format!("{shown} does not run"));
        self.process.as_mut().ok_or_else(ended)
    }

    /// Kills it (SIGKILL).
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<(), ServerError> {
        self.running()?.kill()?;
        self.process = None;
        Ok(())
    }

    /// Asks it to end, and waits for it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop(&mut self) -> Result<(), ServerError> {
        self.running()?.terminate()?;
        self.process = None;
        Ok(())
    }

    /// Pauses it (SIGSTOP): connections stay, and nothing answers.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&mut self) -> Result<(), ServerError> {
        self.running()?.pause()
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&mut self) -> Result<(), ServerError> {
        self.running()?.resume()
    }

    /// Starts it again, on the same port and with the same data; ends it before if it runs.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn restart(&mut self) -> Result<(), ServerError> {
        if self.process.is_some() {
            self.stop()?;
        }
        self.run()?;
        self.wait()
    }

    /// Deletes its data.
    ///
    /// # Errors
    /// When it runs.
    pub fn wipe(&mut self) -> Result<(), ServerError> {
        if self.process.is_some() {
            let shown = self.shown();
            return Err(ServerError::new(format!("{shown} runs: kill it first")));
        }
        match fs::remove_dir_all(self.store()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
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

    /// Starts three servers with these options, and waits until they have a leader.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn with(options: &NatsOptions) -> Result<Self, ServerError> {
        let binary = nats_server()?;
        let mut tries = 1..=TRIES;
        loop {
            let cluster = Self::run(&binary, options)?;
            match cluster.wait() {
                Ok(()) => return Ok(cluster),
                Err(error) if tries.next().is_none() || !cluster.lost_a_port() => {
                    return Err(error);
                }
                Err(_) => {}
            }
        }
    }

    fn run(binary: &Binary, options: &NatsOptions) -> Result<Self, ServerError> {
        let ports = [free_port()?, free_port()?, free_port()?];
        let mut servers = Vec::new();
        for port in ports {
            let routes = ports.into_iter().filter(|other| *other != port).collect();
            let place = Some(Cluster { port, routes });
            let mut server = NatsServer::prepared(binary.clone(), options.clone(), place)?;
            server.run()?;
            servers.push(server);
        }
        Ok(Self { servers })
    }

    fn wait(&self) -> Result<(), ServerError> {
        self.servers.iter().try_for_each(NatsServer::wait)?;
        self.wait_for_leader().map(drop)
    }

    fn lost_a_port(&self) -> bool {
        self.servers.iter().any(NatsServer::lost_its_port)
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

    /// Where they are, as URLs.
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
            let runs = |index: &usize| {
                let process = self.servers[*index].process();
                process.is_some_and(Process::is_alive)
            };
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
