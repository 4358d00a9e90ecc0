//! What all servers have in common: a program, a port, a data folder, and a process that comes and goes.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use tempfile::TempDir;

use super::error::says_a_port_was_taken;
use super::wait::{free_port, loopback, wait_for};
use super::{Binary, Process, ServerError};

/// How often a starter tries to find ports that nobody else takes.
pub(crate) const TRIES: u32 = 5;

/// A server that scenarios kill, pause and restart.
pub trait Server: fmt::Debug {
    /// Its program, place and process.
    fn daemon(&self) -> &Daemon;

    /// Its program, place and process.
    fn daemon_mut(&mut self) -> &mut Daemon;

    /// Starts its process.
    ///
    /// # Errors
    /// When it cannot be started.
    fn run(&mut self) -> Result<(), ServerError>;

    /// Whether it does its work, and is this very process: another one may have its port.
    fn is_ready(&self) -> bool;

    /// Its version.
    fn version(&self) -> &str {
        self.daemon().binary.version()
    }

    /// Where it listens.
    fn address(&self) -> SocketAddr {
        self.daemon().address()
    }

    /// What it has logged.
    fn log(&self) -> String {
        self.daemon().log()
    }

    /// Its process, while it has one.
    fn process(&self) -> Option<&Process> {
        self.daemon().process.as_ref()
    }

    /// Whether it runs, or is paused.
    fn is_alive(&self) -> bool {
        self.process().is_some_and(Process::is_alive)
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready in time.
    fn wait(&self) -> Result<(), ServerError> {
        let daemon = self.daemon();
        wait_for(&format!("{daemon} is ready"), || {
            if !self.is_alive() {
                let log = self.log();
                return Err(ServerError::new(format!("{daemon} has ended: {log}")));
            }
            Ok(self.is_ready().then_some(()))
        })
    }

    /// Kills it (SIGKILL).
    ///
    /// # Errors
    /// When it does not run.
    fn kill(&mut self) -> Result<(), ServerError> {
        self.daemon_mut().running()?.kill()?;
        self.daemon_mut().process = None;
        Ok(())
    }

    /// Asks it to end, and waits for it; also when it is paused.
    ///
    /// # Errors
    /// When it does not run.
    fn stop(&mut self) -> Result<(), ServerError> {
        self.daemon_mut().running()?.terminate()?;
        self.daemon_mut().process = None;
        Ok(())
    }

    /// Pauses it (SIGSTOP): connections stay, and nothing answers.
    ///
    /// # Errors
    /// When it does not run.
    fn pause(&mut self) -> Result<(), ServerError> {
        self.daemon_mut().running()?.pause()
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    fn resume(&mut self) -> Result<(), ServerError> {
        self.daemon_mut().running()?.resume()
    }

    /// Starts it again, on the same port and with the data that is on disk; ends it before if it runs.
    ///
    /// # Errors
    /// When it does not become ready.
    fn restart(&mut self) -> Result<(), ServerError> {
        if self.process().is_some() {
            self.stop()?;
        }
        self.run()?;
        self.wait()
    }

    /// Deletes its data.
    ///
    /// # Errors
    /// When it runs.
    fn wipe(&mut self) -> Result<(), ServerError> {
        let daemon = self.daemon();
        if daemon.process.is_some() {
            return Err(ServerError::new(format!("{daemon} runs: kill it first")));
        }
        match fs::remove_dir_all(daemon.store()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// The program, place and process of a [`Server`]. Its data folder goes with it.
#[derive(Debug)]
pub struct Daemon {
    name: &'static str,
    binary: Binary,
    port: u16,
    folder: TempDir,
    process: Option<Process>,
}

impl Daemon {
    /// A place for a server that is not started yet.
    pub(crate) fn new(name: &'static str, binary: Binary) -> Result<Self, ServerError> {
        Ok(Self {
            name,
            binary,
            port: free_port()?,
            folder: TempDir::with_prefix(format!("catga-{name}-"))?,
            process: None,
        })
    }

    /// Starts the program.
    pub(crate) fn start<A: AsRef<std::ffi::OsStr>>(
        &mut self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<(), ServerError> {
        let process = Process::start(self.binary.path(), arguments, &self.file("log"))?;
        self.process = Some(process);
        Ok(())
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn address(&self) -> SocketAddr {
        loopback(self.port)
    }

    /// A file beside its data.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where its data is.
    pub(crate) fn store(&self) -> PathBuf {
        self.file("store")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    /// Whether somebody else took a port that was free.
    pub(crate) fn lost_its_port(&self) -> bool {
        says_a_port_was_taken(&self.log())
    }

    /// Tells it to read its configuration again (SIGHUP).
    pub(crate) fn hang_up(&mut self) -> Result<(), ServerError> {
        self.running()?.hang_up()
    }

    fn running(&mut self) -> Result<&mut Process, ServerError> {
        let ended = ServerError::new(format!("{self} does not run"));
        self.process.as_mut().ok_or(ended)
    }
}

impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, version) = (self.name, self.binary.version());
        write!(f, "{name} {version} at {}", self.address())
    }
}

/// Starts servers until they are ready: again, when one lost its port to somebody else.
pub(crate) fn start<S>(
    mut run: impl FnMut() -> Result<S, ServerError>,
    wait: impl Fn(&S) -> Result<(), ServerError>,
    lost_a_port: impl Fn(&S) -> bool,
) -> Result<S, ServerError> {
    let mut tries = 1..TRIES;
    loop {
        let servers = run()?;
        match wait(&servers) {
            Ok(()) => return Ok(servers),
            Err(error) if tries.next().is_none() || !lost_a_port(&servers) => return Err(error),
            Err(_) => {}
        }
    }
}
