//! Reading what a stream keeps, without a consumer
//! ([ADR-31](https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-31.md)).

use std::time::{Duration, SystemTime};

use async_nats::{HeaderMap, Message, StatusCode};
use catga_core::{Bytes, Error, ErrorKind};
use serde::Serialize;
use tokio::time::Instant;

use crate::connection::{Connection, is_no_responders};
use crate::{error, wire};

/// A read that is not answered by then is asked again, and then after twice as long each time: nats-server 2.9 answers for
/// no stream that was made just now, and a node whose bucket was made anew is not to be silent for long.
const AGAIN: Duration = Duration::from_millis(250);

/// A message as a stream keeps it.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) sequence: u64,
    pub(crate) subject: String,
    pub(crate) time: SystemTime,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
}

/// Which message.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Which<'a> {
    /// The one with this number; with a subject the first from there on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seq: Option<u64>,
    /// The next to this subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_by_subj: Option<&'a str>,
    /// The last to this subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_by_subj: Option<&'a str>,
}

impl Connection {
    /// Reads one message; `None` where there is no such message, or no such stream.
    pub(crate) async fn read(
        &self,
        operation: &'static str,
        stream: &str,
        which: Which<'_>,
    ) -> Result<Option<Kept>, Error> {
        let subject = self.api_subject(&format!("DIRECT.GET.{stream}"));
        let payload = serde_json::to_vec(&which).expect("numbers and texts");
        let (payload, by) = (Bytes::from(payload), self.call_deadline());
        let mut again = AGAIN;
        let answer = loop {
            let soon = by.min(Instant::now() + again);
            again *= 2;
            let (subject, payload) = (subject.clone(), payload.clone());
            match self.ask(operation, subject, || None, payload, soon).await {
                Err(error) if error.kind() == ErrorKind::Timeout && soon < by => {}
                answer => break answer?,
            }
        };
        if is_no_responders(&answer) || answer.status == Some(StatusCode::NOT_FOUND) {
            return Ok(None);
        }
        let what = format!("what the stream `{stream}` keeps");
        let kept = kept(answer).ok_or_else(|| error::unreadable(operation, &what))?;
        Ok(Some(kept))
    }
}

fn kept(answer: Message) -> Option<Kept> {
    if answer.status.is_some() {
        return None;
    }
    let headers = answer.headers?;
    let text = |name| wire::text(Some(&headers), name);
    let time = humantime::parse_rfc3339(text("Nats-Time-Stamp")?).ok()?;
    let subject = text("Nats-Subject")?.to_owned();
    let sequence = text("Nats-Sequence")?.parse().ok()?;
    Some(Kept {
        sequence,
        subject,
        time,
        headers,
        payload: answer.payload,
    })
}
