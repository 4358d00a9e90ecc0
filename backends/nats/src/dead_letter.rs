//! Dead letters: a stream of their own, which the `nats` program can show.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use async_nats::HeaderMap;
use catga_core::{
    Bytes, DeadLetter, DeadLetterFilter, DeadLetterId, DeadLetters, Envelope, Error, ErrorKind,
    Page, QoS, Reason, async_trait,
};
use serde::Deserialize;
use serde_json::json;

use crate::connection::Connection;
use crate::direct::{Kept, Which};
use crate::error;
use crate::names::Member;
use crate::streams::{self, dead_stream};
use crate::wire::{self, GENERATION};

/// The id of the message; its copy here has one of its own.
const MESSAGE_ID: &str = "Catga-Id";
const QUALITY: &str = "Catga-QoS";
const REASON: &str = "Catga-Reason";
const DELIVERIES: &str = "Catga-Deliveries";
/// Milliseconds since 1970.
const PUBLISHED: &str = "Catga-Published";
/// The most bytes of a reason on the wire, so that the copy of a message is not too large.
const MAX_REASON: usize = 1024;
/// No message has this number.
const NO_MESSAGE: u64 = 10037;
/// Deleting what is not there.
const NOT_DELETED: u64 = 10057;

/// What a group knows of a message that it gives up.
#[derive(Debug)]
pub(crate) struct GivenUp<'a> {
    pub(crate) member: &'a Member,
    pub(crate) reason: &'a Reason,
    pub(crate) deliveries: u64,
    pub(crate) published: SystemTime,
    pub(crate) generation: u32,
    /// Its number in the stream.
    pub(crate) sequence: u64,
}

/// Whether the stream was found, for one connection.
#[derive(Debug, Default)]
pub(crate) struct DeadStream(ArcSwapOption<()>);

impl DeadStream {
    async fn ensure(&self, connection: &Connection, operation: &'static str) -> Result<(), Error> {
        if self.0.load().is_none() {
            let (config, asked) = dead_stream(connection);
            streams::ensure(connection, operation, &config, &asked).await?;
            self.0.store(Some(Arc::new(())));
        }
        Ok(())
    }
}

/// Stores a message in the dead letters. A second copy for the same giving up is dropped within the duplicate window.
pub(crate) async fn bury(
    connection: &Connection,
    envelope: &Envelope,
    given_up: &GivenUp<'_>,
) -> Result<(), Error> {
    connection.dead.ensure(connection, "settle").await?;
    let GivenUp {
        member, generation, ..
    } = given_up;
    let id = match envelope.id() {
        Some(id) => id.to_string(),
        None => given_up.sequence.to_string(),
    };
    let subject = connection.names.dead(member, envelope.name(), &id);
    let once = envelope.qos() == QoS::ExactlyOnce;
    if once && is_buried(connection, &subject, *generation).await? {
        return Ok(());
    }
    // At QoS 1 one that was stored twice may be given up twice.
    let copy = if once {
        format!("{id}:{member}:x{generation}")
    } else {
        format!("{id}:{member}:{}:x{generation}", given_up.sequence)
    };
    let mut headers = wire::headers(envelope, Some(&copy)).expect("it has an id");
    if let Some(id) = envelope.id() {
        headers.insert(MESSAGE_ID, id.to_string());
    }
    headers.insert(REASON, reason_text(given_up.reason));
    headers.insert(DELIVERIES, given_up.deliveries.to_string());
    headers.insert(PUBLISHED, millis(given_up.published).to_string());
    headers.insert(GENERATION, generation.to_string());
    headers.insert(QUALITY, envelope.qos().to_string());
    let payload = envelope.payload().as_bytes().cloned().unwrap_or_default();
    let by = connection.call_deadline();
    let stored = connection
        .store("settle", subject, || Some(headers.clone()), payload, by)
        .await;
    if let Err(error) = &stored
        && error.kind() == ErrorKind::NotFound
    {
        connection.dead.0.store(None);
    }
    stored.map(drop)
}

/// Whether a letter of this id and generation is there: then this is a copy of what was given up, however long ago.
async fn is_buried(connection: &Connection, subject: &str, generation: u32) -> Result<bool, Error> {
    let last = Which {
        last_by_subj: Some(subject),
        ..Which::default()
    };
    let stream = connection.names.dead_stream();
    let kept = connection.read("settle", &stream, last).await;
    if kept.is_err() {
        connection.dead.0.store(None);
    }
    let of = |kept: &Kept| wire::number(Some(&kept.headers), GENERATION);
    Ok(kept?.as_ref().and_then(of) == Some(u64::from(generation)))
}

/// A reason as JSON, which has no line breaks, cut to what the copy of the largest message has room for.
fn reason_text(reason: &Reason) -> String {
    let mut reason = reason.clone();
    loop {
        let text = serde_json::to_string(&reason).expect("a kind and a text");
        let Some(excess) = text.len().checked_sub(MAX_REASON + 1) else {
            return text;
        };
        // What is escaped is longer as text: half of the excess at least goes with each round.
        let keep = reason.detail.len().saturating_sub(excess / 2 + 1);
        while reason.detail.len() > keep {
            reason.detail.pop();
        }
    }
}

fn millis(time: SystemTime) -> u128 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_millis()
}

/// The store of a namespace.
#[derive(Debug)]
pub(crate) struct NatsDeadLetters {
    connection: Arc<Connection>,
}

impl NatsDeadLetters {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self { connection }
    }

    /// A stream that is not there would not answer.
    async fn read(&self, operation: &'static str, which: Which<'_>) -> Result<Option<Kept>, Error> {
        let connection = &*self.connection;
        match connection.dead.ensure(connection, operation).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            ensured => ensured?,
        }
        let stream = connection.names.dead_stream();
        let read = connection.read(operation, &stream, which).await;
        if read.is_err() {
            connection.dead.0.store(None);
        }
        read
    }

    async fn kept(
        &self,
        operation: &'static str,
        id: &DeadLetterId,
    ) -> Result<Option<Kept>, Error> {
        let Some(sequence) = sequence_of(id) else {
            return Ok(None);
        };
        let seq = Some(sequence);
        self.read(
            operation,
            Which {
                seq,
                ..Which::default()
            },
        )
        .await
    }

    /// A letter as it is kept; `None` for what somebody else put there.
    fn letter(&self, kept: &Kept) -> Option<(DeadLetter, Member)> {
        let headers = Some(&kept.headers);
        let (member, name) = self.connection.names.read_dead(&kept.subject)?;
        let reason: Reason = serde_json::from_str(wire::text(headers, REASON)?).ok()?;
        let qos = match wire::text(headers, QUALITY)? {
            text if text == QoS::ExactlyOnce.to_string() => QoS::ExactlyOnce,
            _ => QoS::AtLeastOnce,
        };
        let envelope = wire::envelope(name, qos, headers, kept.payload.clone());
        let envelope = match wire::text(headers, MESSAGE_ID) {
            Some(id) => envelope.with_id(id.parse().ok()?),
            None => envelope,
        };
        let number = |name| u32::try_from(wire::number(headers, name)?).ok();
        let id = letter_id(kept.sequence);
        let mut letter = DeadLetter::new(
            id,
            envelope,
            member.group.clone(),
            reason,
            number(DELIVERIES)?,
        );
        letter.node.clone_from(&member.node);
        let published = Duration::from_millis(wire::number(headers, PUBLISHED)?);
        letter.published_at = SystemTime::UNIX_EPOCH + published;
        letter.dead_at = kept.time;
        letter.generation = number(GENERATION)?;
        Some((letter, member))
    }

    /// Publishes a letter for the one member that failed. The id is that of this letter's redrive: one that was cut
    /// short is not stored twice.
    async fn hand_on(&self, letter: &DeadLetter, member: &Member) -> Result<(), Error> {
        let connection = &*self.connection;
        let (envelope, generation) = (&letter.envelope, letter.generation + 1);
        let id = envelope.id().map(|id| id.to_string()).unwrap_or_default();
        let copy = format!("{id}:{member}:{}:r{generation}", letter.id);
        let mut headers: HeaderMap = wire::headers(envelope, Some(&copy)).expect("it has an id");
        headers.insert(GENERATION, generation.to_string());
        let payload = envelope
            .payload()
            .as_bytes()
            .cloned()
            .unwrap_or_else(Bytes::new);
        let name = envelope.name();
        connection.routes.route(connection, "redrive", name).await?;
        let subject = connection.names.redriven(member, name);
        let by = connection.call_deadline();
        let stored = connection
            .store("redrive", subject, || Some(headers.clone()), payload, by)
            .await;
        if let Err(error) = &stored
            && error.kind() == ErrorKind::NotFound
        {
            connection.routes.forget(name);
        }
        stored.map(drop)
    }
}

#[async_trait]
impl DeadLetters for NatsDeadLetters {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&DeadLetterId>,
        limit: usize,
    ) -> Result<Page, Error> {
        self.connection.check_open("list")?;
        let mut from = match after {
            Some(id) => sequence_of(id).ok_or_else(|| not_found("list", id))? + 1,
            None => 1,
        };
        let (group, message) = (filter.group.as_ref(), filter.message.as_ref());
        let subject = self.connection.names.dead_filter(group, message);
        let limit = limit.max(1);
        let mut letters: Vec<DeadLetter> = Vec::new();
        loop {
            let which = Which {
                seq: Some(from),
                next_by_subj: Some(&subject),
                last_by_subj: None,
            };
            let Some(kept) = self.read("list", which).await? else {
                return Ok(Page::new(letters, None));
            };
            from = kept.sequence + 1;
            let Some((letter, _)) = self.letter(&kept) else {
                tracing::warn!(
                    subject = kept.subject,
                    sequence = kept.sequence,
                    "this is no dead letter of ours"
                );
                continue;
            };
            if letters.len() == limit {
                let last = letters.last().map(|letter| letter.id.clone());
                return Ok(Page::new(letters, last));
            }
            letters.push(letter);
        }
    }

    async fn inspect(&self, id: &DeadLetterId) -> Result<Option<DeadLetter>, Error> {
        self.connection.check_open("inspect")?;
        let kept = self.kept("inspect", id).await?;
        Ok(kept
            .and_then(|kept| self.letter(&kept))
            .map(|(letter, _)| letter))
    }

    async fn redrive(&self, id: &DeadLetterId) -> Result<(), Error> {
        self.connection.check_open("redrive")?;
        let kept = self.kept("redrive", id).await?;
        let (letter, member) = kept
            .and_then(|kept| self.letter(&kept))
            .ok_or_else(|| not_found("redrive", id))?;
        self.hand_on(&letter, &member).await?;
        let stream = self.connection.names.dead_stream();
        let call = format!("STREAM.MSG.DELETE.{stream}");
        let which = json!({ "seq": sequence_of(id), "no_erase": true });
        let deleted = self
            .connection
            .api::<Done>("redrive", &call, &which)
            .await?;
        match deleted {
            Ok(_) => Ok(()),
            // Somebody else redrove it too: the server dropped our copy, and the letter is theirs.
            Err(problem) if [NO_MESSAGE, NOT_DELETED].contains(&problem.error_code().0) => {
                Err(not_found("redrive", id))
            }
            Err(problem) => Err(error::jetstream(
                "redrive",
                "the dead letter was redriven and is kept",
                &problem,
            )),
        }
    }

    async fn purge(&self, filter: &DeadLetterFilter) -> Result<u64, Error> {
        self.connection.check_open("purge")?;
        let (group, message) = (filter.group.as_ref(), filter.message.as_ref());
        let subject = self.connection.names.dead_filter(group, message);
        let stream = self.connection.names.dead_stream();
        let call = format!("STREAM.PURGE.{stream}");
        let which = json!({ "filter": subject });
        match self.connection.api::<Done>("purge", &call, &which).await? {
            Ok(done) => Ok(done.purged),
            // Nothing was ever given up.
            Err(problem) if problem.error_code().0 == crate::durable::NO_STREAM => Ok(0),
            Err(problem) => Err(error::jetstream("purge", "the dead letters", &problem)),
        }
    }
}

#[derive(Deserialize)]
struct Done {
    #[serde(default)]
    purged: u64,
}

/// In fixed width, so that ids sort by age.
fn letter_id(sequence: u64) -> DeadLetterId {
    DeadLetterId::new(format!("{sequence:020}"))
}

fn sequence_of(id: &DeadLetterId) -> Option<u64> {
    id.as_str().parse().ok()
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
    use catga_core::ReasonKind;

    use super::*;

    #[test]
    fn a_reason_fits_into_a_header() {
        for detail in [
            "short".to_owned(),
            "line\nbreak".to_owned(),
            "\u{e4}\u{20ac}".to_owned(),
            "x".repeat(4000),
            "\n".repeat(4000),
            "\u{20ac}".repeat(1300),
            "\u{1F600}\"".repeat(300),
        ] {
            let text = reason_text(&Reason::new(ReasonKind::Terminal, detail.clone()));
            assert!(text.len() <= MAX_REASON && !text.contains('\n'), "{text}");
            let read: Reason = serde_json::from_str(&text).unwrap();
            assert_eq!(read.kind, ReasonKind::Terminal);
            assert!(!read.detail.is_empty());
        }
    }

    #[test]
    fn ids_sort_by_age() {
        assert!(letter_id(9) < letter_id(10) && letter_id(99) < letter_id(100));
        assert_eq!(sequence_of(&letter_id(7)), Some(7));
        assert_eq!(sequence_of(&DeadLetterId::new("nonsense")), None);
    }
}
