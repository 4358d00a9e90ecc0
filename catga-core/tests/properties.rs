//! What holds for whatever is thrown at the contracts: names, ids, headers, URLs, codecs. A failure prints the least case
//! that shows it, and keeps its seed beside this file, so that the next run begins with it.

use std::collections::{BTreeMap, HashSet};
use std::str::FromStr;

use catga_core::{BackendUrl, Bytes, Codecs, Encoded, ErrorKind, Headers, MessageId, Name};
use proptest::collection::{btree_map, vec};
use proptest::prelude::{
    Just, Strategy, any, prop_assert, prop_assert_eq, prop_assume, prop_oneof, proptest,
};
use proptest::sample::Index;
use proptest::test_runner::{Config as ProptestConfig, FileFailurePersistence};
use serde::{Deserialize, Serialize};

/// Whether a text is a name, by its rule in the words of the wire format.
fn is_name(text: &str) -> bool {
    let token = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
    };
    text.len() <= 128 && text.split('.').all(token)
}

/// Texts that are names, nearly names, and anything.
fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        "[A-Za-z0-9_-]{1,12}(\\.[A-Za-z0-9_-]{1,12}){0,3}",
        "[a-z.*> ]{0,12}",
        "[a-z]{120,140}",
        ".{0,20}",
    ]
}

/// Content of all sorts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Content {
    text: String,
    number: i64,
    float: f64,
    flag: Option<bool>,
    bytes: Vec<u8>,
    map: BTreeMap<String, Kind>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Kind {
    Unit,
    Newtype(u32),
    Tuple(String, i8),
    Struct { inner: Vec<Kind> },
}

fn kinds() -> impl Strategy<Value = Kind> {
    let leaf = prop_oneof![
        Just(Kind::Unit),
        any::<u32>().prop_map(Kind::Newtype),
        (".*", any::<i8>()).prop_map(|(text, number)| Kind::Tuple(text, number)),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        vec(inner, 0..4).prop_map(|inner| Kind::Struct { inner })
    })
}

fn contents() -> impl Strategy<Value = Content> {
    let parts = (
        ".*",
        any::<i64>(),
        // What is no number has no JSON.
        any::<f64>().prop_filter("a number", |float| float.is_finite()),
        any::<Option<bool>>(),
        vec(any::<u8>(), 0..64),
        btree_map(".{0,8}", kinds(), 0..4),
    );
    parts.prop_map(|(text, number, float, flag, bytes, map)| Content {
        text,
        number,
        float,
        flag,
        bytes,
        map,
    })
}

/// Where the seeds of failures are kept.
fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_name_is_what_the_rule_says(text in texts()) {
        let name = Name::new(&text);
        prop_assert_eq!(name.is_ok(), is_name(&text), "{:?}", text);
        match name {
            Ok(name) => prop_assert_eq!(name.as_str(), &text),
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::InvalidName),
        }
        let token = Name::token(&text);
        prop_assert_eq!(token.is_ok(), is_name(&text) && !text.contains('.'));
    }

    #[test]
    fn ids_are_told_apart_and_read_back(keys in vec(".*", 1..8), content in vec(any::<u8>(), 0..32)) {
        let keys: HashSet<_> = keys.into_iter().collect();
        let ids: HashSet<_> = keys.iter().map(|key| MessageId::from_key(key)).collect();
        prop_assert_eq!(ids.len(), keys.len(), "two keys have one id");
        for key in &keys {
            let id = MessageId::from_key(key);
            prop_assert_eq!(id, MessageId::from_key(key), "one key has one id");
            let written = serde_json::to_string(&id).unwrap();
            prop_assert_eq!(serde_json::from_str::<MessageId>(&written).unwrap(), id);
            prop_assert_eq!(id.derive(&content), id.derive(&content));
            prop_assert!(id.derive(&content) != id);
        }
    }

    #[test]
    fn a_header_that_is_taken_is_given_back(name in ".{0,20}", value in ".{0,40}") {
        let mut headers = Headers::new();
        if headers.insert(name.clone(), value.clone()).is_ok() {
            prop_assert_eq!(headers.get(&name), Some(value.as_str()));
            // Nothing that ends a header, or that a broker obeys, gets onto the wire.
            prop_assert!(!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'));
            prop_assert!(!name.to_ascii_lowercase().starts_with("nats-"));
            prop_assert!(!value.contains(['\r', '\n', '\0']));
            prop_assert_eq!(headers.remove(&name), Some(value));
            prop_assert!(headers.is_empty());
        } else {
            prop_assert!(headers.is_empty(), "what is refused leaves nothing");
        }
    }

    #[test]
    fn any_text_is_a_url_or_a_clear_error(text in prop_oneof![".*", "[a-z]{1,6}://.*", "[a-z]{1,6}://[a-z:@,/?&=%0-9]*"]) {
        match BackendUrl::from_str(&text) {
            Ok(url) => {
                prop_assert!(!url.scheme().is_empty());
                let again = BackendUrl::from_str(&url.to_string());
                prop_assert!(again.is_ok(), "{:?} is shown as {}", text, url);
            }
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Config),
        }
    }

    #[test]
    fn a_password_is_never_shown(password in "[A-Za-z0-9!$*+,;=._~/?#@:-]{8,24}", rest in "[a-z0-9.:/?=&%]{0,20}") {
        // What is long enough to be known again.
        let pieces: Vec<_> = password.split(|c: char| !c.is_ascii_alphanumeric()).filter(|piece| piece.len() > 4).collect();
        prop_assume!(!pieces.iter().any(|piece| rest.contains(piece)));
        for text in [format!("nats://tester:{password}@host{rest}"), format!("redis://:{password}@{rest}")] {
            let shown = match BackendUrl::from_str(&text) {
                Ok(url) => {
                    prop_assert_eq!(url.password(), Some(password.as_str()));
                    format!("{url} {url:?} {url:#?}")
                }
                Err(error) => format!("{error} {error:?}"),
            };
            prop_assert!(!pieces.iter().any(|piece| shown.contains(piece)), "{}", shown);
        }
    }

    #[test]
    fn every_codec_reads_what_it_wrote(content in contents()) {
        for codec in Codecs::default().iter() {
            let codecs = Codecs::new([codec.clone()]);
            let bytes = codecs.encode(&content, "content").unwrap();
            let back: Content = codecs.decode(Some(codec.content_type()), &bytes).unwrap();
            prop_assert_eq!(&back, &content, "{}", codec.content_type());
        }
    }

    #[test]
    fn no_bytes_make_a_codec_panic(bytes in vec(any::<u8>(), 0..256)) {
        for codec in Codecs::default().iter() {
            let bytes = Bytes::copy_from_slice(&bytes);
            let codecs = Codecs::default();
            let encoded = Encoded::new(&codecs, Some(codec.content_type()), &bytes);
            if let Err(error) = encoded.decode::<Content>() {
                prop_assert_eq!(error.kind(), ErrorKind::Decode);
            }
        }
    }

    /// One byte of a message that was changed, left out or added: another message, or an error.
    #[test]
    fn what_was_damaged_is_read_or_refused(content in contents(), at in any::<Index>(), byte in any::<u8>(), how in 0..3) {
        for codec in Codecs::default().iter() {
            let codecs = Codecs::new([codec.clone()]);
            let mut bytes = codecs.encode(&content, "content").unwrap().to_vec();
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, byte),
            }
            if let Err(error) = codecs.decode::<Content>(Some(codec.content_type()), &Bytes::from(bytes)) {
                prop_assert_eq!(error.kind(), ErrorKind::Decode);
            }
        }
    }
}

/// 100,000 levels end in an error, and not on the stack's end: as arrays, maps, and what each format has beside.
#[test]
fn depth_is_bounded_in_every_codec() {
    const LEVELS: usize = 100_000;
    for (content_type, level) in [
        ("application/json", &b"["[..]),
        ("application/json", b"{\"a\":"),
        ("application/msgpack", b"\x91"),
        ("application/msgpack", b"\x81\xa1a"),
        ("application/cbor", b"\x81"),
        ("application/cbor", b"\xa1\x61a"),
        ("application/cbor", b"\xd8\x20"),
    ] {
        let codecs = Codecs::default();
        let bytes = Bytes::from(level.repeat(LEVELS));
        let encoded = Encoded::new(&codecs, Some(content_type), &bytes);
        let error = encoded.decode::<Kind>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode, "{content_type}");
        let error = encoded.decode::<serde_json::Value>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode, "{content_type}");
    }
}
