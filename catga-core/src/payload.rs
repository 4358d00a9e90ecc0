//! The lazy payload of an envelope.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Codec, Error, Message, codec};

/// What a message carries: bytes, the typed value, or both.
///
/// A value that never leaves the process is never encoded; one that does is encoded once.
#[derive(Clone)]
pub struct Payload {
    bytes: Option<Bytes>,
    value: Option<Typed>,
}

#[derive(Clone)]
struct Typed {
    value: Arc<dyn Any + Send + Sync>,
    encode: fn(&(dyn Any + Send + Sync), &dyn Codec) -> Result<Bytes, Error>,
}

impl Payload {
    /// The payload of a typed message.
    #[must_use]
    pub fn typed<M: Message>(message: M) -> Self {
        let encode: fn(&(dyn Any + Send + Sync), &dyn Codec) -> _ = |value, codec| {
            let message: &M = value
                .downcast_ref()
                .expect("made with this type in `Payload::typed`");
            codec::encode(codec, message, M::NAME)
        };
        Self {
            bytes: None,
            value: Some(Typed {
                value: Arc::new(message),
                encode,
            }),
        }
    }

    /// The payload as bytes, encoded unless it is already.
    ///
    /// # Errors
    /// [`ErrorKind::Encode`](crate::ErrorKind::Encode) when the value cannot be written.
    pub fn encode(&mut self, codec: &dyn Codec) -> Result<&Bytes, Error> {
        if self.bytes.is_none() {
            let typed = self.value.as_ref().expect("a payload has bytes or a value");
            self.bytes = Some((typed.encode)(&*typed.value, codec)?);
        }
        Ok(self.bytes.as_ref().expect("encoded above"))
    }

    /// The payload as bytes, when it is already encoded.
    #[must_use]
    pub fn as_bytes(&self) -> Option<&Bytes> {
        self.bytes.as_ref()
    }

    /// The typed value, shared, when this payload never left the process and is an `M`.
    #[must_use]
    pub fn as_value<M: Message>(&self) -> Option<Arc<M>> {
        self.value
            .as_ref()
            .and_then(|typed| Arc::clone(&typed.value).downcast().ok())
    }

    /// The typed value itself, when nobody else shares it; else the payload as it was.
    ///
    /// # Errors
    /// Returns the payload when it holds no `M`, or others hold the same value.
    pub fn into_value<M: Message>(self) -> Result<M, Self> {
        let Self {
            bytes,
            value: Some(Typed { value, encode }),
        } = self
        else {
            return Err(self);
        };
        match value.downcast::<M>() {
            Ok(shared) => Arc::try_unwrap(shared).map_err(|value| Self {
                bytes,
                value: Some(Typed { value, encode }),
            }),
            Err(value) => Err(Self {
                bytes,
                value: Some(Typed { value, encode }),
            }),
        }
    }

    /// Forgets the typed value, so that the receiver sees what travelled over a wire would see.
    /// Keeps it where there are no bytes.
    #[must_use]
    pub fn without_value(mut self) -> Self {
        if self.bytes.is_some() {
            self.value = None;
        }
        self
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self {
            bytes: Some(bytes),
            value: None,
        }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.bytes {
            Some(bytes) => write!(f, "{} bytes", bytes.len()),
            None => write!(f, "typed"),
        }
    }
}
