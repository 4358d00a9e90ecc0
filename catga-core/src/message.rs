//! What a message type says about itself.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU16;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Encoded, Error, ErrorKind};

/// A type that travels. Derived, never written by hand: `#[derive(Event)]` or `#[derive(Request)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a message",
    label = "not a message",
    note = "derive `Event` for something that happened, or `Request` for something that is to be answered: `#[derive(Event, Serialize, Deserialize)]`"
)]
pub trait Message: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What it is for: [`IsEvent`] or [`IsRequest`].
    type Role;
    /// What a handler answers: `()` for every event.
    type Response: Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What the type says about itself: the constants below are read from it. One constant, since the compiler checks
    /// each that a derive writes.
    const DESCRIPTOR: Descriptor;
    /// The name on the wire; see [`Name`](crate::Name) for what is allowed.
    const NAME: &'static str = Self::DESCRIPTOR.name;
    /// The version of the schema, from 1.
    const VERSION: u32 = Self::DESCRIPTOR.version;
    /// The delivery guarantee.
    const QOS: QoS = Self::DESCRIPTOR.qos;
    /// Whether it is an event or a request.
    const KIND: Kind = Self::DESCRIPTOR.kind;
    /// The number of partitions that [`routing_key`](Self::routing_key) spreads over.
    const PARTITIONS: Option<NonZeroU16> = Self::DESCRIPTOR.partitions;

    /// The value of the field that `#[route_by(..)]` names: messages with one key keep their order
    /// in `ordered` handlers.
    fn routing_key(&self) -> Option<Cow<'_, str>> {
        None
    }

    /// The bytes that such a message is, when no codec writes it: `#[message(codec = "raw")]`.
    fn as_raw(&self) -> Option<&Bytes> {
        None
    }

    /// Reads a payload that was written as `version` of the message. An older one is read as it is, by
    /// serde's rules (unknown fields are skipped, missing ones take their `#[serde(default)]`), unless
    /// `#[message(version = 2, upcast_from = OrderShippedV1)]` names the type that it was.
    ///
    /// # Errors
    /// [`Version`](ErrorKind::Version) for a version that is newer than this type's;
    /// [`Decode`](ErrorKind::Decode) for bytes that are no such message.
    fn from_version(version: u32, payload: &Encoded<'_>) -> Result<Self, Error> {
        payload.decode_version(version)
    }
}

impl Encoded<'_> {
    /// Reads the payload, which was written as `version` of the message, as an `M`: an older one as it is.
    ///
    /// # Errors
    /// As [`Message::from_version`].
    pub fn decode_version<M: Message>(&self, version: u32) -> Result<M, Error> {
        not_newer::<M>(version)?;
        self.decode()
    }

    /// The payload, which was written as `version` of the raw message `M`, as it is.
    ///
    /// # Errors
    /// As [`Message::from_version`].
    pub fn raw_version<M: Message>(&self, version: u32) -> Result<Bytes, Error> {
        not_newer::<M>(version)?;
        self.raw(M::NAME)
    }
}

fn not_newer<M: Message>(version: u32) -> Result<(), Error> {
    if version > M::VERSION {
        return Err(Error::new(
            ErrorKind::Version,
            "decode",
            format!(
                "`{}` is of version {version}, and this handler knows it up to {}",
                M::NAME,
                M::VERSION
            ),
        ));
    }
    Ok(())
}

/// Something that happened: published to everybody whom it concerns.
///
/// # Examples
/// ```
/// use catga_core::{Descriptor, Event, IsEvent, Message, QoS};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct OrderCreated { order_id: String }
///
/// // What `#[derive(Event)]` writes:
/// impl Message for OrderCreated {
///     type Role = IsEvent;
///     type Response = ();
///     const DESCRIPTOR: Descriptor = Descriptor::event("OrderCreated");
/// }
///
/// fn is_event<E: Event>() {}
/// is_event::<OrderCreated>();
/// assert_eq!((OrderCreated::QOS, OrderCreated::VERSION), (QoS::AtMostOnce, 1));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "not an event",
    note = "derive it: `#[derive(Event, Serialize, Deserialize)]`"
)]
pub trait Event: Message<Role = IsEvent> {}

#[diagnostic::do_not_recommend]
impl<M: Message<Role = IsEvent>> Event for M {}

/// The [role](Message::Role) of events.
#[derive(Debug)]
pub enum IsEvent {}

/// The [role](Message::Role) of requests.
#[derive(Debug)]
pub enum IsRequest {}

/// Something that one node is asked to do or to tell, and answers.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a request",
    label = "not a request",
    note = "derive it: `#[derive(Request, Serialize, Deserialize)]`, with `#[response(..)]` unless the answer is `()`"
)]
pub trait Request: Message<Role = IsRequest> {}

#[diagnostic::do_not_recommend]
impl<M: Message<Role = IsRequest>> Request for M {}

/// What a message type says about itself, as data.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Descriptor {
    name: &'static str,
    version: u32,
    qos: QoS,
    kind: Kind,
    partitions: Option<NonZeroU16>,
}

impl Descriptor {
    /// An event of this name: version 1, at most once, without a routing key.
    pub const fn event(name: &'static str) -> Self {
        Self {
            name,
            version: 1,
            qos: QoS::AtMostOnce,
            kind: Kind::Event,
            partitions: None,
        }
    }

    /// A request of this name: version 1, at least once, idempotent, without a routing key.
    pub const fn request(name: &'static str) -> Self {
        Self {
            qos: QoS::AtLeastOnce,
            kind: Kind::Request { idempotent: true },
            ..Self::event(name)
        }
    }

    /// With this version of the schema.
    pub const fn with_version(self, version: u32) -> Self {
        Self { version, ..self }
    }

    /// With this delivery guarantee.
    pub const fn with_qos(self, qos: QoS) -> Self {
        Self { qos, ..self }
    }

    /// A request that is answered anew each time.
    pub const fn not_idempotent(self) -> Self {
        let kind = Kind::Request { idempotent: false };
        Self { kind, ..self }
    }

    /// With a routing key, whose values are spread over so many partitions: none when it is 0.
    pub const fn with_partitions(self, partitions: u16) -> Self {
        let partitions = NonZeroU16::new(partitions);
        Self { partitions, ..self }
    }
}

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Something that happened.
    Event,
    /// Something to be answered.
    Request {
        /// Whether the serving side remembers the id, so that a retry does not run twice.
        idempotent: bool,
    },
}

/// A field that `#[route_by(..)]` can name.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a routing key",
    label = "not a routing key",
    note = "route by a string, an integer or a UUID, or implement `catga::RoutingKey`"
)]
pub trait RoutingKey {
    /// The key: equal values give equal keys, in every process.
    fn routing_key(&self) -> Cow<'_, str>;
}

impl RoutingKey for str {
    fn routing_key(&self) -> Cow<'_, str> {
        Cow::Borrowed(self)
    }
}

impl RoutingKey for String {
    fn routing_key(&self) -> Cow<'_, str> {
        Cow::Borrowed(self)
    }
}

impl<T: RoutingKey + ?Sized> RoutingKey for &T {
    fn routing_key(&self) -> Cow<'_, str> {
        (**self).routing_key()
    }
}

macro_rules! routing_key_by_display {
    ($($type:ty),*) => {$(
        impl RoutingKey for $type {
            fn routing_key(&self) -> Cow<'_, str> {
                Cow::Owned(self.to_string())
            }
        }
    )*};
}

routing_key_by_display!(
    u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize, bool, char
);
routing_key_by_display!(uuid::Uuid, crate::MessageId);

/// The delivery guarantee of a message type (quality of service).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QoS {
    /// QoS 0: fire and forget. May be lost, is never duplicated by us.
    #[default]
    AtMostOnce = 0,
    /// QoS 1: stored before `publish` returns, redelivered until a handler succeeds.
    AtLeastOnce = 1,
    /// QoS 2: QoS 1 with deduplication when published and when handled.
    ExactlyOnce = 2,
}

impl fmt::Display for QoS {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::AtMostOnce => "at_most_once",
            Self::AtLeastOnce => "at_least_once",
            Self::ExactlyOnce => "exactly_once",
        })
    }
}
