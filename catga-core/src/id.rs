//! Message ids.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::{ContextV7, Timestamp, Uuid};

use crate::{Error, ErrorKind};

/// The identity of a message, kept through retries, redeliveries and redrives.
///
/// Fresh ids are UUIDs of version 7 ([RFC 9562]), which sort by time; ids made from a key of the
/// user's are of version 5, so that the same key gives the same id in every process.
///
/// [RFC 9562]: https://www.rfc-editor.org/rfc/rfc9562
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MessageId(Uuid);

/// Keeps our version 5 ids apart from everybody else's.
const KEY_SPACE: Uuid = Uuid::from_u128(0x0c_a7_9a_6d_3f_51_4e_0b_9a_1e_63_61_74_67_61_00);

impl MessageId {
    /// A fresh id.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "a default that differs each time would surprise"
    )]
    pub fn new() -> Self {
        Self(fresh())
    }

    /// The id of `key`: the same key gives the same id, everywhere and always.
    ///
    /// # Examples
    /// ```
    /// use catga_core::MessageId;
    ///
    /// assert_eq!(MessageId::from_key("invoice-17"), MessageId::from_key("invoice-17"));
    /// assert_ne!(MessageId::from_key("invoice-17"), MessageId::from_key("invoice-18"));
    /// ```
    #[must_use]
    pub fn from_key(key: &str) -> Self {
        Self(Uuid::new_v5(&KEY_SPACE, key.as_bytes()))
    }

    /// The id of something that follows from this message: the same for the same `content`
    /// (a `UUIDv5` in the name space of this id, [RFC 9562](https://www.rfc-editor.org/rfc/rfc9562#section-5.5)).
    #[must_use]
    pub fn derive(&self, content: &[u8]) -> Self {
        Self(Uuid::new_v5(&self.0, content))
    }

    /// The UUID within.
    #[must_use]
    pub const fn as_uuid(&self) -> &Uuid {
        &self.0
    }
}

thread_local! {
    /// One per thread, since that of the crate is behind a lock. Two of them do not give one id: 32 bits and the start
    /// of the counter are random.
    static COUNTER: ContextV7 = const { ContextV7::new() };
}

fn fresh() -> Uuid {
    COUNTER.with(|counter| Uuid::new_v7(Timestamp::now(counter)))
}

impl From<Uuid> for MessageId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

impl FromStr for MessageId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Uuid::parse_str(text).map(Self).map_err(|e| {
            Error::new(
                ErrorKind::Decode,
                "message id",
                "a message id must be a UUID",
            )
            .with_source(e)
        })
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
