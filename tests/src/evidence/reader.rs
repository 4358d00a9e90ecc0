//! Reads evidence back: all of it after a run, or what is new while it goes on.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::event::{Event, What};

/// What every line begins with. It cannot occur inside a line: there the quotes are escaped.
const BEGIN: &[u8] = b"{\"at\":";

/// How often a follower looks for something new.
const POLL: Duration = Duration::from_millis(2);

/// What is wrong with the evidence of a run, in words.
#[derive(Debug)]
pub struct EvidenceError(String);

/// Reads all that a run left, in the order of time; what happened in the same microsecond stays in the order of the file.
///
/// A line that a killed process wrote only in part is left out: what it would have said did not happen.
///
/// # Errors
/// When the file cannot be read, or a line is not whole and its process was not killed there.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<Event>, EvidenceError> {
    let bytes = std::fs::read(path.as_ref())
        .map_err(|error| EvidenceError(format!("{}: {error}", path.as_ref().display())))?;
    let lines = split(&bytes);
    let last = lines.len().saturating_sub(1);
    let mut events = Vec::with_capacity(lines.len());
    let mut torn = Vec::new();
    for (number, line) in lines.into_iter().enumerate() {
        match serde_json::from_slice(line) {
            Ok(event) => events.push(event),
            // Nobody was there to write down that its writer was killed, or it is being written now.
            Err(_) if number == last && !bytes.ends_with(b"\n") => {}
            Err(error) => torn.push((events.len(), line, error)),
        }
    }
    for (before, line, error) in torn {
        let killed = ends_there(&events[before..], writer(line).as_deref());
        if !killed {
            let line = String::from_utf8_lossy(line);
            return Err(EvidenceError(format!(
                "a line that is not whole, of a process that was not killed there: {error}: {line}"
            )));
        }
    }
    events.sort_by_key(|event| event.at);
    Ok(events)
}

/// Cuts where lines begin and end. A line that broke off is followed by the next one without an end of line between.
fn split(bytes: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let mut rest = line;
        while let Some(next) = find(rest.get(1..).unwrap_or_default(), BEGIN) {
            let (one, others) = rest.split_at(next + 1);
            lines.push(one);
            rest = others;
        }
        if !rest.is_empty() {
            lines.push(rest);
        }
    }
    lines
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The process that wrote a broken line, when it came that far.
fn writer(line: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Head {
        process: String,
    }
    let text = String::from_utf8_lossy(line);
    let name = text.split_once(",\"process\":")?.1;
    let end = name.match_indices('"').nth(1)?.0;
    let head = format!("{{\"process\":{}}}", name.get(..=end)?);
    Some(serde_json::from_str::<Head>(&head).ok()?.process)
}

/// Whether the next thing that is known of a process is that it was killed; of any, when its name broke off.
fn ends_there(events: &[Event], process: Option<&str>) -> bool {
    let next = events.iter().find_map(|event| match &event.what {
        What::Killed { process: killed } if process.is_none_or(|process| process == killed) => {
            Some(true)
        }
        _ if process == Some(&event.process) => Some(false),
        _ => None,
    });
    next == Some(true)
}

/// Reads the evidence of a run that goes on: for the parent that waits for something to happen.
#[derive(Debug)]
pub struct Follower {
    file: File,
    /// What was read of a line whose end is not there yet.
    rest: Vec<u8>,
    /// What was read, and not looked at, in reverse.
    unseen: Vec<Event>,
    /// Which kinds were seen, for the error of a wait that was in vain.
    seen: usize,
    processes: BTreeSet<String>,
}

impl Follower {
    /// Follows the evidence from its beginning.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self {
            file: File::open(path)?,
            rest: Vec::new(),
            unseen: Vec::new(),
            seen: 0,
            processes: BTreeSet::new(),
        })
    }

    /// The next event in the order of the file; none when there is nothing new.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn next_event(&mut self) -> io::Result<Option<Event>> {
        if self.unseen.is_empty() {
            self.read_new()?;
        }
        let next = self.unseen.pop();
        if let Some(event) = &next {
            self.seen += 1;
            if !self.processes.contains(&event.process) {
                self.processes.insert(event.process.clone());
            }
        }
        Ok(next)
    }

    fn read_new(&mut self) -> io::Result<()> {
        self.file.read_to_end(&mut self.rest)?;
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(());
        };
        let rest = self.rest.split_off(end + 1);
        let whole = std::mem::replace(&mut self.rest, rest);
        // What a killed process left unfinished is for `read` to judge.
        let lines = split(&whole).into_iter().rev();
        self.unseen = lines
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect();
        Ok(())
    }

    /// Waits for an event that `condition` accepts, and returns it. Each event is shown to one wait only, those after the
    /// one that was accepted to the next wait; a condition that counts keeps its count.
    ///
    /// # Errors
    /// When there was none within `limit`, naming `what`, or the file cannot be read.
    ///
    /// # Cancel safety
    /// What was shown to the condition is not shown again.
    pub async fn wait_for(
        &mut self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut(&Event) -> bool,
    ) -> Result<Event, EvidenceError> {
        let begun = Instant::now();
        loop {
            while let Some(event) = self.next_event()? {
                if condition(&event) {
                    return Ok(event);
                }
            }
            if begun.elapsed() > limit {
                let Self {
                    seen, processes, ..
                } = self;
                return Err(EvidenceError(format!(
                    "not within {limit:?}: {what} ({seen} events so far, of {processes:?})"
                )));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl fmt::Display for EvidenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for EvidenceError {}

impl From<io::Error> for EvidenceError {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}
