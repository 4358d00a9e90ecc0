//! Requests and replies on their way.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Name, NodeId, Retry};

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
#[non_exhaustive]
pub struct Reply {
    /// The media type of the payload, when it is not the default of the response: raw bytes for one that is `Bytes`,
    /// JSON for all others.
    pub content_type: Option<Cow<'static, str>>,
    /// The encoded response, or the error.
    pub result: Result<Bytes, RemoteError>,
}

impl Reply {
    /// A response.
    #[must_use]
    pub fn ok(payload: Bytes) -> Self {
        Self {
            content_type: None,
            result: Ok(payload),
        }
    }

    /// An error.
    #[must_use]
    pub fn err(error: RemoteError) -> Self {
        Self {
            content_type: None,
            result: Err(error),
        }
    }

    /// Sets the media type of the payload.
    #[must_use]
    pub fn with_content_type(mut self, content_type: impl Into<Cow<'static, str>>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }
}

/// An error that a handler on another node answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RemoteError {
    /// The kind, as [`ErrorKind::as_str`] writes it.
    pub kind: String,
    /// What happened, in words.
    pub message: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// Not before this long, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Whether the handler may have run, in whole or in part.
    #[serde(default = "unknown")]
    pub may_have_run: bool,
}

/// What an answer says that says nothing.
fn unknown() -> bool {
    true
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
        let retry_after_ms = match error.retry() {
            Retry::After(delay) => Some(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
            _ => None,
        };
        Self {
            kind: error.kind().as_str().to_owned(),
            message,
            retryable: error.retry() != Retry::Never,
            retry_after_ms,
            may_have_run: error.may_be_stored(),
        }
    }

    /// The error as the caller's own.
    #[must_use]
    pub fn into_error(self, operation: &'static str) -> Error {
        let kind = ErrorKind::parse(&self.kind).unwrap_or(ErrorKind::Handler);
        let retry = match (self.retryable, self.retry_after_ms) {
            (false, _) => Retry::Never,
            (true, None) => Retry::Now,
            (true, Some(delay)) => Retry::After(Duration::from_millis(delay)),
        };
        let error = Error::new(kind, operation, self.message).with_retry(retry);
        if self.may_have_run {
            error.with_unknown_outcome()
        } else {
            error
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_means_the_same_at_the_caller() {
        let after = Retry::After(Duration::from_millis(1500));
        let sent = Error::new(ErrorKind::Panic, "send", "it fell")
            .with_retry(after)
            .with_unknown_outcome();
        let wire = serde_json::to_string(&RemoteError::new(&sent)).unwrap();
        let got = serde_json::from_str::<RemoteError>(&wire)
            .unwrap()
            .into_error("send");
        assert_eq!(
            (got.kind(), got.retry(), got.may_be_stored()),
            (ErrorKind::Panic, after, true)
        );
        assert_eq!(got.message(), "it fell");
    }

    #[test]
    fn an_answer_that_does_not_say_may_have_run() {
        let bare = r#"{"kind":"handler","message":"no","retryable":false}"#;
        assert!(
            serde_json::from_str::<RemoteError>(bare)
                .unwrap()
                .into_error("send")
                .may_be_stored()
        );
    }
}
