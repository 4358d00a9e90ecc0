//! What JetStream says to a publish.

use async_nats::jetstream;
use async_nats::{HeaderMap, Message, Subject};
use catga_core::{Bytes, Error, Published, Retry};
use serde::Deserialize;
use tokio::time::Instant;

use crate::connection::{Connection, is_no_responders};
use crate::error;

/// A message that a stream keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) sequence: u64,
    pub(crate) duplicate: bool,
}

impl From<Stored> for Published {
    fn from(stored: Stored) -> Self {
        if stored.duplicate {
            Self::duplicate()
        } else {
            Self::new()
        }
    }
}

#[derive(Deserialize)]
struct PubAck {
    error: Option<jetstream::Error>,
    seq: Option<u64>,
    #[serde(default)]
    duplicate: bool,
}

/// Reads the answer to a publish.
pub(crate) fn read(
    operation: &'static str,
    subject: &str,
    answer: &Message,
    managed: bool,
) -> Result<Stored, Error> {
    if is_no_responders(answer) {
        return Err(error::no_stream(operation, subject, managed));
    }
    // It was stored or refused, and nobody can read which.
    let odd = || error::unreadable(operation, "the answer to a publish").with_unknown_outcome();
    let ack: PubAck = serde_json::from_slice(&answer.payload).map_err(|e| odd().with_source(e))?;
    match (ack.error, ack.seq) {
        (Some(problem), _) => Err(error::jetstream(
            operation,
            &format!("`{subject}`"),
            &problem,
        )),
        // A cluster says so of a copy whose original it has not agreed on: it may come to nothing.
        (None, Some(0)) => Err(odd().with_retry(Retry::Now)),
        (None, Some(sequence)) => Ok(Stored {
            sequence,
            duplicate: ack.duplicate,
        }),
        (None, None) => Err(odd()),
    }
}

impl Connection {
    /// Publishes into a stream, and waits until it is stored.
    pub(crate) async fn store(
        &self,
        operation: &'static str,
        subject: Subject,
        headers: impl Fn() -> Option<HeaderMap> + Send + Sync,
        payload: Bytes,
        by: Instant,
    ) -> Result<Stored, Error> {
        let mut sent = self
            .send(operation, subject, &"", headers, payload, by)
            .await?;
        let answer = self.answer(&mut sent, by).await?;
        read(operation, sent.subject(), &answer, self.settings.manage)
    }
}

#[cfg(test)]
mod tests {
    use async_nats::StatusCode;
    use catga_core::ErrorKind;

    use super::*;

    fn answer(payload: &'static str, status: Option<StatusCode>) -> Result<Stored, Error> {
        let message = Message {
            subject: "i".into(),
            reply: None,
            payload: payload.into(),
            headers: None,
            status,
            description: None,
            length: 0,
        };
        read("publish", "a", &message, true)
    }

    #[test]
    fn an_ack_is_stored_a_duplicate_or_refused() {
        let stored = |sequence, duplicate| Stored {
            sequence,
            duplicate,
        };
        assert_eq!(
            answer(r#"{"stream":"s","seq":7}"#, None).unwrap(),
            stored(7, false)
        );
        let twice = r#"{"stream":"s","seq":7,"duplicate":true,"domain":"d"}"#;
        assert_eq!(answer(twice, None).unwrap(), stored(7, true));
        let full = r#"{"error":{"code":400,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"s","seq":0}"#;
        let error = answer(full, None).unwrap_err();
        assert_eq!(
            (error.kind(), error.may_be_stored()),
            (ErrorKind::LimitReached, false)
        );
        let nobody = answer("", Some(StatusCode::NO_RESPONDERS)).unwrap_err();
        assert_eq!(
            (nobody.kind(), nobody.may_be_stored()),
            (ErrorKind::NotFound, false)
        );
        for odd in ["", "{}", "[]", "+OK", r#"{"seq":0,"duplicate":true}"#] {
            assert!(answer(odd, None).unwrap_err().may_be_stored(), "{odd}");
        }
    }
}
