//! What nodes say where nobody keeps it: a line of JSON.

use std::time::{Duration, SystemTime};

use catga_core::{Bytes, Error, NodeInfo};
use serde::{Deserialize, Serialize};

use super::digest::millis;
use super::entry;

/// What is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Saying {
    /// Who is there? With a node: who has its id?
    Asks,
    /// It is there from now on, whoever had its id before.
    Joined,
    /// It lives.
    Lives,
    /// It goes.
    Left,
    /// What a newer version says.
    #[serde(other)]
    Unknown,
}

/// A word of a node.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Word {
    pub(crate) is: Saying,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<NodeInfo>,
    /// For how long it has been there: no clock of another is asked.
    #[serde(default)]
    up_ms: u64,
    /// How long ago it said of itself that it lives.
    #[serde(default)]
    age_ms: u64,
}

impl Word {
    /// A question to all.
    pub(crate) fn question() -> Bytes {
        Bytes::from_static(br#"{"is":"asks"}"#)
    }

    /// Says something of a node.
    pub(crate) fn of(
        operation: &'static str,
        is: Saying,
        node: &NodeInfo,
        up: Duration,
        age: Duration,
    ) -> Result<Bytes, Error> {
        let word = Self {
            is,
            node: Some(node.clone()),
            up_ms: millis(up),
            age_ms: millis(age),
        };
        entry::encode(operation, node, &word)
    }

    /// How long ago it said of itself that it lives.
    pub(crate) fn age(&self) -> Duration {
        Duration::from_millis(self.age_ms)
    }

    /// The node, with its times by our own clock.
    pub(crate) fn into_node(self) -> Option<NodeInfo> {
        let mut node = self.node?;
        let now = SystemTime::now();
        let ago = |ms| now.checked_sub(Duration::from_millis(ms)).unwrap_or(now);
        (node.started_at, node.last_seen) = (ago(self.up_ms), ago(self.age_ms));
        Some(node)
    }
}

#[cfg(test)]
mod tests {
    use catga_core::Name;

    use super::*;

    #[test]
    fn a_word_is_read_as_it_was_said_and_its_times_are_ours() {
        let hour = Duration::from_secs(3600);
        let mut node = NodeInfo::new(Name::from_static("a"), Name::from_static("shop"));
        node.started_at += hour;
        node.last_seen += hour;
        let bytes = Word::of("register", Saying::Lives, &node, hour, hour / 60).unwrap();
        let word: Word = entry::decode(&bytes).unwrap();
        assert_eq!((word.is, word.age()), (Saying::Lives, hour / 60));
        let (read, now) = (word.into_node().unwrap(), SystemTime::now());
        assert_eq!((&read.id, read.incarnation), (&node.id, node.incarnation));
        assert!(read.started_at <= now - hour && read.last_seen <= now - hour / 60);
        assert!(read.started_at > now - hour * 2 && read.last_seen > now - hour);
    }

    #[test]
    fn questions_are_read_and_what_is_newer_is_unknown() {
        let word: Word = entry::decode(&Word::question()).unwrap();
        assert!(word.is == Saying::Asks && word.node.is_none());
        let word: Word = entry::decode(br#"{"is":"sings","node":null,"more":1}"#).unwrap();
        assert_eq!(word.is, Saying::Unknown);
        let far: Word = entry::decode(
            format!(
                r#"{{"is":"lives","up_ms":{},"age_ms":{}}}"#,
                u64::MAX,
                u64::MAX
            )
            .as_bytes(),
        )
        .unwrap();
        assert!(far.into_node().is_none());
    }
}
