//! Asking, and what an answer looks like on the wire.

use std::fmt;
use std::time::Duration;

use async_nats::{HeaderMap, Message};
use catga_core::{
    Bytes, Envelope, Error, ErrorKind, Headers, MessageId, QoS, RemoteError, Reply, Target,
};

use crate::connection::{Connection, is_no_responders};
use crate::time::{from_now, up_to_millis};
use crate::{error, wire};

/// Says that the answer is an error, and of which kind.
const ERROR: &str = "Catga-Error";
/// A caller that waits for as long as it takes.
const UNLIMITED: &str = "-";
/// As long as it takes.
const FAR: Duration = Duration::from_secs(86_400 * 365);

/// Sends a request and waits for its one reply.
pub(crate) async fn request(
    connection: &Connection,
    to: &Target,
    envelope: &Envelope,
    attempt: u32,
    time_left: Option<Duration>,
) -> Result<Reply, Error> {
    let name = envelope.name();
    let payload = wire::payload("request", envelope, connection.max_payload())?;
    let headers = || wire::headers(envelope, None);
    let subject = match to {
        Target::Node(node) => connection.names.to_node(node, name),
        Target::Service(service) => {
            let names = &connection.names;
            connection.subjects.to_service(names, service, name)
        }
        _ => return Err(error::no_responders(name, to)),
    };
    let by = from_now(time_left.unwrap_or(FAR));
    let asked = Asked {
        id: envelope.id().unwrap_or_else(MessageId::new),
        attempt,
        time_left,
    };
    let answer = async {
        let sent = connection
            .send("request", subject, &asked, headers, payload, by)
            .await?;
        let mut sent = match envelope.qos() {
            QoS::AtMostOnce => sent.only_once(),
            _ => sent,
        };
        connection.answer(&mut sent, by).await
    };
    let answer = answer.await.map_err(|error| match error.kind() {
        ErrorKind::Timeout => error::request_timeout(name, time_left.unwrap_or(FAR)),
        _ => error,
    })?;
    if is_no_responders(&answer) {
        return Err(error::no_responders(name, to));
    }
    Ok(read(answer))
}

/// What the subject to reply to tells of a request: `{inbox}.{id}.{attempt}.{milliseconds left}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) id: MessageId,
    pub(crate) attempt: u32,
    /// From when it was sent; never by a clock on the wall.
    pub(crate) time_left: Option<Duration>,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, attempt, .. } = self;
        match self.time_left {
            Some(left) => write!(f, ".{id}.{attempt}.{}", up_to_millis(left)),
            None => write!(f, ".{id}.{attempt}.{UNLIMITED}"),
        }
    }
}

impl Asked {
    /// Reads the subject; `None` for what is no request of ours.
    pub(crate) fn read(reply: &str) -> Option<Self> {
        let mut tokens = reply.rsplitn(4, '.');
        let time_left = match tokens.next()? {
            UNLIMITED => None,
            left => Some(Duration::from_millis(left.parse().ok()?)),
        };
        let attempt = tokens.next()?.parse().ok()?;
        let id = tokens.next()?.parse().ok()?;
        tokens.next()?;
        Some(Self {
            id,
            attempt,
            time_left,
        })
    }
}

/// A reply on the wire: a payload as it is, with a header where its content type is not the response's default; an error as JSON, with a header.
pub(crate) fn write(reply: &Reply) -> (Option<HeaderMap>, Bytes) {
    match &reply.result {
        Ok(payload) => {
            let headers = reply.content_type.as_deref().map(|content_type| {
                let mut headers = HeaderMap::new();
                headers.insert(Headers::CONTENT_TYPE, content_type);
                headers
            });
            (headers, payload.clone())
        }
        Err(error) => {
            let mut headers = HeaderMap::new();
            headers.insert(ERROR, error.kind.as_str());
            let json = serde_json::to_vec(error).expect("texts and numbers");
            (Some(headers), json.into())
        }
    }
}

fn read(answer: Message) -> Reply {
    let headers = answer.headers.as_ref();
    if wire::text(headers, ERROR).is_some() {
        let error = serde_json::from_slice::<RemoteError>(&answer.payload).unwrap_or_else(|_| {
            let odd = error::unreadable("request", "an answer that says it is an error");
            RemoteError::new(&odd.with_unknown_outcome())
        });
        return Reply::err(error);
    }
    let content_type = wire::text(headers, Headers::CONTENT_TYPE).map(str::to_owned);
    let reply = Reply::ok(answer.payload);
    match content_type {
        Some(content_type) => reply.with_content_type(content_type),
        None => reply,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_from_where_it_is_answered() {
        for time_left in [None, Some(Duration::from_millis(1234))] {
            let asked = Asked {
                id: MessageId::new(),
                attempt: 3,
                time_left,
            };
            let reply = format!("_INBOX.abc.1f-7{asked}");
            assert_eq!(Asked::read(&reply), Some(asked));
        }
        for odd in ["", "_INBOX.a.b", "_INBOX.a.b.1.2", "x.y.z.1.soon"] {
            assert_eq!(Asked::read(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_reply_is_read_as_it_was_written() {
        let failed = Error::new(ErrorKind::Handler, "send", "it fell").with_unknown_outcome();
        for reply in [
            Reply::ok("{}".into()),
            Reply::ok("x".into()).with_content_type("application/cbor"),
            Reply::err(RemoteError::new(&failed)),
        ] {
            let (headers, payload) = write(&reply);
            let answer = Message {
                subject: "i".into(),
                reply: None,
                payload,
                headers,
                status: None,
                description: None,
                length: 0,
            };
            assert_eq!(read(answer), reply);
        }
    }
}
