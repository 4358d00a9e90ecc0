//! `redis-server`, or Valkey's.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::daemon::start;
use super::resp::{ask, ask_in_parts, ask_in_turn, field};
use super::wait::free_port;
use super::{Daemon, Server, ServerError, redis_server};

/// What differs from a plain server, which keeps nothing on disk.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct RedisOptions {
    append_only: bool,
    password: Option<String>,
    arguments: Vec<String>,
    announced: Option<SocketAddr>,
    store: Option<PathBuf>,
    encrypted: bool,
}

impl RedisOptions {
    /// With the append-only file, written before anything is acknowledged and synced when the system likes: what was
    /// acknowledged survives a killed server, and not a machine that fails. (Synced by the second, as Redis does unless it is
    /// told otherwise, it keeps back what it writes while a sync takes long, and a kill takes that with it.)
    pub fn append_only(mut self) -> Self {
        self.append_only = true;
        self
    }

    /// With a password for everybody: without white space or quotes.
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// With its data in this folder.
    pub fn store(mut self, folder: &Path) -> Self {
        self.store = Some(folder.to_owned());
        self
    }

    /// Speaks TLS where clients reach it, and shows this certificate, of which this is the key, both PEM. Clients are asked for
    /// theirs where `clients` is the certificate of who signs them. What the kit itself asks goes another way.
    pub fn encrypted(mut self, certificate: &Path, key: &Path, clients: Option<&Path>) -> Self {
        let shown = |path: &Path| path.display().to_string();
        self.encrypted = true;
        self = self
            .setting("tls-cert-file", &shown(certificate))
            .setting("tls-key-file", &shown(key));
        match clients {
            Some(authority) => self
                .setting("tls-auth-clients", "yes")
                .setting("tls-ca-cert-file", &shown(authority)),
            None => self.setting("tls-auth-clients", "no"),
        }
    }

    /// A setting as in the configuration file: `setting("maxmemory", "4mb")`.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.arguments.push(format!("--{name}"));
        self.arguments.push(value.to_owned());
        self
    }

    /// With what the server tells others to be reached at.
    pub(crate) fn announced_at(mut self, address: SocketAddr) -> Self {
        self.announced = Some(address);
        self
    }

    pub(crate) fn given_password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    fn arguments(&self) -> impl Iterator<Item = &str> {
        let append_only = if self.append_only { "yes" } else { "no" };
        let password = self.password.as_deref();
        let kept = ["--appendonly", append_only, "--appendfsync", "no"];
        kept.into_iter()
            .chain(["--save", ""])
            // Its replicas come one by one, and it would wait 5 s for others.
            .chain(["--repl-diskless-sync-delay", "0"])
            .chain(
                password
                    .into_iter()
                    .flat_map(|password| ["--requirepass", password, "--masterauth", password]),
            )
            .chain(self.arguments.iter().map(String::as_str))
    }
}

/// What a server is to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It takes writes.
    Primary,
    /// It follows a primary.
    Replica,
}

/// One server.
#[derive(Debug)]
pub struct RedisServer {
    daemon: Daemon,
    options: RedisOptions,
    /// Where the kit asks it, in plain text.
    asked_at: u16,
}

impl RedisServer {
    /// Starts a server that keeps nothing on disk, and waits until it is ready.
    ///
    /// # Errors
    /// When there is none, or it does not become ready.
    pub fn start() -> Result<Self, ServerError> {
        Self::with(&RedisOptions::default())
    }

    /// Starts a server, and waits until it is ready.
    ///
    /// # Errors
    /// When there is none, it refuses a setting, or does not become ready.
    pub fn with(options: &RedisOptions) -> Result<Self, ServerError> {
        let binary = redis_server()?;
        let run = || {
            let daemon = Daemon::new("redis-server", binary.clone())?;
            let mut server = Self {
                asked_at: if options.encrypted {
                    free_port()?
                } else {
                    daemon.port()
                },
                daemon,
                options: options.clone(),
            };
            server.run()?;
            Ok(server)
        };
        start(run, Server::wait, |server| server.daemon.lost_its_port())
    }

    pub(crate) fn port(&self) -> u16 {
        self.daemon.port()
    }

    /// Where clients reach it, as a URL, with its password if it has one: where it listens, or the proxy that it
    /// tells them of.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.options.encrypted {
            "rediss"
        } else {
            "redis"
        };
        match &self.options.password {
            Some(password) => format!("{scheme}://:{password}@{}", self.announced()),
            None => format!("{scheme}://{}", self.announced()),
        }
    }

    /// Where others reach it.
    pub(crate) fn announced(&self) -> SocketAddr {
        let announced = self.options.announced;
        announced.unwrap_or_else(|| self.daemon.address())
    }

    /// Asks it one thing, as in `redis-cli`: `ask("CONFIG SET maxmemory 1mb")`.
    ///
    /// # Errors
    /// When it does not answer, or with an error.
    pub fn ask(&self, command: &str) -> Result<String, ServerError> {
        ask(self.asked_at, self.options.given_password(), command)
    }

    /// Asks it one thing whose parts may be any bytes: `ask_in_parts(&[b"SET", b"key", &bytes])`.
    ///
    /// # Errors
    /// When it does not answer, or with an error.
    pub fn ask_in_parts(&self, parts: &[&[u8]]) -> Result<String, ServerError> {
        ask_in_parts(self.asked_at, self.options.given_password(), parts)
    }

    /// Waits until a replica has all that is stored here now.
    ///
    /// # Errors
    /// When none has it in time.
    pub(crate) fn wait_for_a_replica(&self) -> Result<(), ServerError> {
        let password = self.options.given_password();
        // What is waited for is what there was when the connection asked something last.
        let told = ask_in_turn(self.asked_at, password, &["PING", "WAIT 1 1500"])?;
        match told.parse() {
            Ok(1_u32..) => Ok(()),
            _ => Err(ServerError::new("no replica has what is stored")),
        }
    }

    /// What it is to others.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn role(&self) -> Result<Role, ServerError> {
        let role = self.ask("ROLE")?;
        Ok(if role.starts_with("master") {
            Role::Primary
        } else {
            Role::Replica
        })
    }

    /// Its role, for the log of a test.
    pub(crate) fn shown_role(&self) -> String {
        let role = match self.role() {
            Ok(Role::Primary) => "primary",
            Ok(Role::Replica) => "replica",
            Err(_) => "down",
        };
        format!("{}={role}", self.daemon.address())
    }
}

impl Server for RedisServer {
    fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    fn daemon_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    fn run(&mut self) -> Result<(), ServerError> {
        let store = self.options.store.clone();
        let store = store.unwrap_or_else(|| self.daemon.store());
        fs::create_dir_all(&store)?;
        let (port, plain) = (self.port().to_string(), self.asked_at.to_string());
        let store = store.display().to_string();
        let own = ["--port", &plain, "--bind", "127.0.0.1", "--dir", &store];
        let tls = self.options.encrypted.then_some(["--tls-port", &port]);
        let arguments = own.into_iter().chain(tls.into_iter().flatten());
        let arguments: Vec<_> = arguments.chain(self.options.arguments()).collect();
        self.daemon.start(arguments)
    }

    /// Whether it answers, and has loaded its data.
    fn is_ready(&self) -> bool {
        self.ask("INFO").is_ok_and(|info| {
            let id = self.process().map(|process| process.id().to_string());
            field(&info, "process_id") == id.as_deref() && field(&info, "loading") == Some("0")
        })
    }
}
