//! Asking, and what an answer looks like on the wire.

use std::fmt::{self, Write as _};
use std::time::Duration;

use catga_core::{
    Envelope, Error, ErrorKind, Headers, MessageId, Name, QoS, RemoteError, Reply, Target,
};
use redis::{Cmd, Value};
use tokio::select;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::connection::Connection;
use crate::error;
use crate::route::hash;
use crate::time::{from_now, up_to_millis};
use crate::wire::{self, ERROR, REPLY, Read, TO};
use crate::writer::{Job, Outcome, Then, judge};

/// A caller that waits for as long as it takes.
const UNLIMITED: &str = "-";
/// As long as it takes.
const FAR: Duration = Duration::from_secs(86_400 * 365);
/// Almost all answers come before this; then it is worth asking why one does not.
const PROMPT: Duration = Duration::from_millis(100);
/// The most requests that wait to be taken.
const WAITING: usize = 100_000;

/// Sends a request and waits for its one reply.
pub(crate) async fn request(
    connection: &Connection,
    to: &Target,
    envelope: &Envelope,
    attempt: u32,
    time_left: Option<Duration>,
) -> Result<Reply, Error> {
    let (server, name) = (&connection.server, envelope.name());
    let payload = wire::payload("request", envelope, server.settings.max_payload)?;
    let stream = match to {
        Target::Node(node) => server.names.request_to_node(node, name),
        Target::Service(service) => server.names.request(service, name),
        _ => return Err(error::no_responders(name, to)),
    };
    let by = from_now(time_left.unwrap_or(FAR));
    connection.hub.listen_to_replies("request", by).await?;
    let mut expected = connection
        .replies
        .expect()
        .ok_or_else(|| error::too_many_waiting("request"))?;
    let (teller, outcome) = oneshot::channel();
    let asked = Asked {
        reply: expected.address(),
        id: envelope.id().unwrap_or_else(MessageId::new),
        attempt,
        time_left,
    };
    let job = job(&stream, envelope, &payload, &asked, teller);
    if !server.link.is_connected() {
        // A box, as for all that is seldom waited for: the futures of the others stay small.
        Box::pin(server.link.live("request", by)).await?;
    }
    // A reply to what is sent while nobody listens would be lost.
    let since = match connection.replies.listening() {
        Some(since) => since,
        None => Box::pin(listening(connection, by)).await?,
    };
    let asks_again = envelope.qos() != QoS::AtMostOnce;
    connection.writer.send("request", job, by).await?;
    let mut waiting = Waiting {
        connection,
        name,
        to,
        stream: &stream,
        time_left,
        answer: &mut expected.answer,
        outcome: Some(outcome),
    };
    let prompt = by.min(Instant::now() + PROMPT);
    match timeout_at(prompt, waiting.answer()).await {
        Ok(answer) => answer,
        Err(_) => Box::pin(waiting.long_answer(asks_again.then_some(since), by)).await,
    }
}

fn job(
    stream: &str,
    envelope: &Envelope,
    payload: &[u8],
    asked: &Asked,
    teller: oneshot::Sender<Outcome>,
) -> Job {
    let mut add = wire::command("XADD", 16, payload.len());
    add.arg(stream)
        .arg("NOMKSTREAM")
        .arg("MAXLEN")
        .arg("~")
        .arg(WAITING)
        .arg("*");
    asked.add(&mut add);
    wire::add_fields(&mut add, envelope, None, payload);
    Job {
        before: None,
        cmd: add,
        bytes: payload.len(),
        slot: hash(envelope.name().as_str()),
        then: Then::Tell(teller),
    }
}

/// Waits until replies are listened to.
async fn listening(connection: &Connection, by: Instant) -> Result<u64, Error> {
    select! {
        biased;
        since = connection.replies.listening_since(0) => Ok(since),
        () = connection.server.closed.raised() => Err(error::closed("request")),
        () = sleep_until(by) => Err(error::not_connected("request", None)),
    }
}

/// A request that was sent.
struct Waiting<'a> {
    connection: &'a Connection,
    name: &'a Name,
    to: &'a Target,
    stream: &'a str,
    time_left: Option<Duration>,
    answer: &'a mut oneshot::Receiver<Read>,
    /// What became of adding it, until that is known.
    outcome: Option<oneshot::Receiver<Outcome>>,
}

impl Waiting<'_> {
    /// Waits for the answer, or until it is known that it was not added.
    async fn answer(&mut self) -> Result<Reply, Error> {
        if let Some(outcome) = &mut self.outcome {
            select! {
                biased;
                answer = &mut *self.answer => return self.read(answer.ok()),
                outcome = outcome => self.added(outcome.ok())?,
            }
            self.outcome = None;
        }
        let answer = (&mut *self.answer).await;
        self.read(answer.ok())
    }

    fn read(&self, answer: Option<Read>) -> Result<Reply, Error> {
        let answer = answer.ok_or_else(|| error::closed_meanwhile("request"))?;
        match read_reply(&answer) {
            // Who was there left before it began.
            Reply {
                result: Err(error), ..
            } if error.kind == ErrorKind::NoResponders.as_str() => {
                Err(error::no_responders(self.name, self.to))
            }
            reply => Ok(reply),
        }
    }

    fn added(&self, outcome: Option<Outcome>) -> Result<(), Error> {
        let outcome = outcome.ok_or_else(|| error::closed_meanwhile("request"))?;
        match judge(|| self.stream.to_owned(), outcome) {
            // Nobody reads there.
            Ok(Value::Nil) => Err(error::no_responders(self.name, self.to)),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Timeout => Err(self.too_late()),
            Err(error) => Err(error),
        }
    }

    fn too_late(&self) -> Error {
        error::request_timeout(self.name, self.time_left.unwrap_or(FAR))
    }

    /// The same, when it takes long enough that it is worth asking why. Where it may be asked again, a break in listening
    /// `since` it was sent ends the wait.
    async fn long_answer(mut self, since: Option<u64>, by: Instant) -> Result<Reply, Error> {
        let (server, replies) = (&self.connection.server, &self.connection.replies);
        let name = self.name;
        let lost = async {
            match since {
                Some(since) => replies.listening_since(since).await,
                None => std::future::pending().await,
            }
        };
        let too_late = self.too_late();
        select! {
            biased;
            answer = self.answer() => answer,
            () = server.closed.raised() => Err(error::closed_meanwhile("request")),
            _ = lost => Err(error::reply_may_be_lost(name)),
            () = sleep_until(by) => Err(too_late),
        }
    }
}

/// What a request tells of its caller, in one field: each takes the client's parser as long as a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// A channel and a token.
    pub(crate) reply: String,
    pub(crate) id: MessageId,
    pub(crate) attempt: u32,
    /// From when it was added; never by a clock of the caller's.
    pub(crate) time_left: Option<Duration>,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            reply, id, attempt, ..
        } = self;
        match self.time_left {
            Some(left) => write!(f, "{reply} {id} {attempt} {}", up_to_millis(left)),
            None => write!(f, "{reply} {id} {attempt} {UNLIMITED}"),
        }
    }
}

impl Asked {
    pub(crate) fn add(&self, cmd: &mut Cmd) {
        let mut text = String::with_capacity(self.reply.len() + 64);
        write!(text, "{self}").expect("a string takes all");
        cmd.arg(REPLY).arg(text);
    }

    /// Reads it; `None` for what nobody waits for.
    pub(crate) fn read(read: &Read) -> Option<Self> {
        let mut words = read.text(REPLY)?.rsplitn(4, ' ');
        let time_left = match words.next()? {
            UNLIMITED => None,
            left => Some(Duration::from_millis(left.parse().ok()?)),
        };
        Some(Self {
            attempt: words.next()?.parse().ok()?,
            id: words.next()?.parse().ok()?,
            reply: words.next()?.to_owned(),
            time_left,
        })
    }
}

/// A reply as it is published: a payload as it is, with a field where its content type is not the response's default; an error as JSON, with a field. The
/// channel comes first.
pub(crate) fn write_reply<'a>(address: &'a str, reply: &Reply) -> (&'a str, Vec<u8>) {
    let (channel, token) = address.split_once(' ').unwrap_or((address, ""));
    let frame = match &reply.result {
        Ok(payload) => match &reply.content_type {
            None => wire::frame(&[(TO, token)], payload),
            Some(content_type) => {
                let ours = [(TO, token), (Headers::CONTENT_TYPE, content_type)];
                wire::frame(&ours, payload)
            }
        },
        Err(error) => {
            let json = serde_json::to_vec(error).expect("texts and numbers");
            wire::frame(&[(TO, token), (ERROR, error.kind.as_str())], &json)
        }
    };
    (channel, frame)
}

fn read_reply(read: &Read) -> Reply {
    let payload = read
        .envelope
        .payload()
        .as_bytes()
        .cloned()
        .unwrap_or_default();
    if read.text(ERROR).is_some() {
        let error = serde_json::from_slice::<RemoteError>(&payload).unwrap_or_else(|_| {
            let odd = error::unreadable("request", "an answer that says it is an error");
            RemoteError::new(&odd.with_unknown_outcome())
        });
        return Reply::err(error);
    }
    let mut reply = Reply::ok(payload);
    let content_type = read.envelope.content_type();
    reply.content_type = content_type.map(|content_type| content_type.to_owned().into());
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_read_as_it_was_written() {
        let failed = Error::new(ErrorKind::Handler, "send", "it fell").with_unknown_outcome();
        for reply in [
            Reply::ok("{}".into()),
            Reply::ok("x\n\n".into()).with_content_type("application/cbor"),
            Reply::err(RemoteError::new(&failed)),
        ] {
            let (channel, frame) = write_reply("c 1f-7", &reply);
            let read = wire::read_frame(Name::from_static("r"), QoS::AtLeastOnce, frame).unwrap();
            assert_eq!((channel, read.text(TO)), ("c", Some("1f-7")));
            assert_eq!(read_reply(&read), reply);
        }
    }

    #[test]
    fn a_request_tells_where_it_is_answered() {
        for (attempt, time_left) in [(1, None), (3, Some(Duration::from_millis(1234)))] {
            let asked = Asked {
                reply: "c 1-1".to_owned(),
                id: MessageId::new(),
                attempt,
                time_left,
            };
            let mut cmd = Cmd::new();
            asked.add(&mut cmd);
            let fields = cmd.args_iter().filter_map(|arg| match arg {
                redis::Arg::Simple(arg) => Some(Value::BulkString(arg.to_vec())),
                _ => None,
            });
            let entry = vec![
                Value::BulkString(b"1-1".to_vec()),
                Value::Array(fields.collect()),
            ];
            let (_, read) = wire::entry(
                &Name::from_static("r"),
                QoS::AtLeastOnce,
                Value::Array(entry),
            )
            .unwrap();
            assert_eq!(Asked::read(&read), Some(asked));
        }
    }
}
