//! Dead letters: a stream for each message and group, which `redis-cli` can show.

use std::sync::Arc;
use std::time::Duration;

use catga_core::{
    DeadLetter, DeadLetterFilter, DeadLetterId, DeadLetters, Envelope, Error, ErrorKind, Name,
    NodeId, Page, QoS, Reason, async_trait,
};
use redis::{Cmd, Value};

use crate::connection::Connection;
use crate::names::Member;
use crate::script;
use crate::value;
use crate::wire::{self, EntryId, GENERATION, GROUP, Read};

const QUALITY: &str = ":qos";
const REASON: &str = ":reason";
const DELIVERIES: &str = ":deliveries";
/// Milliseconds since 1970.
const PUBLISHED: &str = ":published";
const NODE: &str = ":node";
/// How many letters are read at once.
const CHUNK: usize = 100;

/// What a group knows of a message that it gives up.
#[derive(Debug)]
pub(crate) struct GivenUp<'a> {
    pub(crate) member: &'a Member,
    pub(crate) reason: &'a Reason,
    pub(crate) deliveries: u32,
    /// The entry, which knows when it was published.
    pub(crate) published: EntryId,
    pub(crate) generation: u32,
}

/// Notes that a group has dead letters of a message, so that they are found. Before there is one: a letter that nobody
/// finds is lost.
pub(crate) async fn announce(
    connection: &Connection,
    message: &Name,
    member: &Member,
) -> Result<(), Error> {
    let server = &connection.server;
    let index = server.names.dead_index();
    let mut add = redis::cmd("SADD");
    add.arg(&index).arg(format!("{message} {}", member.group));
    server
        .call("settle", &index, &add, server.call_deadline())
        .await
        .map(drop)
}

/// Adds the fields of a dead letter; the reason is the last, and stands where the payload does when there is none.
pub(crate) fn add_fields(cmd: &mut Cmd, envelope: &Envelope, given_up: &GivenUp<'_>) {
    let GivenUp {
        member,
        reason,
        deliveries,
        published,
        generation,
    } = given_up;
    let payload = envelope.payload().as_bytes().cloned().unwrap_or_default();
    wire::add_fields(cmd, envelope, envelope.id(), &payload);
    cmd.arg(DELIVERIES).arg(deliveries);
    cmd.arg(PUBLISHED).arg(published.millis);
    cmd.arg(GENERATION).arg(generation);
    cmd.arg(QUALITY).arg(envelope.qos().to_string());
    if let Some(node) = &member.node {
        cmd.arg(NODE).arg(node.as_str());
    }
    let reason = serde_json::to_string(reason).expect("a kind and a text");
    cmd.arg(REASON).arg(reason);
}

/// The store of a namespace.
#[derive(Debug)]
pub(crate) struct RedisDeadLetters {
    connection: Arc<Connection>,
}

/// Where a letter is: the number of its entry, and in which stream.
struct Place {
    entry: EntryId,
    message: Name,
    group: Name,
}

impl RedisDeadLetters {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self { connection }
    }

    /// The messages and groups that may have dead letters.
    async fn streams(
        &self,
        operation: &'static str,
        filter: &DeadLetterFilter,
    ) -> Result<Vec<(Name, Name)>, Error> {
        let server = &self.connection.server;
        server.check_open(operation)?;
        let index = server.names.dead_index();
        let mut ask = redis::cmd("SMEMBERS");
        ask.arg(&index);
        let found = server
            .call(operation, &index, &ask, server.call_deadline())
            .await?;
        let mut streams = Vec::new();
        for pair in value::list(found) {
            let parts = value::text(&pair).and_then(|pair| pair.split_once(' '));
            let Some((Ok(message), Ok(group))) =
                parts.map(|(message, group)| (Name::new(message), Name::new(group)))
            else {
                continue;
            };
            let asked = filter.message.as_ref().is_none_or(|name| *name == message)
                && filter.group.as_ref().is_none_or(|name| *name == group);
            if asked {
                streams.push((message, group));
            }
        }
        Ok(streams)
    }

    /// Letters of one stream, from an entry on.
    async fn read(
        &self,
        operation: &'static str,
        place: &Place,
        to: &str,
        most: usize,
    ) -> Result<Vec<(EntryId, DeadLetter)>, Error> {
        let server = &self.connection.server;
        let key = server.names.dead(&place.message, &place.group);
        let (mut letters, mut from) = (Vec::new(), place.entry.to_string());
        loop {
            let mut ask = redis::cmd("XRANGE");
            ask.arg(&key).arg(&from).arg(to).arg("COUNT").arg(most);
            let found = server
                .call(operation, &key, &ask, server.call_deadline())
                .await?;
            let found = value::list(found);
            let full = found.len() == most;
            for entry in found {
                let Some((id, letter)) = letter(place, entry) else {
                    continue;
                };
                from = format!("({id}");
                match letter {
                    Some(letter) => letters.push((id, letter)),
                    None => {
                        tracing::warn!(stream = key, entry = %id, "this is no dead letter of ours");
                    }
                }
            }
            // Where a whole page is somebody else's there may be more behind it.
            if !full || !letters.is_empty() || from.is_empty() {
                return Ok(letters);
            }
        }
    }

    async fn find(
        &self,
        operation: &'static str,
        id: &DeadLetterId,
    ) -> Result<Option<(Place, DeadLetter)>, Error> {
        self.connection.server.check_open(operation)?;
        let Some(place) = place_of(id) else {
            return Ok(None);
        };
        let to = place.entry.to_string();
        let mut found = self.read(operation, &place, &to, 1).await?;
        Ok(found.pop().map(|(_, letter)| (place, letter)))
    }
}

/// A letter as it is kept; `None` for what somebody else put there.
fn letter(place: &Place, entry: Value) -> Option<(EntryId, Option<DeadLetter>)> {
    let (id, read) = wire::entry(&place.message, QoS::AtLeastOnce, entry)?;
    Some((id, read_letter(place, id, read)))
}

fn read_letter(place: &Place, id: EntryId, read: Read) -> Option<DeadLetter> {
    let reason: Reason = serde_json::from_str(read.text(REASON)?).ok()?;
    let deliveries = read.number(DELIVERIES)?;
    let published = Duration::from_millis(read.number(PUBLISHED)?);
    let generation = read.number(GENERATION)?;
    let node = match read.text(NODE) {
        Some(node) => Some(NodeId::new(node).ok()?),
        None => None,
    };
    let exactly = read.text(QUALITY) == Some(QoS::ExactlyOnce.to_string().as_str());
    let envelope = read.envelope;
    let qos = if exactly {
        QoS::ExactlyOnce
    } else {
        QoS::AtLeastOnce
    };
    // The quality of what was read is that of the stream.
    let kept = Envelope::received(place.message.clone(), qos, envelope.payload().clone())
        .with_version(envelope.version())
        .with_headers(envelope.headers().clone());
    let kept = match envelope.id() {
        Some(id) => kept.with_id(id),
        None => kept,
    };
    let key = letter_id(&Place {
        entry: id,
        message: place.message.clone(),
        group: place.group.clone(),
    });
    let mut letter = DeadLetter::new(key, kept, place.group.clone(), reason, deliveries);
    letter.node = node;
    letter.published_at = std::time::SystemTime::UNIX_EPOCH + published;
    letter.dead_at = id.time();
    letter.generation = generation;
    Some(letter)
}

#[async_trait]
impl DeadLetters for RedisDeadLetters {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&DeadLetterId>,
        limit: usize,
    ) -> Result<Page, Error> {
        let limit = limit.max(1);
        let after = match after {
            Some(id) => Some(place_of(id).ok_or_else(|| not_found("list", id))?),
            None => None,
        };
        let mut letters: Vec<DeadLetter> = Vec::new();
        for (message, group) in self.streams("list", filter).await? {
            let mut place = Place {
                entry: after.as_ref().map(|after| after.entry).unwrap_or_default(),
                message,
                group,
            };
            let mut number = 0;
            while number <= limit {
                let chunk = CHUNK.min(limit + 1);
                let found = self.read("list", &place, "+", chunk).await?;
                let Some((last, _)) = found.last() else {
                    break;
                };
                place.entry = next(*last);
                let behind = found
                    .into_iter()
                    .map(|(_, letter)| letter)
                    .filter(|letter| {
                        after
                            .as_ref()
                            .is_none_or(|after| letter.id > letter_id(after))
                    });
                let before = letters.len();
                letters.extend(behind);
                number += letters.len() - before;
            }
        }
        letters.sort_by(|a, b| a.id.cmp(&b.id));
        let more = letters.len() > limit;
        letters.truncate(limit);
        let last = letters.last().map(|letter| letter.id.clone());
        Ok(Page::new(letters, last.filter(|_| more)))
    }

    async fn inspect(&self, id: &DeadLetterId) -> Result<Option<DeadLetter>, Error> {
        Ok(self.find("inspect", id).await?.map(|(_, letter)| letter))
    }

    async fn redrive(&self, id: &DeadLetterId) -> Result<(), Error> {
        let found = self.find("redrive", id).await?;
        let (place, letter) = found.ok_or_else(|| not_found("redrive", id))?;
        let server = &self.connection.server;
        let stream = server.names.stream(&place.message, 0);
        let member = Member {
            group: place.group.clone(),
            node: letter.node.clone(),
        };
        let mut call = script::REDRIVE.call(2);
        call.arg(server.names.dead(&place.message, &place.group))
            .arg(&stream);
        call.arg(place.entry.to_string());
        call.arg(GROUP).arg(member.to_string());
        call.arg(GENERATION).arg(letter.generation + 1);
        let payload = letter
            .envelope
            .payload()
            .as_bytes()
            .cloned()
            .unwrap_or_default();
        wire::add_fields(&mut call, &letter.envelope, letter.envelope.id(), &payload);
        let told = server
            .run("redrive", &stream, &script::REDRIVE, &call)
            .await?;
        if value::int(&told) == Some(1) {
            Ok(())
        } else {
            Err(not_found("redrive", id))
        }
    }

    async fn purge(&self, filter: &DeadLetterFilter) -> Result<u64, Error> {
        let server = &self.connection.server;
        let mut number = 0;
        for (message, group) in self.streams("purge", filter).await? {
            let key = server.names.dead(&message, &group);
            let mut trim = redis::cmd("XTRIM");
            trim.arg(&key).arg("MAXLEN").arg(0);
            let told = server
                .call("purge", &key, &trim, server.call_deadline())
                .await?;
            number += value::count(&told);
        }
        Ok(number)
    }
}

/// In fixed width, so that ids sort by age.
fn letter_id(place: &Place) -> DeadLetterId {
    let EntryId { millis, number } = place.entry;
    DeadLetterId::new(format!(
        "{millis:020}-{number:010}:{}:{}",
        place.group, place.message
    ))
}

fn place_of(id: &DeadLetterId) -> Option<Place> {
    let mut parts = id.as_str().splitn(3, ':');
    let (millis, number) = parts.next()?.split_once('-')?;
    Some(Place {
        entry: EntryId {
            millis: millis.parse().ok()?,
            number: number.parse().ok()?,
        },
        group: Name::new(parts.next()?).ok()?,
        message: Name::new(parts.next()?).ok()?,
    })
}

/// The one behind it.
fn next(entry: EntryId) -> EntryId {
    EntryId {
        number: entry.number.saturating_add(1),
        ..entry
    }
}

fn not_found(operation: &'static str, id: &DeadLetterId) -> Error {
    Error::new(
        ErrorKind::NotFound,
        operation,
        format!(
            "there is no dead letter `{id}`: it was redriven or purged, or is of another namespace"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(millis: u64, number: u64, group: &'static str) -> DeadLetterId {
        letter_id(&Place {
            entry: EntryId { millis, number },
            message: Name::from_static("a.b"),
            group: Name::from_static(group),
        })
    }

    #[test]
    fn ids_sort_by_age_and_say_where_the_letter_is() {
        assert!(id(9, 1, "g") < id(10, 0, "a") && id(10, 9, "z") < id(10, 10, "a"));
        let place = place_of(&id(7, 3, "g.h")).unwrap();
        assert_eq!(
            place.entry,
            EntryId {
                millis: 7,
                number: 3
            }
        );
        assert_eq!(
            (place.group.as_str(), place.message.as_str()),
            ("g.h", "a.b")
        );
        for odd in ["", "nonsense", "1-2", "1-2:g", "1-2:g:*"] {
            assert!(place_of(&DeadLetterId::new(odd)).is_none(), "{odd}");
        }
    }

    #[test]
    fn a_letter_is_read_as_it_was_written() {
        let place = place_of(&id(5, 0, "g")).unwrap();
        let member = Member {
            group: place.group.clone(),
            node: Some(NodeId::from_static("n1")),
        };
        let reason = Reason::new(catga_core::ReasonKind::Terminal, "line\nbreak");
        let sent = Envelope::received(
            place.message.clone(),
            QoS::ExactlyOnce,
            catga_core::Bytes::from_static(b"x"),
        );
        let given_up = GivenUp {
            member: &member,
            reason: &reason,
            deliveries: 4,
            published: EntryId {
                millis: 3,
                number: 0,
            },
            generation: 2,
        };
        let mut cmd = Cmd::new();
        add_fields(&mut cmd, &sent, &given_up);
        let fields = cmd.args_iter().filter_map(|arg| match arg {
            redis::Arg::Simple(arg) => Some(Value::BulkString(arg.to_vec())),
            _ => None,
        });
        let entry = Value::Array(vec![
            Value::BulkString(b"5-0".to_vec()),
            Value::Array(fields.collect()),
        ]);
        let (_, letter) = letter(&place, entry).unwrap();
        let letter = letter.unwrap();
        assert_eq!((letter.deliveries, letter.generation), (4, 2));
        assert_eq!((letter.reason, letter.node), (reason, member.node));
        assert_eq!(letter.envelope.qos(), QoS::ExactlyOnce);
        let alien = Value::Array(vec![
            Value::BulkString(b"5-0".to_vec()),
            Value::Array(vec![]),
        ]);
        assert!(super::letter(&place, alien).unwrap().1.is_none());
    }
}
