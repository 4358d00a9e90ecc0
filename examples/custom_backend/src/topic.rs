//! The messages of one name: what is retained, and which groups there are.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use catga_core::{Name, Start};

use crate::disk::{Draft, is_new, names, sync_folder, was_there};
use crate::group::Group;
use crate::store::Store;

/// The folder of a message name.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) store: Arc<Store>,
    pub(crate) name: Name,
    folder: PathBuf,
}

impl Topic {
    pub(crate) fn new(store: Arc<Store>, name: Name) -> Self {
        let folder = store.topics_folder().join(name.as_str());
        Self {
            store,
            name,
            folder,
        }
    }

    pub(crate) fn groups_folder(&self) -> PathBuf {
        self.folder.join("groups")
    }

    fn messages_folder(&self) -> PathBuf {
        self.folder.join("messages")
    }

    fn message(&self, number: u64) -> PathBuf {
        self.messages_folder().join(format!("{number:016x}"))
    }

    /// What is retained.
    fn numbers(&self) -> io::Result<Vec<u64>> {
        let names = names(&self.messages_folder())?.into_iter();
        let number = |name: String| u64::from_str_radix(&name, 16).ok();
        Ok(names.filter_map(number).collect())
    }

    /// The groups that are there.
    pub(crate) fn groups(self: &Arc<Self>) -> io::Result<Vec<Group>> {
        let names = names(&self.groups_folder())?.into_iter();
        let names = names.filter_map(|name| Name::new(name).ok());
        Ok(names.map(|name| self.group(name)).collect())
    }

    pub(crate) fn group(self: &Arc<Self>, name: Name) -> Group {
        Group::new(Arc::clone(self), name)
    }

    /// The group, made when it is not there: from then on each publish gives it the message.
    ///
    /// Whoever publishes links a message to `messages/` before it looks for groups. Here it is the other way round, so
    /// that a message which is published meanwhile is seen by one of the two, if not by both.
    pub(crate) fn join(self: &Arc<Self>, name: Name, start: Start) -> io::Result<Group> {
        let group = self.group(name);
        if group.is_complete() {
            return Ok(group);
        }
        fs::create_dir_all(&self.folder)?;
        // One at a time, and not while messages are dropped. The kernel unlocks the file of a killed process.
        let lock = self.lock_file()?;
        lock.lock()?;
        if !group.is_complete() {
            fs::create_dir_all(group.dead_folder())?;
            let wanted = match start {
                Start::New => Vec::new(),
                _ => self.numbers()?,
            };
            for number in wanted {
                let link = fs::hard_link(self.message(number), group.fresh(number));
                // It may be there by its publisher, or gone because the other groups have done with it.
                was_there(is_new(link).map(drop))?;
            }
            // Nobody received from the group before: who was killed on the way here is followed by the next.
            group.complete()?;
        }
        Ok(group)
    }

    fn lock_file(&self) -> io::Result<File> {
        File::create(self.folder.join("lock"))
    }

    /// Whether there is room for one more message, which is made where nobody needs another.
    pub(crate) fn has_room(self: &Arc<Self>) -> io::Result<bool> {
        let max = self.store.options.max_messages;
        let has_room = || Ok(fs::read_dir(self.messages_folder())?.count() < max);
        if has_room()? {
            return Ok(true);
        }
        self.drop_unneeded()?;
        has_room()
    }

    /// Drops what no group needs: what was there before a group that began with new ones, and what was left by
    /// a member that was killed between its ack and [`forget`](Self::forget). Without a group all is kept for the first.
    fn drop_unneeded(self: &Arc<Self>) -> io::Result<()> {
        let lock = self.lock_file()?;
        // A group that is being made may need anything.
        if lock.try_lock().is_err() {
            return Ok(());
        }
        let groups = self.groups()?;
        if !groups.is_empty() && groups.iter().all(Group::is_complete) {
            for number in self.numbers()? {
                self.forget(number);
            }
        }
        Ok(())
    }

    /// Keeps a message, for good: from here on it may be delivered. Returns its number, the first that is free.
    pub(crate) fn keep(&self, message: &Draft, mut number: u64) -> io::Result<u64> {
        while !is_new(message.link(&self.message(number)))? {
            number += 1;
        }
        Ok(number)
    }

    /// Gives a message that is kept to each group.
    pub(crate) fn hand_on(self: &Arc<Self>, message: Draft, number: u64) -> io::Result<()> {
        let groups = self.groups()?;
        for group in &groups {
            // A group that began meanwhile may have taken it by itself.
            is_new(message.link(&group.fresh(number)))?;
        }
        if self.store.options.sync {
            sync_folder(&self.messages_folder())?;
            groups
                .iter()
                .try_for_each(|group| sync_folder(&group.folder))?;
        }
        // The draft was a link too, so that the message could not go before every group had it.
        drop(message);
        if !groups.is_empty() {
            self.forget(number);
        }
        Ok(())
    }

    /// Makes the folder, for the first message.
    pub(crate) fn create(&self) -> io::Result<()> {
        fs::create_dir_all(self.messages_folder())
    }

    /// Drops a message when nobody has a link to it any more. One that stays by mistake goes when room is needed.
    pub(crate) fn forget(&self, number: u64) {
        let path = self.message(number);
        if fs::metadata(&path).is_ok_and(|file| file.nlink() == 1) {
            let _ = fs::remove_file(path);
        }
    }
}
