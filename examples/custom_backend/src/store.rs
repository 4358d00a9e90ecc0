//! The folder of a namespace, as one connection has it.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use catga_core::{Error, Name};

use crate::disk;
use crate::error;
use crate::letters;
use crate::options::Options;
use crate::topic::Topic;

/// Where everything is, shared by all that came from a connection.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) options: Options,
    root: PathBuf,
    closed: AtomicBool,
}

impl Store {
    /// Opens the folder, made when it is not there, and sweeps what killed processes left.
    pub(crate) fn open(options: Options, namespace: &Name) -> io::Result<Arc<Self>> {
        let root = options.folder.join(namespace.as_str());
        let store = Arc::new(Self {
            options,
            root,
            closed: AtomicBool::new(false),
        });
        fs::create_dir_all(store.drafts())?;
        fs::create_dir_all(store.topics_folder())?;
        disk::sweep(&store.drafts(), |_| true)?;
        for topic in store.topics()? {
            topic.groups()?.iter().try_for_each(letters::sweep)?;
        }
        Ok(store)
    }

    /// Where files are written before they have a name.
    pub(crate) fn drafts(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(crate) fn topics_folder(&self) -> PathBuf {
        self.root.join("topics")
    }

    pub(crate) fn topic(self: &Arc<Self>, name: &Name) -> Arc<Topic> {
        Arc::new(Topic::new(Arc::clone(self), name.clone()))
    }

    /// The topics that are there.
    pub(crate) fn topics(self: &Arc<Self>) -> io::Result<Vec<Arc<Topic>>> {
        let names = disk::names(&self.topics_folder())?.into_iter();
        let names = names.filter_map(|name| Name::new(name).ok());
        Ok(names.map(|name| self.topic(&name)).collect())
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Turns what the file system said into an error of ours.
    pub(crate) fn failed(&self, operation: &'static str) -> impl Fn(io::Error) -> Error {
        move |error| error::io(operation, &self.root, error)
    }

    /// Refuses what is asked of a connection that was closed.
    pub(crate) fn check_open(&self, operation: &'static str) -> Result<(), Error> {
        if self.is_closed() {
            Err(error::closed(operation))
        } else {
            Ok(())
        }
    }
}

/// Does what may wait for the disk, or for another process, on a thread that may. What was begun is ended, also
/// when nobody waits for it any more.
pub(crate) async fn on_disk<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    // Only a runtime that shuts down drops it.
    done.unwrap_or_else(|_| Err(error::closed(operation).with_unknown_outcome()))
}
