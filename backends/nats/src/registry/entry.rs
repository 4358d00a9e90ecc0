//! A node as others write it: measured, parsed strictly, and under its own name.

use std::fmt::Display;

use catga_core::{Bytes, Error, Load, NodeInfo};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error;

/// The most bytes of an entry.
pub(crate) const MOST: usize = 16 * 1024;

/// Writes an entry; one that others would ignore is refused.
pub(crate) fn encode(
    operation: &'static str,
    node: &NodeInfo,
    entry: &impl Serialize,
) -> Result<Bytes, Error> {
    let bytes = serde_json::to_vec(entry).map_err(|e| error::unwritable(operation, node, e))?;
    if bytes.len() > MOST {
        return Err(error::large_node(operation, node, bytes.len(), MOST));
    }
    Ok(bytes.into())
}

/// Reads an entry, or says what is wrong with it.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    if bytes.len() > MOST {
        return Err(format!(
            "it has {} bytes, and {MOST} are allowed",
            bytes.len()
        ));
    }
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

/// The node that stands under `key`.
pub(crate) fn node(key: &str, bytes: &[u8]) -> Result<NodeInfo, String> {
    named(key, decode(bytes)?)
}

/// The same node, when this is its name.
pub(crate) fn named(key: impl Display, node: NodeInfo) -> Result<NodeInfo, String> {
    let key = key.to_string();
    if node.id.as_str() == key {
        Ok(node)
    } else {
        Err(format!("it says that it is `{}`", node.id))
    }
}

/// Whether watchers want to hear of a change; `announced` is the load that they know.
pub(crate) fn is_news(before: &NodeInfo, announced: Load, after: &NodeInfo) -> bool {
    let moved = after.load.as_percent().abs_diff(announced.as_percent());
    moved >= Load::STEP
        || before.draining != after.draining
        || before.metadata != after.metadata
        || before.endpoint != after.endpoint
        || before.requests != after.requests
        || before.service != after.service
}

#[cfg(test)]
mod tests {
    use catga_core::Name;

    use super::*;

    fn a() -> NodeInfo {
        NodeInfo::new(Name::from_static("a"), Name::from_static("shop"))
    }

    #[test]
    fn an_entry_is_read_as_it_was_written_and_under_its_own_name_only() {
        let mut info = a().with_endpoint(Some("not even a URL \n".to_owned()));
        info.load = Load::percent(7);
        let bytes = encode("register", &info, &info).unwrap();
        assert_eq!(node("a", &bytes).unwrap(), info);
        for key in ["b", "A", "a.b", "a ", ""] {
            assert!(node(key, &bytes).is_err(), "{key:?}");
        }
    }

    #[test]
    fn rubbish_is_none() {
        let good = serde_json::to_string(&a()).unwrap();
        let deep = "[".repeat(100_000);
        let nested = "[".repeat(10_000);
        for text in [
            "",
            "null",
            "{}",
            "[]",
            "42",
            "\u{0}",
            &deep,
            &nested,
            r#"{"id":"a"}"#,
            &good[..good.len() - 1],
            &format!("{good}{good}"),
            &good.replace("\"id\":\"a\"", "\"id\":\"a.b\""),
            &good.replace("\"id\":\"a\"", "\"id\":\"*\""),
            &good.replace("\"service\":\"shop\"", "\"service\":\"a b\""),
            &good.replace("\"load\":0", "\"load\":-1"),
        ] {
            assert!(node("a", text.as_bytes()).is_err(), "{text:.60}");
        }
    }

    #[test]
    fn what_is_too_large_is_neither_written_nor_read() {
        let mut info = a();
        info.metadata.insert("k".to_owned(), "x".repeat(MOST));
        let refused = encode("register", &info, &info).unwrap_err();
        assert_eq!(refused.kind(), catga_core::ErrorKind::PayloadTooLarge);
        let bytes = serde_json::to_vec(&info).unwrap();
        assert!(node("a", &bytes).unwrap_err().contains("bytes"));
    }

    #[test]
    fn news_is_what_changed_and_a_load_that_moved_by_a_step() {
        let before = a();
        let with = |change: fn(&mut NodeInfo)| {
            let mut after = before.clone();
            change(&mut after);
            is_news(&before, Load::percent(20), &after)
        };
        assert!(!with(|node| node.load = Load::percent(29)));
        assert!(!with(|node| node.load = Load::percent(11)));
        assert!(with(|node| node.load = Load::percent(30)));
        assert!(with(|node| node.load = Load::percent(10)));
        assert!(with(|node| {
            node.load = Load::percent(20);
            node.draining = true;
        }));
    }
}
