//! Messages that a group gave up: in a folder of the group's, each with its reason beside it.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use catga_core::{
    DeadLetter, DeadLetterFilter, DeadLetterId, DeadLetters, Error, Name, Page, Reason, ReasonKind,
    async_trait,
};

use crate::disk::{self, Draft, names, now, sync_folder, was_there};
use crate::entry::Entry;
use crate::error;
use crate::group::Group;
use crate::message;
use crate::store::{Store, on_disk};

/// Moves a message from its group to the dead letters. Whether it was in that state still.
///
/// The reason is written first; the rename decides. So there is no letter without a reason, and a reason without a
/// letter is a leftover.
pub(crate) fn bury(group: &Group, entry: Entry, reason: &Reason) -> io::Result<bool> {
    let letter = Letter {
        dead_at: now(),
        entry,
        group: group.clone(),
    };
    let store = &group.topic.store;
    let sync = store.options.sync;
    let written = Draft::write(&store.drafts(), &[&serde_json::to_vec(reason)?], sync)?;
    written.link(&letter.reason_file())?;
    let buried = was_there(fs::rename(group.file(entry), letter.file()));
    if !matches!(buried, Ok(true)) {
        let _ = fs::remove_file(letter.reason_file());
    } else if sync {
        sync_folder(&group.dead_folder())?;
    }
    buried
}

/// Removes reasons that never got a letter.
pub(crate) fn sweep(group: &Group) -> io::Result<()> {
    let folder = group.dead_folder();
    let alone = |name: &str| {
        let letter = name.strip_suffix(".reason");
        letter.is_some_and(|letter| !folder.join(letter).exists())
    };
    disk::sweep(&folder, alone)
}

/// A dead letter, as its file's name tells it.
#[derive(Debug)]
struct Letter {
    dead_at: u64,
    entry: Entry,
    group: Group,
}

impl Letter {
    fn name(&self) -> String {
        format!("{:016x}-{}", self.dead_at, self.entry)
    }

    fn parse(group: &Group, name: &str) -> Option<Self> {
        let (dead_at, entry) = name.split_once('-')?;
        let letter = Self {
            dead_at: u64::from_str_radix(dead_at, 16).ok()?,
            entry: Entry::parse(entry)?,
            group: group.clone(),
        };
        (letter.name() == name).then_some(letter)
    }

    fn file(&self) -> PathBuf {
        self.group.dead_folder().join(self.name())
    }

    fn reason_file(&self) -> PathBuf {
        let name = format!("{}.reason", self.name());
        self.group.dead_folder().join(name)
    }

    /// The time comes first: ids sort by age. No name has a `~` in it.
    fn id(&self) -> DeadLetterId {
        let (message, group) = (&self.group.topic.name, &self.group.name);
        DeadLetterId::new(format!("{}~{message}~{group}", self.name()))
    }

    /// The letter that an id means, which need not be there; none when it cannot.
    fn of_id(store: &Arc<Store>, id: &DeadLetterId) -> Option<Self> {
        let mut parts = id.as_str().splitn(3, '~');
        let name = parts.next()?;
        let message = Name::new(parts.next()?).ok()?;
        let group = Name::new(parts.next()?).ok()?;
        Self::parse(&store.topic(&message).group(group), name)
    }

    /// The letter with what is in it, when it is still there.
    fn read(&self) -> io::Result<Option<DeadLetter>> {
        let envelope = match message::read(&self.group.topic.name, &self.file()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            envelope => envelope?,
        };
        let reason = fs::read(self.reason_file()).map(|json| serde_json::from_slice(&json));
        let lost = || Reason::new(ReasonKind::Crashed, "the file with the reason is gone");
        let reason = reason.ok().and_then(Result::ok).unwrap_or_else(lost);
        let group = self.group.name.clone();
        let mut letter = DeadLetter::new(self.id(), envelope, group, reason, self.entry.count);
        letter.published_at = time(self.entry.number);
        letter.dead_at = time(self.dead_at);
        letter.generation = self.entry.generation;
        Ok(Some(letter))
    }

    /// Gives the message back to its group. Whether it was still there.
    fn redrive(&self) -> io::Result<bool> {
        let entry = Entry {
            count: 0,
            generation: self.entry.generation.saturating_add(1),
            ran: true,
            ..self.entry.due_at(now())
        };
        self.without_reason(fs::rename(self.file(), self.group.file(entry)))
    }

    /// Deletes the message for this group. Whether it was still there.
    fn delete(&self) -> io::Result<bool> {
        let deleted = self.without_reason(fs::remove_file(self.file()))?;
        self.group.topic.forget(self.entry.number);
        Ok(deleted)
    }

    /// Clears up when the letter went.
    fn without_reason(&self, gone: io::Result<()>) -> io::Result<bool> {
        let was_there = was_there(gone)?;
        if was_there {
            let _ = fs::remove_file(self.reason_file());
        }
        Ok(was_there)
    }
}

fn time(nanos: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanos)
}

/// The letters that are meant, oldest first.
fn find(store: &Arc<Store>, filter: &DeadLetterFilter) -> io::Result<Vec<Letter>> {
    fn is(wanted: Option<&Name>, name: &Name) -> bool {
        wanted.is_none_or(|wanted| wanted == name)
    }
    let mut letters = Vec::new();
    for topic in store.topics()? {
        if !is(filter.message.as_ref(), &topic.name) {
            continue;
        }
        for group in topic.groups()? {
            if is(filter.group.as_ref(), &group.name) {
                let names = names(&group.dead_folder())?;
                letters.extend(names.iter().filter_map(|name| Letter::parse(&group, name)));
            }
        }
    }
    letters.sort_by_cached_key(Letter::id);
    Ok(letters)
}

/// The dead letters of a folder.
#[derive(Debug)]
pub(crate) struct FileDeadLetters {
    store: Arc<Store>,
}

impl FileDeadLetters {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    async fn ask<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Arc<Store>) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        self.store.check_open(operation)?;
        let store = Arc::clone(&self.store);
        on_disk(operation, move || {
            work(&store).map_err(store.failed(operation))
        })
        .await
    }
}

#[async_trait]
impl DeadLetters for FileDeadLetters {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&DeadLetterId>,
        limit: usize,
    ) -> Result<Page, Error> {
        let (filter, after) = (filter.clone(), after.cloned());
        self.ask("list", move |store| {
            let mut found = find(store, &filter)?;
            found.retain(|letter| after.as_ref().is_none_or(|after| letter.id() > *after));
            let limit = limit.max(1);
            let last = found.get(limit - 1).filter(|_| found.len() > limit);
            let next = last.map(Letter::id);
            let mut letters = Vec::new();
            for letter in found.iter().take(limit) {
                letters.extend(letter.read()?);
            }
            Ok(Page::new(letters, next))
        })
        .await
    }

    async fn inspect(&self, id: &DeadLetterId) -> Result<Option<DeadLetter>, Error> {
        let id = id.clone();
        self.ask("inspect", move |store| {
            let letter = Letter::of_id(store, &id);
            letter.map_or(Ok(None), |letter| letter.read())
        })
        .await
    }

    async fn redrive(&self, id: &DeadLetterId) -> Result<(), Error> {
        let wanted = id.clone();
        let redrive = move |store: &Arc<Store>| {
            let letter = Letter::of_id(store, &wanted);
            letter.map_or(Ok(false), |letter| letter.redrive())
        };
        if self.ask("redrive", redrive).await? {
            Ok(())
        } else {
            Err(error::no_letter("redrive", id))
        }
    }

    async fn purge(&self, filter: &DeadLetterFilter) -> Result<u64, Error> {
        let filter = filter.clone();
        self.ask("purge", move |store| {
            let mut purged = 0;
            for letter in find(store, &filter)? {
                purged += u64::from(letter.delete()?);
            }
            Ok(purged)
        })
        .await
    }
}
