//! Requests and replies on their way.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Json, Name, NodeId, Retry};

/// To whom a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// To one node of this service, whichever takes it.
    Service(Name),
    /// To this node.
    Node(NodeId),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => write!(f, "service {service}"),
            Self::Node(node) => write!(f, "node {node}"),
        }
    }
}

/// The answer to a request: a payload, or what went wrong over there.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The media type of the payload.
    pub content_type: String,
    /// The encoded response, or the error.
    pub result: Result<Bytes, RemoteError>,
}

impl Reply {
    /// A response.
    #[must_use]
    pub fn ok(payload: Bytes) -> Self {
        Self {
            content_type: Json::CONTENT_TYPE.to_owned(),
            result: Ok(payload),
        }
    }

    /// An error.
    #[must_use]
    pub fn err(error: RemoteError) -> Self {
        Self {
            content_type: Json::CONTENT_TYPE.to_owned(),
            result: Err(error),
        }
    }

    /// Sets the media type of the payload.
    #[must_use]
    pub fn with_content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = content_type.into();
        self
    }
}

/// An error that a handler on another node answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteError {
    /// The kind, as [`ErrorKind::as_str`] writes it.
    pub kind: String,
    /// What happened, in words.
    pub message: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
}

impl RemoteError {
    /// What a caller gets to see of `error`: its message with those of its causes.
    #[must_use]
    pub fn new(error: &Error) -> Self {
        let mut message = error.message().to_owned();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        Self {
            kind: error.kind().as_str().to_owned(),
            message,
            retryable: error.retry() != Retry::Never,
        }
    }

    /// The error as the caller's own.
    #[must_use]
    pub fn into_error(self, operation: &'static str) -> Error {
        let kind = ErrorKind::parse(&self.kind).unwrap_or(ErrorKind::Handler);
        let retry = if self.retryable {
            Retry::Now
        } else {
            Retry::Never
        };
        Error::new(kind, operation, self.message).with_retry(retry)
    }
}
