//! What is stored and told of a node. Others write there, too: what is none of ours is left out, counted, and logged once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use catga_core::{Error, ErrorKind, Load, Name, NodeInfo};
use papaya::HashSet;
use redis::Value;
use serde_json::Value as Json;

use crate::value;

/// The most bytes of what a node says of itself.
pub(crate) const MAX_BYTES: usize = 16 * 1024;
/// What is stored beside it: the server's times, and a load that would make every heartbeat a change.
const BESIDE: [&str; 3] = ["load", "started_at", "last_seen"];
/// The most that is remembered of what is none of ours.
const MAX_KNOWN: usize = 1024;

/// What a node says of itself, without its load and its times.
pub(crate) fn encode(operation: &'static str, node: &NodeInfo) -> Result<Vec<u8>, Error> {
    let mut json = serde_json::to_value(node).expect("texts and numbers");
    if let Json::Object(fields) = &mut json {
        for field in BESIDE {
            fields.remove(field);
        }
    }
    let bytes = serde_json::to_vec(&json).expect("texts and numbers");
    if bytes.len() > MAX_BYTES {
        let text = format!(
            "what the node `{}` says of itself has {} bytes, and {MAX_BYTES} are allowed: shorten its metadata",
            node.id,
            bytes.len()
        );
        return Err(Error::new(ErrorKind::PayloadTooLarge, operation, text));
    }
    Ok(bytes)
}

/// A node as it is stored or told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) id: &'a str,
    pub(crate) incarnation: &'a str,
    pub(crate) started: u64,
    pub(crate) seen: u64,
    pub(crate) load: u64,
    pub(crate) node: &'a [u8],
}

impl Entry<'_> {
    /// The node, or what is wrong with it.
    pub(crate) fn decode(&self) -> Result<NodeInfo, &'static str> {
        if self.node.len() > MAX_BYTES {
            return Err("it is too large");
        }
        let id = Name::token(self.id).map_err(|_| "its id is none")?;
        let Ok(Json::Object(mut fields)) = serde_json::from_slice::<Json>(self.node) else {
            return Err("it is no JSON object");
        };
        let epoch = serde_json::to_value(UNIX_EPOCH).expect("two numbers");
        fields.insert("started_at".to_owned(), epoch.clone());
        fields.insert("last_seen".to_owned(), epoch);
        fields.remove("load");
        let node = serde_json::from_value::<NodeInfo>(Json::Object(fields));
        let mut node = node.map_err(|_| "it does not say what a node says of itself")?;
        if node.id != id {
            return Err("its id is another than that of its key");
        }
        if node.incarnation.as_uuid().to_string() != self.incarnation {
            return Err("its incarnation is another than that beside it");
        }
        node.load = Load::percent(u8::try_from(self.load).unwrap_or(100));
        node.started_at = time(self.started).ok_or("it started at no time")?;
        node.last_seen = time(self.seen).ok_or("it was seen at no time")?;
        Ok(node)
    }
}

fn time(millis: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

/// All nodes at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) epoch: String,
    pub(crate) revision: u64,
    /// Each with whether it is within its time.
    pub(crate) nodes: Vec<(NodeInfo, bool)>,
}

impl Snapshot {
    /// Reads what `node_list` answers.
    pub(crate) fn read(told: Value, rubbish: &Rubbish) -> Option<Self> {
        let list = value::list(told);
        let [epoch, revision, now, entries @ ..] = &list[..] else {
            return None;
        };
        let now = value::count(now);
        let mut nodes = Vec::with_capacity(entries.len());
        for entry in entries {
            match read_entry(entry) {
                Ok((node, until)) => nodes.push((node, until > now)),
                Err((id, what)) => rubbish.note(&id, what),
            }
        }
        nodes.sort_by(|(one, _), (two, _)| one.id.cmp(&two.id));
        Some(Self {
            epoch: value::text(epoch)?.to_owned(),
            revision: value::count(revision),
            nodes,
        })
    }
}

/// A node and until when it is there; or an id and what is wrong.
fn read_entry(entry: &Value) -> Result<(NodeInfo, u64), (String, &'static str)> {
    let Value::Array(parts) = entry else {
        return Err((String::new(), "it cannot be read"));
    };
    let id = parts.first().map(shown).unwrap_or_default();
    let bytes = |at: usize| match parts.get(at) {
        Some(Value::BulkString(bytes)) => Some(&bytes[..]),
        _ => None,
    };
    let text = |at| bytes(at).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let number = |at| text(at).and_then(|text| text.parse::<u64>().ok());
    if parts.len() == 2 {
        return Err((id, problem(text(1))));
    }
    let read = || {
        let entry = Entry {
            id: text(0)?,
            incarnation: text(1)?,
            started: number(2)?,
            seen: number(3)?,
            load: number(5)?,
            node: bytes(6)?,
        };
        Some((entry.decode(), number(4)?))
    };
    match read() {
        Some((Ok(node), until)) => Ok((node, until)),
        Some((Err(what), _)) => Err((id, what)),
        None => Err((id, "what is beside it cannot be read")),
    }
}

/// What the script says is wrong, as one of the texts that are known.
fn problem(said: Option<&str>) -> &'static str {
    const KNOWN: [&str; 4] = [
        "the id is too long",
        "its record is of another type",
        "its record is too large",
        "it has no record that can be read",
    ];
    let found = KNOWN.into_iter().find(|known| Some(*known) == said);
    found.unwrap_or("it cannot be read")
}

fn shown(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    }
}

/// A change as it is published: the registry's epoch and revision, and what changed.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    pub(crate) epoch: &'a str,
    pub(crate) revision: u64,
    pub(crate) what: What<'a>,
}

/// What changed.
#[derive(Debug)]
pub(crate) enum What<'a> {
    /// A node joined or changed.
    Is(Entry<'a>),
    /// This incarnation of a node left.
    Left { id: &'a str, incarnation: &'a str },
    /// Nobody knows.
    Unreadable,
}

impl<'a> Change<'a> {
    /// Reads a message; `None` for what is none of ours.
    pub(crate) fn read(message: &'a [u8]) -> Option<Self> {
        let mut parts = message.splitn(3, |byte| *byte == b' ');
        let mut text = || std::str::from_utf8(parts.next()?).ok();
        let (epoch, revision) = (text()?, text()?.parse().ok()?);
        if epoch.is_empty() || epoch.len() > 64 {
            return None;
        }
        let what = parts.next().and_then(What::read);
        Some(Self {
            epoch,
            revision,
            what: what.unwrap_or(What::Unreadable),
        })
    }
}

impl<'a> What<'a> {
    fn read(message: &'a [u8]) -> Option<Self> {
        let mut parts = message.splitn(7, |byte| *byte == b' ');
        let mut text = || std::str::from_utf8(parts.next()?).ok();
        match text()? {
            "left" => Some(Self::Left {
                id: text()?,
                incarnation: text()?,
            }),
            "is" => Some(Self::Is(Entry {
                id: text()?,
                incarnation: text()?,
                started: text()?.parse().ok()?,
                seen: text()?.parse().ok()?,
                load: text()?.parse().ok()?,
                node: parts.next()?,
            })),
            _ => None,
        }
    }
}

/// What was found where nodes should be, and is none.
#[derive(Debug, Default)]
pub(crate) struct Rubbish {
    count: AtomicU64,
    known: HashSet<String>,
}

impl Rubbish {
    /// Counts it, and logs it once.
    pub(crate) fn note(&self, what: &str, problem: &'static str) {
        let what: String = what.chars().take(64).collect();
        let pinned = self.known.pin();
        if pinned.len() < MAX_KNOWN && pinned.insert(format!("{what} {problem}")) {
            self.count.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                what,
                problem,
                "what is in the registry is no node, and left out"
            );
        }
    }

    /// How much was found, each counted once.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use catga_core::NodeId;

    use super::*;

    fn node() -> NodeInfo {
        let requests = vec![Name::from_static("b"), Name::from_static("a")];
        NodeInfo::new(NodeId::from_static("n1"), Name::from_static("shop"))
            .with_endpoint(Some("http://here:1".to_owned()))
            .with_requests(requests)
    }

    fn entry<'a>(id: &'a str, incarnation: &'a str, node: &'a [u8]) -> Entry<'a> {
        Entry {
            id,
            incarnation,
            started: 1_000,
            seen: 2_000,
            load: 250,
            node,
        }
    }

    #[test]
    fn what_a_node_says_comes_back_with_the_times_and_the_load_that_stand_beside_it() {
        let mut before = node();
        // The node's own clock and load are not part of what it says.
        before.last_seen += Duration::from_secs(3600);
        before.load = Load::percent(70);
        let bytes = encode("register", &before).unwrap();
        let incarnation = before.incarnation.as_uuid().to_string();
        let after = entry("n1", &incarnation, &bytes).decode().unwrap();
        let (start, seen) = (time(1_000).unwrap(), time(2_000).unwrap());
        assert_eq!((after.started_at, after.last_seen), (start, seen));
        assert_eq!(after.load.as_percent(), 100);
        before.load = Load::percent(5);
        assert_eq!(encode("register", &before).unwrap(), bytes);
        (before.started_at, before.last_seen) = (start, seen);
        before.load = after.load;
        assert_eq!(after, before);
    }

    #[test]
    fn what_is_none_of_ours_is_refused() {
        let node = node();
        let incarnation = node.incarnation.as_uuid().to_string();
        let good = encode("register", &node).unwrap();
        let (deep, large) = ("[".repeat(10_000), " ".repeat(MAX_BYTES + 1));
        let text = String::from_utf8(good.clone()).unwrap();
        let dotted = text.replace("\"n1\"", "\"n.1\"");
        for (id, incarnation, json) in [
            ("n2", &incarnation[..], &good[..]),
            ("n.1", &incarnation, dotted.as_bytes()),
            ("", &incarnation, &good),
            ("n1", "other", &good),
            ("n1", &incarnation, b"{}"),
            ("n1", &incarnation, b"[1]"),
            ("n1", &incarnation, b"\xff"),
            ("n1", &incarnation, deep.as_bytes()),
            ("n1", &incarnation, large.as_bytes()),
        ] {
            assert!(entry(id, incarnation, json).decode().is_err(), "{id}");
        }
    }

    #[test]
    fn a_node_that_says_too_much_is_refused() {
        let mut node = node();
        node.metadata.insert("a".to_owned(), "b".repeat(MAX_BYTES));
        let error = encode("register", &node).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PayloadTooLarge);
    }

    #[test]
    fn messages_are_read_and_others_are_not() {
        let message = b"e 7 is n1 i 1 2 3 {\"a\": 1}";
        let read = Change::read(message).unwrap();
        assert_eq!((read.epoch, read.revision), ("e", 7));
        let What::Is(entry) = read.what else {
            panic!("{read:?}");
        };
        assert_eq!((entry.id, entry.seen, entry.load), ("n1", 2, 3));
        assert_eq!(entry.node, b"{\"a\": 1}");
        let left = Change::read(b"e 8 left n1 i").unwrap().what;
        assert!(matches!(
            left,
            What::Left {
                id: "n1",
                incarnation: "i"
            }
        ));
        for odd in [&b"e 8 left n1"[..], b"e 8 is n1 i 1 2", b"e 8", b"e 8 \xff"] {
            let read = Change::read(odd).unwrap();
            assert!(matches!(read.what, What::Unreadable), "{odd:?}");
        }
        for foreign in [&b""[..], b"hello", b"e x is", b" 8 left", b"\xff 1 is"] {
            assert!(Change::read(foreign).is_none(), "{foreign:?}");
        }
    }

    #[test]
    fn rubbish_is_counted_once_each_and_not_without_end() {
        let rubbish = Rubbish::default();
        for _ in 0..3 {
            rubbish.note("a", "it is too large");
            rubbish.note("b", "it is too large");
        }
        assert_eq!(rubbish.count(), 2);
        for i in 0..2 * MAX_KNOWN {
            rubbish.note(&i.to_string(), "it is too large");
        }
        assert_eq!(rubbish.count(), MAX_KNOWN as u64);
    }
}
