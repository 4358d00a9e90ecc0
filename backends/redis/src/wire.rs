//! Messages on the wire: the payload is the codec's bytes and nothing else, fields say what differs from the default.
//!
//! An entry of a stream has a field for each header, and those of our own, which begin with a colon: no header does.
//! Where there are no fields, in what is published to a channel, they stand before the payload, a line for each.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use catga_core::{Bytes, Envelope, Error, Headers, MessageId, Name, QoS};
use redis::{Cmd, RedisWrite, ToRedisArgs, Value};

use crate::{error, value};

/// The payload.
pub(crate) const DATA: &str = ":data";
/// The id of a message.
pub(crate) const ID: &str = ":id";
/// The one group that a redriven message is for, or the one node of it.
pub(crate) const GROUP: &str = ":group";
/// How often a message was redriven.
pub(crate) const GENERATION: &str = ":generation";
/// What a request tells of its caller: the channel and the token of the reply, its id, which try it is, and how many
/// milliseconds its caller waits from when it was added, or `-`.
pub(crate) const REPLY: &str = ":reply";
/// Says whose a reply is.
pub(crate) const TO: &str = ":to";
/// Says that a reply is an error, and of which kind.
pub(crate) const ERROR: &str = ":error";
/// The fields of ours on the message path, whose names are not allocated.
const OURS: [&str; 5] = [GROUP, GENERATION, REPLY, TO, ERROR];
/// What keys, ids and names of fields take of a command.
const ROOM: usize = 256;
/// What a version is that nobody can read: no handler knows it.
const UNREADABLE_VERSION: u32 = u32::MAX;

/// The id of an entry: when it was added by the clock of the server, and a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EntryId {
    pub(crate) millis: u64,
    pub(crate) number: u64,
}

impl EntryId {
    pub(crate) fn time(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.millis)
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.millis, self.number)
    }
}

impl ToRedisArgs for EntryId {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        out.write_arg_fmt(self);
    }
}

impl FromStr for EntryId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (millis, number) = text.split_once('-').ok_or(())?;
        Ok(Self {
            millis: millis.parse().map_err(|_| ())?,
            number: number.parse().map_err(|_| ())?,
        })
    }
}

/// The payload, when it is encoded and not too large with its headers.
pub(crate) fn payload(
    operation: &'static str,
    envelope: &Envelope,
    max: usize,
) -> Result<Bytes, Error> {
    let name = envelope.name();
    let bytes = envelope.payload().as_bytes();
    let bytes = bytes.ok_or_else(|| error::not_encoded(operation, name))?;
    let size = envelope.size_bytes();
    if size > max {
        return Err(error::too_large(operation, name, size, max));
    }
    Ok(bytes.clone())
}

/// A command with room for a message and so many words: the client's own grows with each of them.
pub(crate) fn command(name: &str, words: usize, payload: usize) -> Cmd {
    let mut cmd = Cmd::with_capacity(words, ROOM + payload);
    cmd.arg(name);
    cmd
}

/// Adds a message's fields to a command, the payload last.
pub(crate) fn add_fields(
    cmd: &mut Cmd,
    envelope: &Envelope,
    id: Option<MessageId>,
    payload: &[u8],
) {
    if let Some(id) = id {
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        let text = id.as_uuid().as_hyphenated().encode_lower(&mut text);
        cmd.arg(ID).arg(&*text);
    }
    if envelope.version() != 1 {
        cmd.arg(Headers::VERSION).arg(envelope.version());
    }
    for (name, value) in envelope.headers().iter() {
        cmd.arg(name).arg(value);
    }
    cmd.arg(DATA).arg(payload);
}

/// A message with the fields of ours that came with it.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) envelope: Envelope,
    /// Fields of ours beside id and payload.
    pub(crate) ours: Vec<(Cow<'static, str>, String)>,
}

impl Read {
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let mut ours = self.ours.iter();
        ours.find_map(|(known, value)| (*known == name).then_some(value.as_str()))
    }

    pub(crate) fn number<T: FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.parse().ok()
    }

    pub(crate) fn generation(&self) -> u32 {
        self.number(GENERATION).unwrap_or(0)
    }
}

/// Collects what a message is made of. Others may write too: what makes no header here is left out.
#[derive(Default)]
struct Parts {
    id: Option<MessageId>,
    version: Option<u32>,
    headers: Headers,
    ours: Vec<(Cow<'static, str>, String)>,
}

impl Parts {
    fn take(&mut self, name: &str, value: &str) {
        match name {
            ID => self.id = value.parse().ok(),
            Headers::VERSION => self.version = Some(value.parse().unwrap_or(UNREADABLE_VERSION)),
            name if name.starts_with(':') => {
                let known = OURS.into_iter().find(|known| *known == name);
                let name = known.map_or_else(|| Cow::Owned(name.to_owned()), Cow::Borrowed);
                self.ours.push((name, value.to_owned()));
            }
            name => {
                let _ = self.headers.insert(name, value);
            }
        }
    }

    fn read(self, name: Name, qos: QoS, payload: Bytes) -> Read {
        let mut envelope = Envelope::received(name, qos, payload);
        if let Some(version) = self.version {
            envelope = envelope.with_version(version);
        }
        if !self.headers.is_empty() {
            envelope = envelope.with_headers(self.headers);
        }
        if let Some(id) = self.id {
            envelope = envelope.with_id(id);
        }
        Read {
            envelope,
            ours: self.ours,
        }
    }
}

/// An entry of a stream.
pub(crate) fn entry(name: &Name, qos: QoS, entry: Value) -> Option<(EntryId, Read)> {
    let mut entry = value::list(entry).into_iter();
    let id = value::text(&entry.next()?)?.parse().ok()?;
    let fields = value::list(entry.next()?);
    let (mut parts, mut payload) = (Parts::default(), Vec::new());
    let mut fields = fields.into_iter();
    while let (Some(name), Some(content)) = (fields.next(), fields.next()) {
        match value::text(&name) {
            Some(DATA) => payload = value::bytes(content).unwrap_or_default(),
            Some(name) => {
                if let Some(text) = value::text(&content) {
                    parts.take(name, text);
                }
            }
            None => {}
        }
    }
    Some((id, parts.read(name.clone(), qos, payload.into())))
}

/// What is published to a channel: a line for each field, an empty one, and the payload.
pub(crate) fn frame(ours: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + ROOM);
    write_frame(&mut frame, None, ours, payload).expect(IN_MEMORY);
    frame
}

/// A message as it is published to a channel, written into the command itself.
pub(crate) struct Event<'a> {
    pub(crate) envelope: &'a Envelope,
    pub(crate) payload: &'a [u8],
}

impl ToRedisArgs for Event<'_> {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        let mut out = out.writer_for_next_arg();
        write_frame(&mut out, Some(self.envelope), &[], self.payload).expect(IN_MEMORY);
    }
}

const IN_MEMORY: &str = "it is written to memory";

fn write_frame(
    out: &mut impl Write,
    envelope: Option<&Envelope>,
    ours: &[(&str, &str)],
    payload: &[u8],
) -> io::Result<()> {
    for (name, value) in ours {
        writeln!(out, "{name} {value}")?;
    }
    if let Some(envelope) = envelope {
        if let Some(id) = envelope.id() {
            writeln!(out, "{ID} {id}")?;
        }
        if envelope.version() != 1 {
            writeln!(out, "{} {}", Headers::VERSION, envelope.version())?;
        }
        for (name, value) in envelope.headers().iter() {
            writeln!(out, "{name} {value}")?;
        }
    }
    out.write_all(b"\n")?;
    out.write_all(payload)
}

/// Reads a frame; `None` for what is none.
pub(crate) fn read_frame(name: Name, qos: QoS, frame: Vec<u8>) -> Option<Read> {
    let (mut parts, mut at) = (Parts::default(), 0);
    loop {
        let length = frame[at..].iter().position(|byte| *byte == b'\n')?;
        let line = &frame[at..at + length];
        at += length + 1;
        if line.is_empty() {
            break;
        }
        let (name, value) = std::str::from_utf8(line).ok()?.split_once(' ')?;
        parts.take(name, value);
    }
    Some(parts.read(name, qos, Bytes::from(frame).slice(at..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent() -> Envelope {
        let mut headers = Headers::new();
        headers.insert("tenant", "acme").unwrap();
        headers.insert("content-type", "application/cbor").unwrap();
        headers.insert("id", "of the user").unwrap();
        Envelope::received(
            Name::from_static("a.b"),
            QoS::AtLeastOnce,
            Bytes::from_static(b"x\n\ny"),
        )
        .with_version(3)
        .with_headers(headers)
        .with_id(MessageId::new())
    }

    fn event(envelope: &Envelope, payload: &[u8]) -> Vec<u8> {
        let mut args = Event { envelope, payload }.to_redis_args();
        assert_eq!(args.len(), 1);
        args.remove(0)
    }

    fn check(read: &Envelope, sent: &Envelope) {
        assert_eq!((read.id(), read.version()), (sent.id(), 3));
        assert_eq!(read.headers(), sent.headers());
        assert_eq!(read.payload().as_bytes(), sent.payload().as_bytes());
    }

    fn of_command(cmd: &Cmd) -> Value {
        let args = cmd.args_iter().filter_map(|arg| match arg {
            redis::Arg::Simple(arg) => Some(Value::BulkString(arg.to_vec())),
            _ => None,
        });
        let id = Value::BulkString(b"12-3".to_vec());
        Value::Array(vec![id, Value::Array(args.collect())])
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let sent = sent();
        let mut cmd = Cmd::new();
        cmd.arg(GENERATION).arg(2).arg(GROUP).arg("g");
        add_fields(
            &mut cmd,
            &sent,
            sent.id(),
            sent.payload().as_bytes().unwrap(),
        );
        let (id, read) = entry(sent.name(), QoS::AtLeastOnce, of_command(&cmd)).unwrap();
        assert_eq!(id.to_string(), "12-3");
        check(&read.envelope, &sent);
        assert_eq!((read.generation(), read.text(GROUP)), (2, Some("g")));
    }

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let sent = sent();
        let payload = sent.payload().as_bytes().unwrap();
        let read = |frame| read_frame(sent.name().clone(), QoS::AtMostOnce, frame).unwrap();
        check(&read(event(&sent, payload)).envelope, &sent);
        let reply = read(frame(&[(":to", "7-1")], payload));
        assert_eq!(reply.text(":to"), Some("7-1"));
        assert_eq!(reply.envelope.payload().as_bytes(), Some(payload));
    }

    #[test]
    fn nothing_to_say_makes_one_line_break() {
        let bare = Envelope::received(Name::from_static("a"), QoS::AtMostOnce, Bytes::new());
        assert_eq!(event(&bare, b"{}"), b"\n{}");
    }

    #[test]
    fn what_others_wrote_is_taken_as_far_as_it_goes() {
        let name = Name::from_static("a");
        let read = |frame: &[u8]| read_frame(name.clone(), QoS::AtMostOnce, frame.to_vec());
        for odd in [&b""[..], b"{}", b"no\n\n", b"\xff \xff\n\n"] {
            assert!(read(odd).is_none(), "{odd:?}");
        }
        let odd = read(b":id nonsense\nmessage-version two\nNats-x y\nfine yes\n\nx").unwrap();
        assert_eq!(odd.envelope.id(), None);
        assert_eq!(odd.envelope.version(), UNREADABLE_VERSION);
        let headers: Vec<_> = odd.envelope.headers().iter().collect();
        assert_eq!(headers, [("fine", "yes")]);
        assert!(entry(&name, QoS::AtLeastOnce, Value::Nil).is_none());
        let bare = Value::Array(vec![Value::BulkString(b"1-0".to_vec()), Value::Nil]);
        let (_, bare) = entry(&name, QoS::AtLeastOnce, bare).unwrap();
        assert_eq!(bare.envelope.payload().as_bytes().unwrap().len(), 0);
    }

    #[test]
    fn ids_of_entries_sort_by_age() {
        let id = |text: &str| text.parse::<EntryId>().unwrap();
        assert!(id("9-5") < id("10-0") && id("10-9") < id("10-10"));
        assert!("10".parse::<EntryId>().is_err());
    }
}
