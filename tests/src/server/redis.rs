//! `redis-server`, or Valkey's.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use tempfile::TempDir;

use super::resp::{ask, field};
use super::wait::{free_port, loopback, wait_for};
use super::{Binary, Process, ServerError, redis_server};

/// How often a server tries to find a port that nobody else takes.
const TRIES: u32 = 5;

/// What differs from a plain server, which keeps nothing on disk.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct RedisOptions {
    append_only: bool,
    password: Option<String>,
    arguments: Vec<String>,
}

impl RedisOptions {
    /// With the append-only file, synced by the second: what was acknowledged survives a killed server.
    pub fn append_only(mut self) -> Self {
        self.append_only = true;
        self
    }

    /// With a password for everybody: without white space or quotes.
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// A setting as in the configuration file: `setting("maxmemory", "4mb")`.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.arguments.push(format!("--{name}"));
        self.arguments.push(value.to_owned());
        self
    }

    pub(crate) fn given_password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    fn arguments(&self) -> impl Iterator<Item = &str> {
        let append_only = if self.append_only { "yes" } else { "no" };
        let password = self.password.as_deref();
        ["--appendonly", append_only, "--save", ""]
            .into_iter()
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

/// One server. Its data folder goes with it.
#[derive(Debug)]
pub struct RedisServer {
    binary: Binary,
    options: RedisOptions,
    port: u16,
    folder: TempDir,
    process: Option<Process>,
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
        let mut tries = 1..=TRIES;
        loop {
            let mut server = Self {
                binary: binary.clone(),
                options: options.clone(),
                port: free_port()?,
                folder: TempDir::with_prefix("catga-redis-")?,
                process: None,
            };
            match server.restart() {
                Ok(()) => return Ok(server),
                Err(error) if tries.next().is_none() || !server.lost_its_port() => {
                    return Err(error);
                }
                Err(_) => {}
            }
        }
    }

    fn run(&mut self) -> Result<(), ServerError> {
        fs::create_dir_all(self.store())?;
        let (port, store) = (self.port.to_string(), self.store().display().to_string());
        let own = ["--port", &port, "--bind", "127.0.0.1", "--dir", &store];
        let arguments = own.into_iter().chain(self.options.arguments());
        let process = Process::start(self.binary.path(), arguments, &self.log_file())?;
        self.process = Some(process);
        Ok(())
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn wait(&self) -> Result<(), ServerError> {
        wait_for(&format!("{} is ready", self.shown()), || {
            if !self.process().is_some_and(Process::is_alive) {
                let log = self.log();
                let shown = self.shown();
                return Err(ServerError::new(format!("{shown} has ended: {log}")));
            }
            Ok(self.is_ready().then_some(()))
        })
    }

    /// Whether it answers, has loaded its data, and is this very process: another one may have its port.
    fn is_ready(&self) -> bool {
        self.ask("INFO").is_ok_and(|info| {
            let id = self.process().map(|process| process.id().to_string());
            field(&info, "process_id") == id.as_deref() && field(&info, "loading") == Some("0")
        })
    }

    fn lost_its_port(&self) -> bool {
        self.log().contains("Address already in use")
    }

    fn shown(&self) -> String {
        format!("redis-server {} at {}", self.version(), self.address())
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> &str {
        self.binary.version()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        loopback(self.port)
    }

    /// Where it listens, as a URL, with its password if it has one.
    #[must_use]
    pub fn url(&self) -> String {
        match &self.options.password {
            Some(password) => format!("redis://:{password}@{}", self.address()),
            None => format!("redis://{}", self.address()),
        }
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Asks it one thing, as in `redis-cli`: `ask("CONFIG SET maxmemory 1mb")`.
    ///
    /// # Errors
    /// When it does not answer, or with an error.
    pub fn ask(&self, command: &str) -> Result<String, ServerError> {
        ask(self.port, self.options.given_password(), command)
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
        format!("{}={role}", self.address())
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

    /// Starts it again, on the same port and with the data that is on disk; ends it before if it runs.
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
        Ok(fs::remove_dir_all(self.store())?)
    }
}
