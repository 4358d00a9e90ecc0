//! A process that is killed, paused and resumed, and that does not outlive the one that started it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::ServerError;
use super::wait::wait_for;

/// Starts the program behind it, says its process id, and kills it when its own input ends: that is when the value is
/// dropped, and also when the process that holds the other end is killed.
const GUARD: &str = r#"log=$1; shift; "$@" >>"$log" 2>&1 </dev/null & echo $!; read -r _; kill -9 $! 2>/dev/null; wait"#;

/// A process under a guard.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    guard: Child,
    /// The guard waits for its end.
    held: Option<ChildStdin>,
}

/// What `/proc` says of a process.
const STOPPED: char = 'T';
const ZOMBIE: char = 'Z';

impl Process {
    /// Starts a program; what it prints is added to a file.
    ///
    /// # Errors
    /// When there is no shell, or the program cannot be started.
    pub fn start<A: AsRef<std::ffi::OsStr>>(
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
        log: &Path,
    ) -> Result<Self, ServerError> {
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "sh"])
            .arg(log)
            .arg(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A terminal that is closed, or a Ctrl-C, would end the guard before it can do its work.
            .process_group(0)
            .spawn()?;
        let held = guard.stdin.take();
        let mut line = String::new();
        let said = guard.stdout.take().expect("it is piped");
        BufReader::new(said).read_line(&mut line)?;
        let pid = line.trim().parse().ok().and_then(Pid::from_raw);
        let name = program.display().to_string();
        let pid = pid.ok_or_else(|| ServerError::new(format!("{name} was not started")))?;
        Ok(Self {
            name,
            pid,
            guard,
            held,
        })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Whether it runs, or is paused.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.state().is_some_and(|state| state != ZOMBIE)
    }

    /// Kills it (SIGKILL), and waits until it is gone.
    ///
    /// # Errors
    /// When it does not go.
    pub fn kill(&mut self) -> Result<(), ServerError> {
        if self.is_alive() {
            self.signal(Signal::KILL)?;
        }
        wait_for(&format!("the end of {}", self.name), || {
            Ok((!self.is_alive()).then_some(()))
        })?;
        self.release();
        Ok(())
    }

    /// Asks it to end (SIGTERM), and waits until it is gone.
    ///
    /// # Errors
    /// When it does not go.
    pub fn terminate(&mut self) -> Result<(), ServerError> {
        self.signal(Signal::TERM)?;
        // One that stands hears of it when it goes on.
        self.signal(Signal::CONT)?;
        wait_for(&format!("the end of {}", self.name), || {
            Ok((!self.is_alive()).then_some(()))
        })?;
        self.release();
        Ok(())
    }

    /// Pauses it (SIGSTOP), and waits until it stands.
    ///
    /// # Errors
    /// When it has ended.
    pub fn pause(&self) -> Result<(), ServerError> {
        self.signal(Signal::STOP)?;
        self.until(|state| state == STOPPED, "to stand")
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// When it has ended.
    pub fn resume(&self) -> Result<(), ServerError> {
        self.signal(Signal::CONT)?;
        self.until(|state| state != STOPPED, "to go on")
    }

    /// Tells it to read its configuration again (SIGHUP).
    pub(crate) fn hang_up(&self) -> Result<(), ServerError> {
        self.signal(Signal::HUP)
    }

    fn until(&self, reached: impl Fn(char) -> bool, what: &str) -> Result<(), ServerError> {
        wait_for(&format!("{} {what}", self.name), || match self.state() {
            None | Some(ZOMBIE) => Err(ServerError::new(format!("{} has ended", self.name))),
            Some(state) => Ok(reached(state).then_some(())),
        })
    }

    fn signal(&self, signal: Signal) -> Result<(), ServerError> {
        kill_process(self.pid, signal).map_err(|error| {
            ServerError::new(format!("{} (pid {}): {error}", self.name, self.id()))
        })
    }

    /// The third field of `/proc/<pid>/stat`, behind the name in parentheses; none when there is no such process.
    fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).ok()?;
        let (_, behind) = stat.rsplit_once(')')?;
        behind.trim_start().chars().next()
    }

    /// Lets the guard go, which takes the process with it.
    fn release(&mut self) {
        drop(self.held.take());
        // It ends as soon as its input does.
        let _ = self.guard.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(log: &Path) -> Process {
        Process::start(Path::new("sleep"), ["1000"], log).unwrap()
    }

    fn exists(pid: i32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn it_stands_goes_on_and_ends() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = sleeper(&folder.path().join("log"));
        assert!(process.is_alive());
        process.pause().unwrap();
        assert_eq!(process.state(), Some(STOPPED));
        process.resume().unwrap();
        assert!(process.state().is_some_and(|state| state != STOPPED));
        process.pause().unwrap();
        let pid = process.id();
        process.kill().unwrap();
        assert!(!process.is_alive() && !exists(pid));
        assert!(process.pause().is_err(), "it has ended");
    }

    #[test]
    fn one_that_stands_can_be_asked_to_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = sleeper(&folder.path().join("log"));
        process.pause().unwrap();
        process.terminate().unwrap();
        assert!(!process.is_alive());
    }

    #[test]
    fn the_guard_is_not_in_the_group_of_the_terminal() {
        let folder = tempfile::tempdir().unwrap();
        let process = sleeper(&folder.path().join("log"));
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.guard.id())).unwrap();
        let (_, behind) = stat.rsplit_once(')').unwrap();
        let group = behind.split_whitespace().nth(2).unwrap();
        assert_eq!(group, process.guard.id().to_string());
    }

    #[test]
    fn it_ends_with_its_value() {
        let folder = tempfile::tempdir().unwrap();
        let process = sleeper(&folder.path().join("log"));
        let pid = process.id();
        assert!(exists(pid));
        drop(process);
        assert!(!exists(pid));
    }

    #[test]
    fn what_is_not_there_has_ended_soon() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let process = Process::start(Path::new("/no/such/server"), ["x"], &log).unwrap();
        wait_for("the end", || Ok((!process.is_alive()).then_some(()))).unwrap();
        assert!(fs::read_to_string(log).unwrap().contains("/no/such/server"));
    }
}
