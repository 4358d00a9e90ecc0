//! Messages on the wire: the payload is the codec's bytes and nothing else, headers say what differs from the default.

use std::time::{Duration, SystemTime};

use async_nats::{HeaderMap, HeaderValue};
use catga_core::{Bytes, Envelope, Error, Headers, MessageId, Name, QoS};

use crate::error;

/// The id of a message, which the server compares within the duplicate window.
pub(crate) const ID: &str = "Nats-Msg-Id";
/// How often a message was redriven.
pub(crate) const GENERATION: &str = "Catga-Generation";
/// What a version is that nobody can read: no handler knows it.
const UNREADABLE_VERSION: u32 = u32::MAX;
/// What a header costs beside its name and value.
const PER_HEADER: usize = 4;

/// The payload, when it is encoded and not too large with its headers.
pub(crate) fn payload(
    operation: &'static str,
    envelope: &Envelope,
    max: usize,
) -> Result<Bytes, Error> {
    let name = envelope.name();
    let bytes = envelope.payload().as_bytes();
    let bytes = bytes.ok_or_else(|| error::not_encoded(operation, name))?;
    let size = envelope.size_bytes() + envelope.headers().len() * PER_HEADER;
    if size > max {
        return Err(error::too_large(operation, name, size, max));
    }
    Ok(bytes.clone())
}

/// The headers of a message with this id; none when there is nothing to say.
pub(crate) fn headers(envelope: &Envelope, id: Option<&str>) -> Option<HeaderMap> {
    let ours = envelope.headers();
    if id.is_none() && envelope.version() == 1 && ours.is_empty() {
        return None;
    }
    let mut headers = HeaderMap::new();
    for (name, value) in ours.iter() {
        headers.insert(name, value);
    }
    if envelope.version() != 1 {
        headers.insert(Headers::VERSION, envelope.version().to_string());
    }
    if let Some(id) = id {
        headers.insert(ID, id);
    }
    Some(headers)
}

/// A message as it was published. Others may publish too: what makes no header here is left out.
pub(crate) fn envelope(
    name: Name,
    qos: QoS,
    headers: Option<&HeaderMap>,
    payload: Bytes,
) -> Envelope {
    let envelope = Envelope::received(name, qos, payload);
    let Some(headers) = headers.filter(|headers| !headers.is_empty()) else {
        return envelope;
    };
    let mut ours = Headers::new();
    let (mut version, mut id) = (1, None);
    for (name, values) in headers.iter() {
        let (name, Some(value)) = (AsRef::<str>::as_ref(name), values.first()) else {
            continue;
        };
        let value = value.as_str();
        match name {
            Headers::VERSION => version = value.parse().unwrap_or(UNREADABLE_VERSION),
            ID => id = read_id(value),
            _ => {
                // The server's and ours are refused, as headers that could not be published here.
                let _ = ours.insert(name, value);
            }
        }
    }
    let envelope = envelope.with_version(version).with_headers(ours);
    match id {
        Some(id) => envelope.with_id(id),
        None => envelope,
    }
}

/// The id of a message in that of one of its copies: what follows a colon is the copy's.
fn read_id(text: &str) -> Option<MessageId> {
    text.split(':').next()?.parse().ok()
}

/// The text of a header.
pub(crate) fn text<'a>(headers: Option<&'a HeaderMap>, name: &'static str) -> Option<&'a str> {
    headers?.get(name).map(HeaderValue::as_str)
}

/// The number in a header.
pub(crate) fn number(headers: Option<&HeaderMap>, name: &'static str) -> Option<u64> {
    text(headers, name)?.parse().ok()
}

/// What the subject tells to which a delivery is acknowledged
/// ([ADR-15](https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-15.md)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AckInfo {
    /// How often the message was delivered, this time included.
    pub(crate) delivered: u64,
    pub(crate) stream_sequence: u64,
    /// How many deliveries the consumer has made, this one included.
    pub(crate) consumer_sequence: u64,
    /// In nanoseconds since 1970.
    published: u64,
    /// The messages behind it.
    pub(crate) pending: u64,
}

impl AckInfo {
    /// Reads `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`, or its form with
    /// domain and account.
    pub(crate) fn read(subject: &str) -> Option<Self> {
        let rest = subject.strip_prefix("$JS.ACK.")?;
        let mut tokens = [""; 10];
        let mut count = 0;
        for token in rest.split('.') {
            *tokens.get_mut(count)? = token;
            count += 1;
        }
        // Domain and account come first in the longer form, and a token of the server's may be last.
        let from = match count {
            7 => 2,
            9 | 10 => 4,
            _ => return None,
        };
        Some(Self {
            delivered: tokens[from].parse().ok()?,
            stream_sequence: tokens[from + 1].parse().ok()?,
            consumer_sequence: tokens[from + 2].parse().ok()?,
            published: tokens[from + 3].parse().ok()?,
            pending: tokens[from + 4].parse().ok()?,
        })
    }

    pub(crate) fn published(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(self.published)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let mut headers = Headers::new();
        headers.insert("tenant", "acme").unwrap();
        headers.insert("content-type", "application/cbor").unwrap();
        let id = MessageId::new();
        let name = Name::from_static("a.b");
        let sent = Envelope::received(name.clone(), QoS::AtLeastOnce, Bytes::from_static(b"x"))
            .with_version(3)
            .with_headers(headers)
            .with_id(id);
        let wire = super::headers(&sent, Some(&id.to_string()));
        let got = envelope(
            name,
            QoS::AtLeastOnce,
            wire.as_ref(),
            Bytes::from_static(b"x"),
        );
        assert_eq!((got.id(), got.version()), (Some(id), 3));
        assert_eq!(got.headers(), sent.headers());
        assert_eq!(got.content_type(), Some("application/cbor"));
    }

    #[test]
    fn nothing_to_say_makes_no_header() {
        let bare = Envelope::received(Name::from_static("a"), QoS::AtMostOnce, Bytes::new());
        assert_eq!(headers(&bare, None), None);
        assert_eq!(headers(&bare, Some("7")).unwrap().len(), 1);
    }

    #[test]
    fn what_others_wrote_is_taken_as_far_as_it_goes() {
        let mut wire = HeaderMap::new();
        wire.insert(ID, "not a uuid");
        wire.insert(Headers::VERSION, "two");
        wire.insert("Nats-Stream", "s");
        wire.insert("fine", "yes");
        wire.append("fine", "more");
        wire.insert("odd", " spaced ");
        let got = envelope(
            Name::from_static("a"),
            QoS::AtLeastOnce,
            Some(&wire),
            Bytes::new(),
        );
        assert_eq!((got.id(), got.version()), (None, UNREADABLE_VERSION));
        assert_eq!(got.headers().iter().collect::<Vec<_>>(), [("fine", "yes")]);
        let id = MessageId::new();
        assert_eq!(read_id(&format!("{id}:r1")), Some(id));
    }

    #[test]
    fn the_subject_of_an_ack_is_read_in_both_forms() {
        let expected = AckInfo {
            delivered: 2,
            stream_sequence: 30,
            consumer_sequence: 4,
            published: 1_600_000_000_000_000_000,
            pending: 7,
        };
        for subject in [
            "$JS.ACK.s.c.2.30.4.1600000000000000000.7",
            "$JS.ACK._.ACCOUNT.s.c.2.30.4.1600000000000000000.7",
            "$JS.ACK.hub.ACCOUNT.s.c.2.30.4.1600000000000000000.7.random",
        ] {
            assert_eq!(AckInfo::read(subject), Some(expected), "{subject}");
        }
        for odd in ["", "$JS.ACK.s.c.2.30", "$JS.ACK.a.b.c.d.e.f.g.h", "x.y"] {
            assert_eq!(AckInfo::read(odd), None, "{odd}");
        }
        let published = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
        assert_eq!(expected.published(), published);
    }
}
