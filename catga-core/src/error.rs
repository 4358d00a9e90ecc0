//! The one error of the framework.

use std::fmt;
use std::time::Duration;

use crate::Envelope;

/// Any error, as a cause.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A result whose error is, unless said otherwise, the framework's.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, whether to try again, and for a publish, whether it may yet arrive.
///
/// Match on [`kind`](Self::kind); show the text to people. `Display` prints this error alone and
/// [`source`](std::error::Error::source) has the cause, so that a chain prints each once; `Debug`
/// prints everything.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    retry: Retry,
    stored: Stored,
    operation: &'static str,
    message: String,
    context: Vec<(&'static str, String)>,
    source: Option<BoxError>,
    envelope: Option<Envelope>,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting, URL or set of handlers that cannot work.
    Config,
    /// A name that may not go onto the wire.
    InvalidName,
    /// The backend could not be reached.
    Connect,
    /// The broker refused who we are or what we asked for.
    Permission,
    /// The backend cannot do what was asked.
    Unsupported,
    /// Something on the broker is set otherwise than asked for.
    Conflict,
    /// A message could not be encoded.
    Encode,
    /// A payload could not be decoded.
    Decode,
    /// A message is of a newer version than its handler knows.
    Version,
    /// A payload with its headers is larger than the backend takes.
    PayloadTooLarge,
    /// A queue, stream or store is full.
    LimitReached,
    /// No handler for the message is registered here.
    NoHandler,
    /// Nobody answers this request.
    NoResponders,
    /// No node has this id, nor had it lately.
    UnknownNode,
    /// The node with this id was there, and has left or died.
    NodeGone,
    /// Another live node has this id.
    DuplicateNode,
    /// What was asked for does not exist.
    NotFound,
    /// No outcome was known in time.
    Timeout,
    /// The backend cannot be used now.
    Unavailable,
    /// A lease ran out and another owner may have taken over.
    LostOwnership,
    /// The application, subscription or connection was shut down.
    Closed,
    /// A handler failed.
    Handler,
    /// A handler panicked.
    Panic,
    /// The request ran before, but its response was too large or too old to be kept.
    ResponseNotKept,
}

impl ErrorKind {
    /// All kinds, in the order of their declaration.
    pub const ALL: &[Self] = &[
        Self::Config,
        Self::InvalidName,
        Self::Connect,
        Self::Permission,
        Self::Unsupported,
        Self::Conflict,
        Self::Encode,
        Self::Decode,
        Self::Version,
        Self::PayloadTooLarge,
        Self::LimitReached,
        Self::NoHandler,
        Self::NoResponders,
        Self::UnknownNode,
        Self::NodeGone,
        Self::DuplicateNode,
        Self::NotFound,
        Self::Timeout,
        Self::Unavailable,
        Self::LostOwnership,
        Self::Closed,
        Self::Handler,
        Self::Panic,
        Self::ResponseNotKept,
    ];

    /// The kind as the wire, logs and metrics write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::InvalidName => "invalid_name",
            Self::Connect => "connect",
            Self::Permission => "permission",
            Self::Unsupported => "unsupported",
            Self::Conflict => "conflict",
            Self::Encode => "encode",
            Self::Decode => "decode",
            Self::Version => "version",
            Self::PayloadTooLarge => "payload_too_large",
            Self::LimitReached => "limit_reached",
            Self::NoHandler => "no_handler",
            Self::NoResponders => "no_responders",
            Self::UnknownNode => "unknown_node",
            Self::NodeGone => "node_gone",
            Self::DuplicateNode => "duplicate_node",
            Self::NotFound => "not_found",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::LostOwnership => "lost_ownership",
            Self::Closed => "closed",
            Self::Handler => "handler",
            Self::Panic => "panic",
            Self::ResponseNotKept => "response_not_kept",
        }
    }

    /// The kind that [`as_str`](Self::as_str) writes as `text`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == text)
    }

    /// Whether the same call may succeed later, judged by the kind alone.
    const fn default_retry(self) -> Retry {
        match self {
            Self::Connect | Self::Unavailable => Retry::Reconnect,
            Self::LimitReached
            | Self::NoResponders
            | Self::NodeGone
            | Self::Timeout
            | Self::Handler
            | Self::Panic => Retry::Now,
            _ => Retry::Never,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retry {
    /// The same call fails again.
    Never,
    /// With the usual back-off.
    Now,
    /// Not before this long.
    After(Duration),
    /// When the connection is back.
    Reconnect,
}

/// Whether the message of a failed publish may be at the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stored {
    /// Certainly not: the publish was rejected.
    No,
    /// The outcome is unknown: the message may arrive. A retry must use the same id.
    Unknown,
}

impl Error {
    /// An error of `kind` in `operation` (`publish`, `subscribe`, `connect` ..): `message` says what
    /// happened, where, and what to do, in lower case and without a full stop.
    #[must_use]
    pub fn new(kind: ErrorKind, operation: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            retry: kind.default_retry(),
            stored: Stored::No,
            operation,
            message: message.into(),
            context: Vec::new(),
            source: None,
            envelope: None,
        }))
    }

    /// Adds what `Debug` and logs show beside the message.
    #[must_use]
    pub fn with_context(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((key, value.to_string()));
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Says whether trying again can help, where the kind alone does not.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// Marks the outcome of a publish or a request as unknown: it may have been stored or run.
    #[must_use]
    pub fn with_unknown_outcome(mut self) -> Self {
        self.0.stored = Stored::Unknown;
        self
    }

    /// Gives the message that could not be published back to the caller.
    #[must_use]
    pub fn with_envelope(mut self, envelope: Envelope) -> Self {
        self.0.envelope = Some(envelope);
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether trying again can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// For a failed publish: whether the message may yet arrive.
    #[must_use]
    pub fn stored(&self) -> Stored {
        self.0.stored
    }

    /// For a failed publish: `true` when its outcome is unknown. It may arrive; republish it with
    /// the same id, never with a new one.
    #[must_use]
    pub fn may_be_stored(&self) -> bool {
        self.0.stored == Stored::Unknown
    }

    /// What was being done: `publish`, `subscribe`, `connect` ..
    #[must_use]
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// What happened, in words.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What was added under this key, the first where there are several: `capability` names the one that an
    /// [`Unsupported`](ErrorKind::Unsupported) error is about.
    #[must_use]
    pub fn context(&self, key: &str) -> Option<&str> {
        let mut context = self.0.context.iter();
        let found = context.find(|(known, _)| *known == key);
        found.map(|(_, value)| value.as_str())
    }

    /// The message that could not be published.
    #[must_use]
    pub fn envelope(&self) -> Option<&Envelope> {
        self.0.envelope.as_ref()
    }

    /// The message that could not be published, with its id, to be published again.
    #[must_use]
    pub fn into_envelope(self) -> Option<Envelope> {
        self.0.envelope
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.operation, self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} [{}", self.0.kind)?;
        for (key, value) in &self.0.context {
            write!(f, ", {key}={value}")?;
        }
        if self.may_be_stored() {
            write!(f, ", may be stored")?;
        }
        write!(f, "]")?;
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            write!(f, "\n  caused by: {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_carries_one_word() {
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }

    #[test]
    fn kinds_survive_the_wire() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::parse(kind.as_str()), Some(*kind));
        }
        assert_eq!(ErrorKind::parse("no such kind"), None);
    }

    #[test]
    fn each_part_of_the_chain_is_printed_once() {
        let error = Error::new(ErrorKind::Connect, "connect", "no server at 127.0.0.1:1")
            .with_context("backend", "nats")
            .with_source(std::io::Error::other("refused"));
        assert_eq!(error.to_string(), "connect: no server at 127.0.0.1:1");
        assert_eq!(
            format!("{error:?}"),
            "connect: no server at 127.0.0.1:1 [connect, backend=nats]\n  caused by: refused"
        );
    }
}
