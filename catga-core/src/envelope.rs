//! What travels.

use std::num::NonZeroU16;

use bytes::Bytes;

use crate::{Codec, Error, Headers, Message, MessageId, Name, Payload, QoS};

/// A message on its way: id, name, version, headers, payload, and where it was routed to.
///
/// A backend writes the payload's bytes as they are and puts the rest into the broker's own
/// headers, only where it differs from the default.
#[derive(Clone, Debug)]
pub struct Envelope {
    id: Option<MessageId>,
    name: Name,
    version: u32,
    qos: QoS,
    partition: Option<u16>,
    headers: Headers,
    payload: Payload,
}

impl Envelope {
    /// Wraps a typed message. QoS 1 and 2 get an id here; a QoS 0 message gets one only when
    /// somebody asks for it, since its id does not travel.
    #[must_use]
    pub fn new<M: Message>(message: M) -> Self {
        let mut envelope = Self::without_id(message);
        if envelope.qos != QoS::AtMostOnce {
            envelope.id = Some(MessageId::new());
        }
        envelope
    }

    /// Wraps a typed message whose id is yet to be found: derived from what it follows from, say.
    #[must_use]
    pub fn without_id<M: Message>(message: M) -> Self {
        let partition =
            M::PARTITIONS.and_then(|n| message.routing_key().map(|key| partition_of(&key, n)));
        Self {
            id: None,
            name: const { Name::from_static(M::NAME) },
            version: M::VERSION,
            qos: M::QOS,
            partition,
            headers: Headers::new(),
            payload: Payload::typed(message),
        }
    }

    /// Wraps a payload that a backend received.
    #[must_use]
    pub fn received(name: Name, qos: QoS, payload: impl Into<Payload>) -> Self {
        Self {
            id: None,
            name,
            version: 1,
            qos,
            partition: None,
            headers: Headers::new(),
            payload: payload.into(),
        }
    }

    /// Sets the id.
    #[must_use]
    pub fn with_id(mut self, id: MessageId) -> Self {
        self.id = Some(id);
        self
    }

    /// Sets the version of the schema.
    #[must_use]
    pub fn with_version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Sets all headers.
    #[must_use]
    pub fn with_headers(mut self, headers: Headers) -> Self {
        self.headers = headers;
        self
    }

    /// Sets the partition that the routing key fell into.
    #[must_use]
    pub fn with_partition(mut self, partition: Option<u16>) -> Self {
        self.partition = partition;
        self
    }

    /// The id, when it has one: a QoS 0 message does only if the publisher set it.
    #[must_use]
    pub fn id(&self) -> Option<MessageId> {
        self.id
    }

    /// The id, drawn now when there was none.
    pub fn set_id(&mut self, id: MessageId) {
        self.id = Some(id);
    }

    /// The id, drawn now if there was none.
    pub fn id_or_new(&mut self) -> MessageId {
        *self.id.get_or_insert_with(MessageId::new)
    }

    /// The message's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The version of the message's schema.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The guarantee that it was published with.
    #[must_use]
    pub fn qos(&self) -> QoS {
        self.qos
    }

    /// The partition that its routing key fell into.
    #[must_use]
    pub fn partition(&self) -> Option<u16> {
        self.partition
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The headers, to be changed.
    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.headers
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// Takes the payload out and leaves an empty one: for deliveries that nobody settles.
    #[must_use]
    pub fn take_payload(&mut self) -> Payload {
        std::mem::replace(&mut self.payload, Bytes::new().into())
    }

    /// Takes the message out, and leaves all of it but the payload.
    #[must_use]
    pub fn take(&mut self) -> Self {
        Self {
            id: self.id,
            name: self.name.clone(),
            version: self.version,
            qos: self.qos,
            partition: self.partition,
            headers: self.headers.clone(),
            payload: self.take_payload(),
        }
    }

    /// The payload's media type, when it is not the default of the message: raw bytes for a
    /// [raw](Message::as_raw) one, JSON for all others.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.headers.get(Headers::CONTENT_TYPE)
    }

    /// Encodes the payload unless it is already, and notes the content type when it is not the default.
    ///
    /// # Errors
    /// [`ErrorKind::Encode`](crate::ErrorKind::Encode) when the value cannot be written.
    pub fn encode(&mut self, codec: &dyn Codec) -> Result<(), Error> {
        if let Some(content_type) = self.payload.encode(codec)? {
            self.headers.insert(Headers::CONTENT_TYPE, content_type)?;
        }
        Ok(())
    }

    /// Forgets the typed value, so that the receiver sees what one behind a wire would see.
    #[must_use]
    pub fn without_value(mut self) -> Self {
        self.payload = self.payload.without_value();
        self
    }

    /// The bytes of payload and headers, which brokers hold against their limit; 0 for a payload
    /// that is not encoded.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.payload.as_bytes().map_or(0, Bytes::len) + self.headers.size_bytes()
    }
}

/// The partition of a routing key: FNV-1a ([draft-eastlake-fnv]) with a finishing mix, so that every process,
/// Rust version and platform agrees.
///
/// [draft-eastlake-fnv]: https://datatracker.ietf.org/doc/html/draft-eastlake-fnv
fn partition_of(key: &str, partitions: NonZeroU16) -> u16 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in key.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // FNV's low bits are weak on short keys; fold the high half in before the modulo.
    hash ^= hash >> 32;
    u16::try_from(hash % u64::from(partitions.get())).expect("a remainder is below its divisor")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_stable_and_spread() {
        let n = NonZeroU16::new(16).unwrap();
        assert_eq!(
            (
                partition_of("order-1", n),
                partition_of("order-2", n),
                partition_of("", n)
            ),
            PINNED
        );
        let mut counts = [0u32; 16];
        for i in 0..16_000 {
            counts[usize::from(partition_of(&format!("order-{i}"), n))] += 1;
        }
        assert!(counts.iter().all(|c| (800..1200).contains(c)), "{counts:?}");
    }

    #[test]
    fn a_raw_message_travels_as_it_is_and_says_nothing_of_it() {
        #[derive(serde::Serialize, serde::Deserialize)]
        struct Frame(Bytes);

        impl Message for Frame {
            type Role = crate::IsEvent;
            type Response = ();
            const DESCRIPTOR: crate::Descriptor = crate::Descriptor::event("Frame");

            fn as_raw(&self) -> Option<&Bytes> {
                Some(&self.0)
            }
        }

        let bytes = Bytes::from_static(b"\0\xff");
        for codec in crate::Codecs::default().iter() {
            let mut envelope = Envelope::new(Frame(bytes.clone()));
            envelope.encode(&**codec).unwrap();
            let written = envelope.payload().as_bytes().unwrap();
            assert_eq!(written.as_ptr(), bytes.as_ptr(), "{codec:?}");
            assert!(envelope.headers().is_empty(), "{codec:?}");
        }
    }

    /// Changing these breaks the order of messages that are on their way during an upgrade.
    const PINNED: (u16, u16, u16) = (2, 11, 1);
}
