//! What happened in a run, written down outside the processes under test.
//!
//! The evidence of a run is one file. Every process of the run appends to it, one `write` for one line, so that a `kill -9` at
//! any moment erases nothing that was written. [`checker::check`](crate::checker::check) judges what [`read`] gives back.
//!
//! ```
//! use catga_testkit::evidence::{Evidence, Outcome, What, checksum, read};
//!
//! # let folder = tempfile::tempdir()?;
//! let path = folder.path().join("run.jsonl");
//! let evidence = Evidence::create(&path, "publisher-1")?;
//! let call = evidence.fresh();
//! let checksum = checksum("0193", [("tenant", "acme")], b"{\"id\":17}");
//! evidence.write(17, What::Publishing { call, subject: "orders".into(), key: None, checksum })?;
//! // .. the publish itself ..
//! evidence.write(17, What::Published { call, outcome: Outcome::Ok })?;
//!
//! let events = read(&path)?;
//! assert_eq!(events.len(), 2);
//! assert_eq!(events[1].id, Some(17));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod about;
mod event;
mod reader;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

pub use about::About;
pub use event::{EffectKind, Event, Outcome, Reply, What, checksum};
pub use reader::{EvidenceError, Follower, read};

/// Where one process writes down what happens in it.
///
/// Any thread may write; clones share the file. There is no lock: the system appends each line at the end of the file in one
/// step. That holds for local file systems, not for network ones.
#[derive(Clone, Debug)]
pub struct Evidence {
    file: Arc<File>,
    process: Arc<str>,
}

impl Evidence {
    /// Begins the evidence of a run, in a file that is not there yet; `process` is the name of this process.
    ///
    /// # Errors
    /// When the file is there, or cannot be made.
    pub fn create(path: impl AsRef<Path>, process: &str) -> io::Result<Self> {
        Self::with(OpenOptions::new().create_new(true), path.as_ref(), process)
    }

    /// Adds to the evidence that another process began; `process` is the name of this process.
    ///
    /// # Errors
    /// When the file is not there, or cannot be written.
    pub fn open(path: impl AsRef<Path>, process: &str) -> io::Result<Self> {
        Self::with(&mut OpenOptions::new(), path.as_ref(), process)
    }

    fn with(options: &mut OpenOptions, path: &Path, process: &str) -> io::Result<Self> {
        Ok(Self {
            file: Arc::new(options.append(true).open(path)?),
            process: process.into(),
        })
    }

    /// The same file, in the name of another process: for what stands for several in one.
    #[must_use]
    pub fn named(&self, process: &str) -> Self {
        Self {
            file: Arc::clone(&self.file),
            process: process.into(),
        }
    }

    /// A number for a run of a handler, a publish or a request, that no other process of this run has.
    #[must_use]
    pub fn fresh(&self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        (u64::from(std::process::id()) << 32) | NEXT.fetch_add(1, Ordering::Relaxed)
    }

    /// Writes down what happens now. When this returns, no end of this process takes it back.
    ///
    /// `about` is `()`, a message's id, a group's name, or both: `("billing", 17)`.
    ///
    /// # Errors
    /// When the line was not written, or not as a whole: the run then proves nothing.
    pub fn write(&self, about: impl Into<About>, what: What) -> io::Result<()> {
        let About { group, id } = about.into();
        let event = Event {
            at: now(),
            process: self.process.to_string(),
            group,
            id,
            what,
        };
        let mut line = serde_json::to_vec(&event)?;
        line.push(b'\n');
        append(&self.file, &line)
    }
}

/// One line with one `write`: a second one for the rest could land behind the line of somebody else.
fn append(mut file: &File, line: &[u8]) -> io::Result<()> {
    loop {
        match file.write(line) {
            Ok(written) if written == line.len() => return Ok(()),
            Ok(written) => {
                return Err(io::Error::new(
                    io::ErrorKind::WriteZero,
                    format!("{written} of {} bytes of evidence were written", line.len()),
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Microseconds since 1970 by the clock that all processes of this machine share.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    })
}
