//! Bytes and messages, by content type.

use std::any::{Any, TypeId};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{BoxError, Error, ErrorKind};

/// Writes and reads messages in one format. JSON is the default; MessagePack and CBOR come with the
/// features `msgpack` and `cbor`; others are implemented here.
///
/// # Behaviour
/// - `decode` reads the whole input, refuses trailing bytes, and bounds depth: it never overflows
///   the stack on hostile input, and never allocates by a length that the input merely claims.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a codec",
    label = "not a codec",
    note = "`Json` is always there, `MessagePack` and `Cbor` with their features; write your own: `impl catga::Codec for {Self}`"
)]
pub trait Codec: Any + Send + Sync + fmt::Debug {
    /// The media type that stands in the `content-type` header.
    fn content_type(&self) -> &'static str;

    /// Writes a value.
    ///
    /// # Errors
    /// Whatever keeps the value from being written.
    fn encode(&self, value: &dyn erased_serde::Serialize) -> Result<Bytes, BoxError>;

    /// Reads a value into `target`.
    ///
    /// # Errors
    /// Whatever is wrong with the bytes.
    fn decode(&self, bytes: &[u8], target: &mut dyn DecodeTarget) -> Result<(), BoxError>;
}

/// Where [`Codec::decode`] puts what it read: hands over a deserializer, gets the value out.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not what a codec decodes into",
    label = "not a target",
    note = "a codec is given one: hand a deserializer to it"
)]
pub trait DecodeTarget {
    /// Reads the value from `deserializer`.
    ///
    /// # Errors
    /// What the value's `Deserialize` refused.
    fn fill(
        &mut self,
        deserializer: &mut dyn erased_serde::Deserializer<'_>,
    ) -> Result<(), erased_serde::Error>;
}

struct Slot<T>(Option<T>);

impl<T: DeserializeOwned> DecodeTarget for Slot<T> {
    fn fill(
        &mut self,
        deserializer: &mut dyn erased_serde::Deserializer<'_>,
    ) -> Result<(), erased_serde::Error> {
        self.0 = Some(erased_serde::deserialize(deserializer)?);
        Ok(())
    }
}

/// JSON ([RFC 8259](https://www.rfc-editor.org/rfc/rfc8259)), at most 128 levels deep.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

impl Json {
    /// The content type that is understood when a message names none.
    pub const CONTENT_TYPE: &str = "application/json";
}

impl Codec for Json {
    fn content_type(&self) -> &'static str {
        Self::CONTENT_TYPE
    }

    fn encode(&self, value: &dyn erased_serde::Serialize) -> Result<Bytes, BoxError> {
        Ok(serde_json::to_vec(value)?.into())
    }

    fn decode(&self, bytes: &[u8], target: &mut dyn DecodeTarget) -> Result<(), BoxError> {
        let mut json = serde_json::Deserializer::from_slice(bytes);
        target.fill(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut json))?;
        Ok(json.end()?)
    }
}

/// MessagePack with field names ([specification](https://github.com/msgpack/msgpack/blob/master/spec.md)).
#[cfg(feature = "msgpack")]
#[derive(Clone, Copy, Debug, Default)]
pub struct MessagePack;

#[cfg(feature = "msgpack")]
impl Codec for MessagePack {
    fn content_type(&self) -> &'static str {
        "application/vnd.msgpack"
    }

    fn encode(&self, value: &dyn erased_serde::Serialize) -> Result<Bytes, BoxError> {
        Ok(rmp_serde::to_vec_named(value)?.into())
    }

    fn decode(&self, bytes: &[u8], target: &mut dyn DecodeTarget) -> Result<(), BoxError> {
        let mut rest = bytes;
        let mut msgpack = rmp_serde::Deserializer::new(&mut rest);
        msgpack.set_max_depth(128);
        target.fill(&mut <dyn erased_serde::Deserializer<'_>>::erase(
            &mut msgpack,
        ))?;
        whole(rest)
    }
}

/// CBOR ([RFC 8949](https://www.rfc-editor.org/rfc/rfc8949)).
#[cfg(feature = "cbor")]
#[derive(Clone, Copy, Debug, Default)]
pub struct Cbor;

#[cfg(feature = "cbor")]
impl Codec for Cbor {
    fn content_type(&self) -> &'static str {
        "application/cbor"
    }

    fn encode(&self, value: &dyn erased_serde::Serialize) -> Result<Bytes, BoxError> {
        Ok(minicbor_serde::to_vec(value)?.into())
    }

    fn decode(&self, bytes: &[u8], target: &mut dyn DecodeTarget) -> Result<(), BoxError> {
        bounded(bytes)?;
        let mut cbor = minicbor_serde::Deserializer::new(bytes);
        target.fill(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut cbor))?;
        whole(&bytes[cbor.decoder().position()..])
    }
}

/// Refuses what is nested more than 128 levels deep: the deserializer itself has no bound.
#[cfg(feature = "cbor")]
fn bounded(bytes: &[u8]) -> Result<(), BoxError> {
    use minicbor::data::Token;

    // How many items each open array or map still takes; `None` until a break.
    let mut open: Vec<Option<u64>> = Vec::new();
    for token in minicbor::decode::Tokenizer::new(bytes) {
        let entered = match token? {
            Token::Array(n) => Some(Some(n)),
            Token::Map(n) => Some(Some(
                n.checked_mul(2).ok_or("a map claims too many entries")?,
            )),
            Token::Tag(_) => Some(Some(1)),
            Token::BeginArray | Token::BeginMap | Token::BeginBytes | Token::BeginString => {
                Some(None)
            }
            Token::Break => {
                open.pop();
                None
            }
            _ => None,
        };
        match entered {
            Some(Some(0)) | None => {}
            Some(items) if open.len() < 128 => {
                open.push(items);
                continue;
            }
            Some(_) => return Err("nested more than 128 levels deep".into()),
        }
        // An item is complete: it may have been the last of those around it.
        while let Some(Some(left)) = open.last_mut() {
            *left -= 1;
            if *left > 0 {
                break;
            }
            open.pop();
        }
    }
    Ok(())
}

#[cfg(any(feature = "msgpack", feature = "cbor"))]
fn whole(rest: &[u8]) -> Result<(), BoxError> {
    if rest.is_empty() {
        Ok(())
    } else {
        Err(format!("{} bytes follow the value", rest.len()).into())
    }
}

/// The codecs that an application knows: it writes with the first and reads with all.
#[derive(Clone, Debug)]
pub struct Codecs(Arc<[Arc<dyn Codec>]>);

impl Codecs {
    /// `codecs`, the one to write with first; a later one of the same content type is not used.
    #[must_use]
    pub fn new(codecs: impl IntoIterator<Item = Arc<dyn Codec>>) -> Self {
        let codecs: Arc<[_]> = codecs.into_iter().collect();
        assert!(
            !codecs.is_empty(),
            "an application needs a codec to write with"
        );
        Self(codecs)
    }

    /// All codecs, the one that writes first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Codec>> {
        self.0.iter()
    }

    /// The codec that messages are written with.
    #[must_use]
    pub fn writer(&self) -> &dyn Codec {
        &*self.0[0]
    }

    /// Writes `value`, which errors call `what`, with the [`writer`](Self::writer). `Bytes` are what they are: no
    /// codec writes them.
    ///
    /// # Errors
    /// [`ErrorKind::Encode`] when the value cannot be written.
    pub fn encode<T: Serialize + 'static>(&self, value: &T, what: &str) -> Result<Bytes, Error> {
        match (value as &dyn Any).downcast_ref::<Bytes>() {
            Some(raw) => Ok(raw.clone()),
            None => encode(self.writer(), value, what),
        }
    }

    /// The content type of what [`encode`](Self::encode) writes of a `T`; `None` where that is the default: no codec for
    /// `Bytes`, and JSON for all else.
    #[must_use]
    pub fn content_type<T: 'static>(&self) -> Option<&'static str> {
        if TypeId::of::<T>() == TypeId::of::<Bytes>() {
            None
        } else {
            unless_json(self.writer())
        }
    }

    /// Reads `bytes` of a content type; of none, they are JSON, or `Bytes` where that is what is read.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] when no codec has this content type, or the bytes are no such value.
    pub fn decode<T: DeserializeOwned + 'static>(
        &self,
        content_type: Option<&str>,
        bytes: &Bytes,
    ) -> Result<T, Error> {
        let mut raw: Option<T> = None;
        if let Some(raw) = (&mut raw as &mut dyn Any).downcast_mut::<Option<Bytes>>() {
            *raw = Some(as_raw("a response", content_type, bytes)?);
        }
        if let Some(raw) = raw {
            return Ok(raw);
        }
        let content_type = content_type.unwrap_or(Json::CONTENT_TYPE);
        let Some(codec) = self
            .0
            .iter()
            .find(|codec| codec.content_type() == content_type)
        else {
            let known: Vec<_> = self.0.iter().map(|codec| codec.content_type()).collect();
            let shown: String = content_type.chars().take(80).collect();
            return Err(Error::new(
                ErrorKind::Decode,
                "decode",
                format!(
                    "no codec for content type {shown:?} (known: {})",
                    known.join(", ")
                ),
            ));
        };
        decode(&**codec, bytes)
    }
}

/// A payload that is yet to be decoded, as some type of some version.
#[derive(Clone, Copy, Debug)]
pub struct Encoded<'a> {
    codecs: &'a Codecs,
    content_type: Option<&'a str>,
    bytes: &'a Bytes,
}

impl<'a> Encoded<'a> {
    /// The content type of bytes that no codec wrote ([RFC 2046, section 4.5.1]).
    ///
    /// [RFC 2046, section 4.5.1]: https://www.rfc-editor.org/rfc/rfc2046#section-4.5.1
    pub const OCTET_STREAM: &'static str = "application/octet-stream";

    /// Bytes of a content type, and who can read them. Without one they are what the type they are read as has
    /// by default: JSON, or raw bytes.
    #[must_use]
    pub fn new(codecs: &'a Codecs, content_type: Option<&'a str>, bytes: &'a Bytes) -> Self {
        Self {
            codecs,
            content_type,
            bytes,
        }
    }

    /// Reads the payload as a `T`.
    ///
    /// # Errors
    /// As [`Codecs::decode`].
    pub fn decode<T: DeserializeOwned + 'static>(&self) -> Result<T, Error> {
        self.codecs.decode(self.content_type, self.bytes)
    }

    /// The payload as it is, shared and not copied, for the raw message `name`.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] when it says that a codec wrote it.
    pub fn raw(&self, name: &str) -> Result<Bytes, Error> {
        as_raw(&format_args!("`{name}`"), self.content_type, self.bytes)
    }
}

impl Default for Codecs {
    /// JSON, and what the features add for reading.
    fn default() -> Self {
        Self::new([
            Arc::new(Json) as Arc<dyn Codec>,
            #[cfg(feature = "msgpack")]
            Arc::new(MessagePack),
            #[cfg(feature = "cbor")]
            Arc::new(Cbor),
        ])
    }
}

/// The content type of a codec, where it has to be said.
pub(crate) fn unless_json(codec: &dyn Codec) -> Option<&'static str> {
    Some(codec.content_type()).filter(|content_type| *content_type != Json::CONTENT_TYPE)
}

fn as_raw(
    what: &(impl fmt::Display + ?Sized),
    content_type: Option<&str>,
    bytes: &Bytes,
) -> Result<Bytes, Error> {
    match content_type {
        None | Some(Encoded::OCTET_STREAM) => Ok(bytes.clone()),
        Some(other) => {
            let shown: String = other.chars().take(80).collect();
            let raw = Encoded::OCTET_STREAM;
            let text = format!(
                "{what} is raw bytes here, and came as {shown:?}: send it as {raw:?} or without a content type, or read it with a codec on this side too"
            );
            Err(Error::new(ErrorKind::Decode, "decode", text))
        }
    }
}

pub(crate) fn encode<T: Serialize>(
    codec: &dyn Codec,
    value: &T,
    what: &str,
) -> Result<Bytes, Error> {
    let encoded = if (codec as &dyn Any).is::<Json>() {
        // The default without the detour over `dyn`, which costs as much again.
        serde_json::to_vec(value)
            .map(Bytes::from)
            .map_err(Into::into)
    } else {
        codec.encode(value)
    };
    encoded.map_err(|e: BoxError| {
        Error::new(
            ErrorKind::Encode,
            "encode",
            format!(
                "`{what}` cannot be written as {}: {e}",
                codec.content_type()
            ),
        )
        .with_source(e)
    })
}

fn decode<T: DeserializeOwned>(codec: &dyn Codec, bytes: &[u8]) -> Result<T, Error> {
    let failed = |e: BoxError| {
        let what = std::any::type_name::<T>();
        Error::new(
            ErrorKind::Decode,
            "decode",
            format!(
                "the payload is no `{what}` as {}: {e}",
                codec.content_type()
            ),
        )
        .with_source(e)
    };
    if (codec as &dyn Any).is::<Json>() {
        // As `Json` does, without the detour over `dyn`, which costs more than the reading.
        return serde_json::from_slice(bytes).map_err(|error| failed(error.into()));
    }
    let mut slot = Slot(None);
    codec.decode(bytes, &mut slot).map_err(failed)?;
    slot.0
        .ok_or_else(|| failed("the codec read nothing".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Order {
        id: String,
        lines: Vec<(u32, f64)>,
        note: Option<String>,
    }

    fn codecs() -> Vec<Arc<dyn Codec>> {
        Codecs::default().0.to_vec()
    }

    #[test]
    fn every_codec_round_trips() {
        let order = Order {
            id: "ö-17".into(),
            lines: vec![(1, 2.5), (u32::MAX, -0.0)],
            note: None,
        };
        for codec in codecs() {
            let bytes = encode(&*codec, &order, "Order").unwrap();
            assert_eq!(
                decode::<Order>(&*codec, &bytes).unwrap(),
                order,
                "{codec:?}"
            );
        }
    }

    #[test]
    fn trailing_truncated_and_deep_input_is_refused() {
        for codec in codecs() {
            let bytes = encode(&*codec, &vec![7u32], "numbers").unwrap();
            let mut long = bytes.to_vec();
            long.extend_from_slice(&bytes);
            assert!(
                decode::<Vec<u32>>(&*codec, &long).is_err(),
                "{codec:?} took trailing bytes"
            );
            assert!(
                decode::<Vec<u32>>(&*codec, b"").is_err(),
                "{codec:?} took nothing"
            );
        }
        // A hundred thousand arrays, each in the other, in JSON, MessagePack and CBOR.
        for (codec, open) in codecs().iter().zip([b'[', 0x91, 0x81]) {
            let deep = vec![open; 100_000];
            let error = decode::<serde_json::Value>(&**codec, &deep).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Decode, "{codec:?}");
        }
    }

    #[test]
    fn an_unknown_content_type_names_the_known_ones() {
        let error = Codecs::default()
            .decode::<u32>(Some("text/plain"), &Bytes::from_static(b"1"))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode);
        assert!(error.message().contains("application/json"), "{error}");
    }

    #[test]
    fn bytes_are_no_codecs_business() {
        let codecs = Codecs::default();
        for payload in [Bytes::new(), Bytes::from_static(b"\0{\xff\n")] {
            let written = codecs.encode(&payload, "frame").unwrap();
            assert_eq!(written.as_ptr(), payload.as_ptr(), "they are shared");
            for content_type in [None, Some(Encoded::OCTET_STREAM)] {
                let read: Bytes = codecs.decode(content_type, &written).unwrap();
                assert_eq!((read.as_ptr(), &read), (payload.as_ptr(), &payload));
            }
        }
        assert_eq!(codecs.content_type::<Bytes>(), None);
        let json = Some(Json::CONTENT_TYPE);
        let error = codecs.decode::<Bytes>(json, &Bytes::from_static(b"[1]"));
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode);
        assert!(error.message().contains("is raw bytes here"), "{error}");
        let octets = Encoded::OCTET_STREAM;
        let error = codecs.decode::<u32>(Some(octets), &Bytes::from_static(b"1"));
        assert!(error.unwrap_err().message().contains(octets));
    }
}
