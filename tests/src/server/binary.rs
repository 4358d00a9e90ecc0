//! Where the servers' programs are.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ServerError;

/// A server's program.
#[derive(Clone, Debug)]
pub struct Binary {
    path: PathBuf,
    version: String,
}

impl Binary {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version, as in `2.9.10`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }
}

/// `nats-server`: as `CATGA_NATS_SERVER` says, else that of the `PATH` or of `/usr/sbin`.
///
/// # Errors
/// When there is none, or it does not say its version.
pub fn nats_server() -> Result<Binary, ServerError> {
    find("nats-server", "CATGA_NATS_SERVER")
}

/// `redis-server`, or Valkey's: as `CATGA_REDIS_SERVER` says, else that of the `PATH` or of `/usr/sbin`.
///
/// # Errors
/// When there is none, or it does not say its version.
pub fn redis_server() -> Result<Binary, ServerError> {
    find("redis-server", "CATGA_REDIS_SERVER")
}

fn find(name: &str, variable: &str) -> Result<Binary, ServerError> {
    let given = env::var_os(variable).map(PathBuf::from);
    let path = match given {
        Some(path) if path.is_file() => path,
        Some(path) => {
            return Err(ServerError::new(format!(
                "{variable} names {}, which is no file",
                path.display()
            )));
        }
        None => in_path(name).ok_or_else(|| {
            ServerError::new(format!(
                "no `{name}` on the PATH or in /usr/sbin: run ./scripts/test, which installs it, or name one: {variable}=/path/to/{name}"
            ))
        })?,
    };
    let version = version(&path)?;
    Ok(Binary { path, version })
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = env::split_paths(&path).collect();
    folders.push("/usr/sbin".into());
    let mut files = folders.into_iter().map(|folder| folder.join(name));
    files.find(|file| file.is_file())
}

/// `nats-server: v2.9.10`, `Redis server v=7.0.15 sha=..`: the first word with a number and dots, without what is before.
fn version(path: &Path) -> Result<String, ServerError> {
    let shown = path.display();
    let output = Command::new(path)
        .arg("--version")
        .output()
        .map_err(|error| ServerError::new(format!("{shown} --version: {error}")))?;
    let output = String::from_utf8_lossy(&output.stdout);
    let words = output.split_whitespace();
    let mut versions = words.filter_map(|word| {
        let version = word.trim_start_matches(|c: char| !c.is_ascii_digit());
        version.contains('.').then(|| version.to_owned())
    });
    let unknown = || ServerError::new(format!("{shown} --version says {:?}", output.trim()));
    versions.next().ok_or_else(unknown)
}
