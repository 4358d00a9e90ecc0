//! The errors of this backend, one constructor each.

use std::path::Path;
use std::{fmt, io};

use catga_core::{Capability, Error, ErrorKind, Name};

/// The connection or the subscription was closed by its owner.
pub(crate) fn closed(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::Closed,
        operation,
        "this connection to the folder, or this subscription, was closed",
    )
}

/// This backend lacks an ability.
pub(crate) fn unsupported(operation: &'static str, what: impl fmt::Display) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        operation,
        format!("the backend file has no {what}: use one that has it"),
    )
    .with_context("backend", "file")
    .with_context("capability", what)
}

/// A settlement that came into the contract after this backend was written.
pub(crate) fn unknown_settlement() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "settle",
        "the backend file does not know this settlement: use versions of catga that belong together",
    )
}

/// A claim or effects were to be completed here, by a store that this backend is not.
pub(crate) fn foreign_claim() -> Error {
    unsupported("settle", Capability::FusedCompletion)
}

/// The lease of a delivery ran out before.
pub(crate) fn lost_ownership(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::LostOwnership,
        operation,
        "the lease of this delivery ran out and the message is redelivered: settle or extend it within the ack wait",
    )
}

/// A message is larger than the backend takes.
pub(crate) fn too_large(name: &Name, size: usize, max: usize) -> Error {
    Error::new(
        ErrorKind::PayloadTooLarge,
        "publish",
        format!(
            "`{name}` has {size} bytes with its headers and the folder takes {max}: raise the URL option `max_payload`"
        ),
    )
}

/// The topic has as many messages as it may.
pub(crate) fn full(name: &Name, max: usize) -> Error {
    Error::new(
        ErrorKind::LimitReached,
        "publish",
        format!(
            "{max} messages `{name}` are retained, which is all that the folder keeps: its groups are too slow, or purge dead letters, or raise the URL option `max_messages`"
        ),
    )
}

/// The disk did not answer in time.
pub(crate) fn timeout(name: &Name) -> Error {
    Error::new(
        ErrorKind::Timeout,
        "publish",
        format!("`{name}` was not written before the deadline: it may be yet"),
    )
    .with_unknown_outcome()
}

/// A dead letter was redriven or purged before, or never was.
pub(crate) fn no_letter(operation: &'static str, id: impl fmt::Display) -> Error {
    Error::new(
        ErrorKind::NotFound,
        operation,
        format!(
            "there is no dead letter `{id}`: it was redriven or purged, or is of another folder"
        ),
    )
}

/// Something about the URL.
pub(crate) fn config(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, "connect", message)
}

/// What the file system said: the one place where its errors become ours.
pub(crate) fn io(operation: &'static str, folder: &Path, error: io::Error) -> Error {
    use io::ErrorKind as Io;
    let (kind, problem) = match error.kind() {
        Io::PermissionDenied | Io::ReadOnlyFilesystem => (
            ErrorKind::Permission,
            "may not be changed by this process: check its owner",
        ),
        Io::StorageFull | Io::QuotaExceeded => (ErrorKind::LimitReached, "has no room on its disk"),
        Io::InvalidData | Io::UnexpectedEof => (
            ErrorKind::Decode,
            "has a file that is no message: move it away",
        ),
        _ => (ErrorKind::Unavailable, "cannot be used"),
    };
    let folder = folder.display();
    Error::new(kind, operation, format!("the folder {folder} {problem}")).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_of_the_file_system_has_its_kind() {
        for (from, to) in [
            (io::ErrorKind::PermissionDenied, ErrorKind::Permission),
            (io::ErrorKind::StorageFull, ErrorKind::LimitReached),
            (io::ErrorKind::InvalidData, ErrorKind::Decode),
            (io::ErrorKind::NotADirectory, ErrorKind::Unavailable),
        ] {
            let error = io("publish", Path::new("/x"), from.into());
            assert_eq!((error.kind(), error.may_be_stored()), (to, false));
            assert!(error.message().starts_with("the folder /x "), "{error}");
        }
    }
}
