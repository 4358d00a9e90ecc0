//! What all parts do with files, and with the clock.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What was not finished for so long belongs to a process that was killed.
const STALE: Duration = Duration::from_secs(3600);

/// Nanoseconds since 1970: the clock that all processes of a machine share.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    nanos(since.unwrap_or_default())
}

/// The time after a delay.
pub(crate) fn after(delay: Duration) -> u64 {
    now().saturating_add(nanos(delay))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether what was to be changed was there: another process may have been quicker.
pub(crate) fn was_there(outcome: io::Result<()>) -> io::Result<bool> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        other => other.map(|()| true),
    }
}

/// Whether a link is new: another process may have made it.
pub(crate) fn is_new(outcome: io::Result<()>) -> io::Result<bool> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        other => other.map(|()| true),
    }
}

/// The names in a folder, in no order; none when it is not there.
pub(crate) fn names(folder: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        files => names_of(files?),
    }
}

/// The names in an open folder. Those that are no text are none of ours.
pub(crate) fn names_of(folder: fs::ReadDir) -> io::Result<Vec<String>> {
    folder
        .filter_map(|file| match file {
            Ok(file) => file.file_name().into_string().ok().map(Ok),
            Err(error) => Some(Err(error)),
        })
        .collect()
}

/// Waits until the disk has the names in a folder.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A file with content and no place yet: it is linked to where it belongs, and goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Draft(PathBuf);

impl Draft {
    /// Writes a file into the folder of drafts.
    pub(crate) fn write(folder: &Path, content: &[&[u8]], sync: bool) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{:016x}-{}-{number}", now(), std::process::id());
        let draft = Self(folder.join(name));
        let mut file = File::create_new(&draft.0)?;
        for part in content {
            file.write_all(part)?;
        }
        if sync {
            file.sync_all()?;
        }
        Ok(draft)
    }

    pub(crate) fn link(&self, to: &Path) -> io::Result<()> {
        fs::hard_link(&self.0, to)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // What stays is swept later.
        let _ = fs::remove_file(&self.0);
    }
}

/// Removes those files of a folder that `is_leftover` means and that nobody will finish any more.
pub(crate) fn sweep(folder: &Path, is_leftover: impl Fn(&str) -> bool) -> io::Result<()> {
    for name in names(folder)? {
        let path = folder.join(&name);
        let age = |meta: fs::Metadata| meta.modified().ok()?.elapsed().ok();
        let age = fs::metadata(&path).ok().and_then(age);
        if age.is_some_and(|age| age > STALE) && is_leftover(&name) {
            was_there(fs::remove_file(path))?;
        }
    }
    Ok(())
}
