//! A group: what it has to handle, and the changes of state that one process wins.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use catga_core::{Envelope, Name};

use crate::disk::{after, names_of, now, sync_folder, was_there};
use crate::entry::Entry;
use crate::message;
use crate::options::Bug;
use crate::topic::Topic;

/// The folder of a group.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) topic: Arc<Topic>,
    pub(crate) name: Name,
    pub(crate) folder: PathBuf,
}

impl Group {
    pub(crate) fn new(topic: Arc<Topic>, name: Name) -> Self {
        let folder = topic.groups_folder().join(name.as_str());
        Self {
            topic,
            name,
            folder,
        }
    }

    /// Where those are that it gave up.
    pub(crate) fn dead_folder(&self) -> PathBuf {
        self.folder.join("dead")
    }

    /// The file of a message that it was not given yet.
    pub(crate) fn fresh(&self, number: u64) -> PathBuf {
        self.file(Entry::new(number))
    }

    pub(crate) fn file(&self, entry: Entry) -> PathBuf {
        self.folder.join(entry.to_string())
    }

    /// Whether it has all that it is to begin with.
    pub(crate) fn is_complete(&self) -> bool {
        self.folder.join("complete").exists()
    }

    pub(crate) fn complete(&self) -> io::Result<()> {
        File::create(self.folder.join("complete"))?;
        if self.topic.store.options.sync {
            sync_folder(&self.folder)?;
        }
        Ok(())
    }

    /// What it is not done with, in the order in which it is to be taken. One whose name changes meanwhile may be
    /// missing: the next look finds it. A folder that is gone is an error, and not an empty one.
    fn entries(&self) -> io::Result<Vec<Entry>> {
        let names = names_of(fs::read_dir(&self.folder)?)?;
        let mut entries: Vec<_> = names.iter().filter_map(|name| Entry::parse(name)).collect();
        entries.sort_unstable();
        Ok(entries)
    }

    /// How many may be taken now.
    pub(crate) fn waiting(&self) -> io::Result<usize> {
        let now = now();
        Ok(self
            .entries()?
            .iter()
            .filter(|entry| entry.due <= now)
            .count())
    }

    /// Takes up to `max` messages, each for as long as the lease.
    pub(crate) fn take(&self, max: usize, lease: Duration) -> io::Result<Vec<(Entry, Envelope)>> {
        let mut taken = Vec::new();
        if max == 0 {
            return Ok(taken);
        }
        let now = now();
        for entry in self.entries()? {
            if entry.due > now || taken.len() == max {
                break;
            }
            match self.take_one(entry, lease) {
                Ok(one) => taken.extend(one),
                // A file that cannot be read has a lease now too, so that it keeps nobody from the others.
                Err(error) if taken.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok(taken)
    }

    /// Takes one message, unless somebody else was quicker.
    fn take_one(&self, entry: Entry, lease: Duration) -> io::Result<Option<(Entry, Envelope)>> {
        let mut leased = entry.due_at(after(lease));
        leased.count = entry.count.saturating_add(1);
        if !self.change(entry, leased)? {
            return Ok(None);
        }
        let envelope = message::read(&self.topic.name, &self.file(leased))?;
        // Planted bug: acked before the handler.
        if self.has(Bug::AckBeforeHandler) {
            self.finish(leased)?;
        }
        Ok(Some((leased, envelope)))
    }

    /// Changes the state of a message. Whether it was in that state still.
    pub(crate) fn change(&self, from: Entry, to: Entry) -> io::Result<bool> {
        was_there(fs::rename(self.file(from), self.file(to)))
    }

    /// The group is done with a message. Whether it was in that state still.
    pub(crate) fn finish(&self, entry: Entry) -> io::Result<bool> {
        let finished = was_there(fs::remove_file(self.file(entry)))?;
        if finished {
            self.topic.forget(entry.number);
        }
        Ok(finished)
    }

    /// Whether a bug was planted.
    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.topic.store.options.bug == Some(bug)
    }

    /// What a message's state is by now, whoever has it: only a bug needs to know.
    pub(crate) fn whoever_has(&self, entry: Entry) -> Entry {
        let entries = self.entries().unwrap_or_default();
        let mut same = entries.into_iter().filter(|e| e.number == entry.number);
        same.next().unwrap_or(entry)
    }
}
