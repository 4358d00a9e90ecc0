//! What is thrown at each place that reads what others wrote. A target takes any bytes; a panic is a finding.
//!
//! | what is read | target |
//! |---|---|
//! | names and tokens (`Name`, `NodeId`), as text and within JSON | `name` |
//! | message ids | `id` |
//! | backend URLs | `url` |
//! | settings: durations, numbers, back-off, and the options of `memory://` | `settings` |
//! | payloads of each codec, with their bounds | `json`, `msgpack`, `cbor` |
//! | headers, `traceparent` among them: no header's value is parsed | `headers` |
//! | nodes in a registry | `node` |
//! | errors that another node answered with | `answer` |
//! | reasons of dead letters | `reason` |
//! | ids of dead letters, as `memory://` writes them | `letter_id` |
//!
//! The texts of attributes (`timeout = "30s"`, `rate = "100/s"`) are read by the compiler, which outlives a panic.

use std::collections::BTreeMap;

use catga::Catga;
use catga_core::{
    BackendUrl, Bytes, Cbor, Codec, Codecs, ConnectOptions, DeadLetterFilter, DeadLetterId, Driver,
    ErrorKind, Headers, Json, MessageId, MessagePack, Name, NodeInfo, Reason, RemoteError,
};
use catga_memory::DRIVER;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A name, which is that of its file and of its corpus, and what is done with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("answer", answer),
    ("cbor", cbor),
    ("headers", headers),
    ("id", id),
    ("json", json),
    ("letter_id", letter_id),
    ("msgpack", msgpack),
    ("name", name),
    ("node", node),
    ("reason", reason),
    ("settings", settings),
    ("url", url),
];

/// Names: what is taken keeps to the alphabet, is given back as it came, and is not taken for another.
pub fn name(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let name = Name::new(text);
        assert_eq!(
            name.is_ok(),
            text.parse::<Name>().is_ok(),
            "one rule for all"
        );
        if let Ok(name) = &name {
            assert_eq!(name.as_str(), text);
            assert!(text.len() <= 128 && !text.contains(['~', '=', '{', '*', '>', ' ']));
            let written = Codecs::default().encode(name, "name").expect("it is text");
            assert_eq!(json_as::<Name>(&written), Some(name.clone()));
        }
        let token = Name::token(text);
        assert_eq!(token.is_ok(), name.is_ok() && !text.contains('.'));
    }
    if let Some(name) = json_as::<Name>(bytes) {
        assert!(Name::new(name.as_str()).is_ok(), "{name:?}");
    }
}

/// Message ids.
pub fn id(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(id) = text.parse::<MessageId>()
    {
        assert_eq!(id.to_string().parse::<MessageId>().ok(), Some(id));
    }
}

/// URLs: what is shown is a URL again, and no secret.
pub fn url(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match text.parse::<BackendUrl>() {
        Ok(url) => {
            let shown = url.to_string();
            let again: BackendUrl = shown.parse().expect("what is shown is a URL");
            assert_eq!(again.scheme(), url.scheme());
            assert_eq!(again.hosts(), url.hosts());
            for (key, _) in url.options() {
                assert!(url.option(key).is_some());
            }
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Config),
    }
}

/// Settings: an application starts with them and ends, or says what is wrong.
pub fn settings(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    block_on(async {
        let app = Catga::builder().connect(format!("memory://{text}"));
        match app.start().await {
            Ok(app) => drop(app.shutdown().await.expect("nothing runs")),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Config, "{error:?}"),
        }
    });
}

/// Payloads in JSON.
pub fn json(bytes: &[u8]) {
    codec(Json, bytes);
}

/// Payloads in MessagePack.
pub fn msgpack(bytes: &[u8]) {
    codec(MessagePack, bytes);
}

/// Payloads in CBOR.
pub fn cbor(bytes: &[u8]) {
    codec(Cbor, bytes);
}

/// Content of all sorts, and as deep as the bytes are.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    text: String,
    number: i64,
    float: f64,
    flag: Option<bool>,
    bytes: Vec<u8>,
    map: BTreeMap<String, Nested>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Nested {
    Unit,
    Newtype(u32),
    Tuple(String, i8),
    Struct { inner: Vec<Nested> },
}

/// What says itself what it is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Anything {
    Flag(bool),
    Number(i64),
    Float(f64),
    Text(String),
    List(Vec<Anything>),
    Map(BTreeMap<String, Anything>),
}

fn codec(codec: impl Codec, bytes: &[u8]) {
    let codecs = Codecs::new([std::sync::Arc::new(codec) as _]);
    read_and_write::<Content>(&codecs, bytes);
    read_and_write::<Anything>(&codecs, bytes);
}

/// What could be read is written, read and written again, to the same bytes.
fn read_and_write<T: Serialize + DeserializeOwned + 'static>(codecs: &Codecs, bytes: &[u8]) {
    let content_type = Some(codecs.writer().content_type());
    match codecs.decode::<T>(content_type, &Bytes::copy_from_slice(bytes)) {
        Ok(value) => {
            let Ok(written) = codecs.encode(&value, "value") else {
                return;
            };
            // What is no number has no JSON, and is read from `null` by nobody.
            let Ok(again) = codecs.decode::<T>(content_type, &written) else {
                assert_eq!(content_type, Some(Json::CONTENT_TYPE));
                return;
            };
            let twice = codecs.encode(&again, "value").expect("as before");
            assert_eq!(written, twice);
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Decode),
    }
}

/// Headers, one a line: what is taken is given back, and none ends a line of the wire.
pub fn headers(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut headers = Headers::new();
    for line in text.split('\n') {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let before = headers.len();
        let was_there = headers.get(name).is_some();
        if headers.insert(name, value).is_ok() {
            assert_eq!(headers.get(name), Some(value));
            assert_eq!(headers.len(), before + usize::from(!was_there));
            assert!(
                value.len() <= Headers::MAX_VALUE_BYTES && name.len() <= Headers::MAX_NAME_BYTES
            );
            assert!(!name.contains([' ', ':', '\r']) && !value.contains(['\r', '\0']));
        } else {
            assert_eq!(headers.len(), before);
        }
    }
    let names: Vec<_> = headers.iter().map(|(name, _)| name.to_owned()).collect();
    for name in names {
        assert!(headers.remove(&name).is_some());
    }
    assert!(headers.is_empty() && headers.size_bytes() == 0);
}

/// Nodes in a registry.
pub fn node(bytes: &[u8]) {
    if let Some(node) = json_as::<NodeInfo>(bytes) {
        assert!(Name::token(node.id.as_str()).is_ok(), "{:?}", node.id);
        assert!(node.requests.iter().all(|name| Name::new(name).is_ok()));
        assert!(node.load.as_percent() <= 100, "{:?}", node.load);
        let codecs = Codecs::default();
        if let Ok(written) = codecs.encode(&node, "node") {
            assert_eq!(json_as::<NodeInfo>(&written), Some(node));
        }
    }
}

/// What another node answered with.
pub fn answer(bytes: &[u8]) {
    if let Some(answer) = json_as::<RemoteError>(bytes) {
        let kind = ErrorKind::parse(&answer.kind);
        let error = answer.into_error("send");
        assert_eq!(error.kind(), kind.unwrap_or(ErrorKind::Handler));
        let again = RemoteError::new(&error).into_error("send");
        assert_eq!(again.retry(), error.retry());
        assert_eq!(again.may_be_stored(), error.may_be_stored());
    }
}

/// Why a message is a dead letter.
pub fn reason(bytes: &[u8]) {
    if let Some(reason) = json_as::<Reason>(bytes) {
        let written = Codecs::default().encode(&reason, "reason").expect("text");
        assert_eq!(json_as::<Reason>(&written), Some(reason));
    }
}

/// Ids of dead letters: of an empty store there is none.
pub fn letter_id(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    block_on(async {
        let options = ConnectOptions::new(Name::from_static("fuzz"));
        let url = "memory://".parse().expect("a URL");
        let backend = DRIVER.connect(&url, &options).await;
        let letters = backend.expect("memory is there").dead_letters;
        let (letters, id) = (letters.expect("it keeps them"), DeadLetterId::new(text));
        assert!(letters.inspect(&id).await.expect("it is asked").is_none());
        let error = letters.redrive(&id).await.expect_err("there is none");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let listed = letters.list(&DeadLetterFilter::all(), Some(&id), 1).await;
        assert!(listed.map_or(true, |page| page.letters.is_empty()));
    });
}

/// A value within JSON.
fn json_as<T: DeserializeOwned + 'static>(bytes: &[u8]) -> Option<T> {
    let codecs = Codecs::new([std::sync::Arc::new(Json) as _]);
    let bytes = Bytes::copy_from_slice(bytes);
    codecs.decode(Some(Json::CONTENT_TYPE), &bytes).ok()
}

/// Runs what needs a runtime, in virtual time.
fn block_on(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.expect("a runtime").block_on(future);
}
