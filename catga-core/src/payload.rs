//! The lazy payload of an envelope.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
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

/// Why a value is there.
const HELD: &str = "only `into_value` and `into_shared` take the value out, with the payload";

/// Writes a value; yields the content type too, where that is not the default of its type.
type Encode =
    fn(&(dyn Any + Send + Sync), &dyn Codec) -> Result<(Bytes, Option<&'static str>), Error>;

#[derive(Clone)]
struct Typed {
    /// Taken out by `into_value` and `into_shared` alone.
    value: Option<Arc<dyn Any + Send + Sync>>,
    encode: Encode,
}

impl Drop for Typed {
    fn drop(&mut self) {
        // The last holder drops the user's value, and may be a backend's own task: a panic in the
        // value's `Drop` must not end it. The panic hook has reported it by then.
        if let Some(value) = self.value.take()
            && let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(value)))
        {
            std::mem::forget(panic);
        }
    }
}

impl Payload {
    /// The payload of a typed message.
    #[must_use]
    pub fn typed<M: Message>(message: M) -> Self {
        let encode: Encode = |value, codec| {
            let message: &M = value
                .downcast_ref()
                .expect("made with this type in `Payload::typed`");
            match message.as_raw() {
                Some(raw) => Ok((raw.clone(), None)),
                None => {
                    let bytes = codec::encode(codec, message, M::NAME)?;
                    Ok((bytes, codec::unless_json(codec)))
                }
            }
        };
        Self {
            bytes: None,
            value: Some(Typed {
                value: Some(Arc::new(message)),
                encode,
            }),
        }
    }

    /// Encodes the payload unless it is already, and yields the content type that has to be said of it: none where it was
    /// encoded before, and where it is what receivers expect of the message, JSON or raw bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Encode`](crate::ErrorKind::Encode) when the value cannot be written.
    pub fn encode(&mut self, codec: &dyn Codec) -> Result<Option<&'static str>, Error> {
        if self.bytes.is_some() {
            return Ok(None);
        }
        let typed = self.value.as_ref().expect("a payload has bytes or a value");
        let value = typed.value.as_deref().expect(HELD);
        let (bytes, content_type) = (typed.encode)(value, codec)?;
        self.bytes = Some(bytes);
        Ok(content_type)
    }

    /// The payload as bytes, when it is already encoded.
    #[must_use]
    pub fn as_bytes(&self) -> Option<&Bytes> {
        self.bytes.as_ref()
    }

    /// The typed value, shared, when this payload never left the process and is an `M`.
    #[must_use]
    pub fn as_value<M: Message>(&self) -> Option<Arc<M>> {
        let value = self.value.as_ref()?.value.as_ref().expect(HELD);
        Arc::clone(value).downcast().ok()
    }

    /// As [`as_value`](Self::as_value), of a payload that is used for nothing else; else the payload as it was.
    ///
    /// # Errors
    /// Returns the payload when it holds no `M`.
    pub fn into_shared<M: Message>(mut self) -> Result<Arc<M>, Self> {
        let Some(typed) = &mut self.value else {
            return Err(self);
        };
        match typed.value.take().expect(HELD).downcast() {
            Ok(shared) => Ok(shared),
            Err(other) => {
                typed.value = Some(other);
                Err(self)
            }
        }
    }

    /// The typed value itself, when nobody else shares it; else the payload as it was.
    ///
    /// # Errors
    /// Returns the payload when it holds no `M`, or others hold the same value.
    pub fn into_value<M: Message>(mut self) -> Result<M, Self> {
        let Some(typed) = &mut self.value else {
            return Err(self);
        };
        let value = match typed.value.take().expect(HELD).downcast::<M>() {
            Ok(shared) => match Arc::try_unwrap(shared) {
                Ok(message) => return Ok(message),
                Err(shared) => shared as _,
            },
            Err(other) => other,
        };
        typed.value = Some(value);
        Err(self)
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
