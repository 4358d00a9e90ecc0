//! What a `file://` URL says.

use std::path::PathBuf;
use std::time::Duration;

use catga_core::{BackendUrl, Error};

use crate::error;

/// The names of the URL options.
pub(crate) const NAMES: &[&str] = &["bug", "max_messages", "max_payload", "poll_ms", "sync"];

/// A bug on purpose: what a test kit has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A message counts as handled when it is handed out, before its handler began.
    AckBeforeHandler,
    /// Every 100th message of a connection is thrown away, and `publish` says that it is stored.
    SkipEvery100th,
    /// A member goes on settling after its lease was lost, and so settles what another member has by now.
    ForgetLease,
}

impl Bug {
    const ALL: &[(&str, Self)] = &[
        ("ack_before_handler", Self::AckBeforeHandler),
        ("skip_every_100th", Self::SkipEvery100th),
        ("forget_lease", Self::ForgetLease),
    ];
}

/// How a connection is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) folder: PathBuf,
    pub(crate) bug: Option<Bug>,
    pub(crate) max_messages: usize,
    pub(crate) max_payload: usize,
    pub(crate) poll: Duration,
    pub(crate) sync: bool,
}

impl Options {
    /// Reads a URL.
    pub(crate) fn read(url: &BackendUrl) -> Result<Self, Error> {
        let stray = !url.hosts().is_empty() || url.user().is_some() || url.password().is_some();
        if stray || url.path().is_empty() {
            return Err(error::config(
                "a file:// URL has a path from the root, and nothing before it: write file:///path/to/folder",
            ));
        }
        Ok(Self {
            folder: PathBuf::from(format!("/{}", url.path())),
            bug: bug(url)?,
            max_messages: number(url, "max_messages", 10_000)?,
            max_payload: number(url, "max_payload", 1024 * 1024)?,
            poll: Duration::from_millis(number(url, "poll_ms", 5)? as u64),
            sync: flag(url, "sync", true)?,
        })
    }
}

fn bug(url: &BackendUrl) -> Result<Option<Bug>, Error> {
    let Some(name) = url.option("bug") else {
        return Ok(None);
    };
    match Bug::ALL.iter().find(|bug| bug.0 == name) {
        Some(bug) => Ok(Some(bug.1)),
        None => {
            let known: Vec<_> = Bug::ALL.iter().map(|bug| bug.0).collect();
            Err(refused("bug", name, &known.join(", ")))
        }
    }
}

fn number(url: &BackendUrl, option: &str, default: usize) -> Result<usize, Error> {
    const MAX: usize = 1 << 31;
    match url.option(option).map(|text| (text, text.parse())) {
        None => Ok(default),
        Some((_, Ok(value))) if (1..=MAX).contains(&value) => Ok(value),
        Some((text, _)) => Err(refused(
            option,
            text,
            &format!("the numbers from 1 to {MAX}"),
        )),
    }
}

fn flag(url: &BackendUrl, option: &str, default: bool) -> Result<bool, Error> {
    let Some(text) = url.option(option) else {
        return Ok(default);
    };
    text.parse()
        .map_err(|_| refused(option, text, "true, false"))
}

fn refused(option: &str, text: &str, allowed: &str) -> Error {
    error::config(format!(
        "the URL option `{option}` is {text:?}: allowed are {allowed}"
    ))
}

#[cfg(test)]
mod tests {
    use catga_core::ErrorKind;

    use super::*;

    fn read(url: &str) -> Result<Options, Error> {
        Options::read(&url.parse().unwrap())
    }

    #[test]
    fn options_are_read_and_the_rest_is_default() {
        let options = read("file:///a%20b/c?bug=forget_lease&poll_ms=7&sync=false").unwrap();
        assert_eq!(options.folder, PathBuf::from("/a b/c"));
        assert_eq!(
            (options.bug, options.poll, options.sync),
            (Some(Bug::ForgetLease), Duration::from_millis(7), false)
        );
        let options = read("file:///x?strict=true").unwrap();
        assert_eq!((options.bug, options.sync), (None, true));
        assert_eq!(
            (options.max_messages, options.max_payload),
            (10_000, 1 << 20)
        );
    }

    #[test]
    fn a_bad_value_is_named_with_what_is_allowed() {
        for (url, part) in [
            ("file://", "write file:///path/to/folder"),
            ("file://host/x", "write file:///path/to/folder"),
            ("file:///x?bug=none", "ack_before_handler, skip_every_100th"),
            ("file:///x?max_messages=0", "`max_messages` is \"0\""),
            ("file:///x?poll_ms=1ms", "from 1 to"),
            ("file:///x?sync=1", "true, false"),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            assert!(error.message().contains(part), "{url}: {error}");
        }
    }
}
