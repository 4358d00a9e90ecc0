//! A disk that is soon full.

use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A small file system in memory, mounted for as long as this lives.
#[derive(Debug)]
pub(crate) struct SmallDisk(TempDir);

impl SmallDisk {
    /// Mounts one of so many bytes; none where that is not allowed.
    pub(crate) fn mount(bytes: u64) -> std::io::Result<Option<Self>> {
        let folder = TempDir::with_prefix("catga-disk-")?;
        let size = format!("size={bytes}");
        let arguments = ["-t", "tmpfs", "-o", &size, "catga"];
        Ok(run("mount", &arguments, folder.path()).then(|| Self(folder)))
    }

    /// Makes it larger.
    pub(crate) fn grow(&self, bytes: u64) -> std::io::Result<()> {
        let options = format!("remount,size={bytes}");
        if run("mount", &["-o", &options], self.0.path()) {
            Ok(())
        } else {
            Err(std::io::Error::other("the disk cannot be made larger"))
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Also where somebody still has a file open there.
        run("umount", &["-l"], self.0.path());
    }
}

fn run(program: &str, arguments: &[&str], folder: &Path) -> bool {
    let ran = Command::new(program)
        .args(arguments)
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    ran.is_ok_and(|status| status.success())
}
