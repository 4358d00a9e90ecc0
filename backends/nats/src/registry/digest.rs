//! What a reporter tells everybody of all nodes, so that the beat of each has to reach reporters only.

use std::time::{Duration, SystemTime};

use catga_core::{Bytes, Incarnation, Load, NodeId, NodeInfo};
use serde::{Deserialize, Serialize};

/// The most bytes of what is told at once: of some 1,500 nodes.
pub(crate) const MOST: usize = 128 * 1024;

/// Something a reporter says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(crate) enum Report {
    /// Who lives.
    Digest(Digest),
    /// Who joined, changed or left a moment ago, where that is only seen in a bucket.
    News(Box<News>),
    /// What a newer version says.
    #[serde(other)]
    Unknown,
}

/// A node that reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct By(pub(crate) NodeId, pub(crate) Incarnation);

/// Who lives. Of who is not named it says nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Digest {
    pub(crate) by: By,
    /// How often it is told.
    pub(crate) every_ms: u64,
    /// How long ago beats were heard by who tells it: what came since may be missing.
    #[serde(default)]
    pub(crate) heard_ms: u64,
    /// Whether it goes on in another message.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) more: bool,
    /// How far a bucket was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<Place>,
    pub(crate) nodes: Vec<Brief>,
}

/// How far a bucket was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// When the bucket was made.
    pub(crate) made: String,
    pub(crate) sequence: u64,
    /// When the last was written, by the server's clock.
    pub(crate) time: SystemTime,
}

/// A node in a digest: its id, its incarnation, how many milliseconds ago it said that it lives, its load, and the
/// [`print`] of all else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Brief(
    pub(crate) NodeId,
    pub(crate) Incarnation,
    pub(crate) u64,
    pub(crate) Load,
    pub(crate) u32,
);

impl Brief {
    /// How long ago it said that it lives.
    pub(crate) fn age(&self) -> Duration {
        Duration::from_millis(self.2)
    }
}

/// A change in a bucket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct News {
    pub(crate) by: By,
    pub(crate) made: String,
    pub(crate) revision: u64,
    /// When it was written, by the server's clock.
    pub(crate) time: SystemTime,
    pub(crate) id: NodeId,
    /// None where it left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<NodeInfo>,
}

impl Report {
    /// Who says it.
    pub(crate) fn by(&self) -> Option<&By> {
        match self {
            Self::Digest(digest) => Some(&digest.by),
            Self::News(news) => Some(&news.by),
            Self::Unknown => None,
        }
    }

    pub(crate) fn encode(&self) -> Result<Bytes, serde_json::Error> {
        serde_json::to_vec(self).map(Bytes::from)
    }

    /// Reads one, or says what is wrong with it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > MOST {
            return Err(format!(
                "it has {} bytes, and {MOST} are allowed",
                bytes.len()
            ));
        }
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }
}

impl Digest {
    /// The messages that it is told by, none above `most` bytes.
    pub(crate) fn parts(self, most: usize) -> Result<Vec<Bytes>, serde_json::Error> {
        let report = Report::Digest(self);
        let bytes = report.encode()?;
        let Report::Digest(mut first) = report else {
            return Ok(Vec::new());
        };
        if bytes.len() <= most || first.nodes.len() < 2 {
            return Ok(vec![bytes]);
        }
        let mut last = first.clone();
        last.nodes = first.nodes.split_off(first.nodes.len() / 2);
        first.more = true;
        let mut parts = first.parts(most)?;
        parts.extend(last.parts(most)?);
        Ok(parts)
    }

    pub(crate) fn every(&self) -> Duration {
        Duration::from_millis(self.every_ms)
    }

    pub(crate) fn heard(&self) -> Duration {
        Duration::from_millis(self.heard_ms)
    }
}

/// Tells whether what two know of a node is the same, but for its load and its times: FNV-1a of its JSON.
pub(crate) fn print(node: &NodeInfo) -> u32 {
    let what = (
        &node.service,
        &node.endpoint,
        &*node.requests,
        node.draining,
        &node.metadata,
    );
    let json = serde_json::to_vec(&what).unwrap_or_default();
    json.iter().fold(0x811c_9dc5, |print: u32, byte| {
        (print ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// A time in milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use catga_core::Name;

    use super::*;

    fn digest(nodes: usize) -> Digest {
        let brief = |number| {
            let id = Name::new(format!("node-{number}")).unwrap();
            Brief(id, Incarnation::new(), number as u64, Load::percent(7), 9)
        };
        Digest {
            by: By(Name::from_static("node-0"), Incarnation::new()),
            every_ms: 2500,
            heard_ms: 3,
            more: false,
            at: Some(Place {
                made: "then".to_owned(),
                sequence: 5,
                time: SystemTime::now(),
            }),
            nodes: (0..nodes).map(brief).collect(),
        }
    }

    fn read(bytes: &[u8]) -> Digest {
        match Report::decode(bytes).unwrap() {
            Report::Digest(digest) => digest,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "the seed")]
    fn a_digest_is_told_in_as_many_parts_as_it_takes_and_the_last_says_so() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut chance = fastrand::Rng::with_seed(seed);
        for _ in 0..50 {
            let whole = digest(chance.usize(..400));
            let most = chance.usize(400..40_000);
            let parts = whole.clone().parts(most).unwrap();
            assert!(parts.iter().all(|part| part.len() <= most), "{most}");
            let parts: Vec<_> = parts.iter().map(|part| read(part)).collect();
            let (last, first) = parts.split_last().unwrap();
            assert!(!last.more && first.iter().all(|part| part.more));
            assert!(parts.iter().all(|part| part.at == whole.at));
            let nodes: Vec<_> = parts.into_iter().flat_map(|part| part.nodes).collect();
            assert_eq!(nodes, whole.nodes);
        }
    }

    #[test]
    fn three_hundred_nodes_are_one_message() {
        let parts = digest(300).parts(MOST).unwrap();
        assert_eq!(parts.len(), 1);
        assert!(parts[0].len() < 100 * 300, "{}", parts[0].len());
    }

    #[test]
    fn rubbish_is_none_and_what_is_newer_is_unknown() {
        let good = String::from_utf8(digest(2).parts(MOST).unwrap()[0].to_vec()).unwrap();
        let large = "x".repeat(MOST + 1);
        for text in [
            "",
            "null",
            "{}",
            r#"{"is":"digest"}"#,
            &good[1..],
            &good[..good.len() - 1],
            &format!("{good}{good}"),
            &good.replace("node-1", "node.1 "),
            &good.replace(",7,9]", ",-7,9]"),
            &good.replace(",7,9]", ",7]"),
            &good.replace("\"heard_ms\":3", "\"heard_ms\":-3"),
            &"[".repeat(50_000),
            &large,
        ] {
            assert!(Report::decode(text.as_bytes()).is_err(), "{text:.80}");
        }
        let newer = Report::decode(br#"{"is":"sings","by":7}"#).unwrap();
        assert!(matches!(newer, Report::Unknown) && newer.by().is_none());
        let more = good.replacen('{', r#"{"more_of_it":[1],"#, 1);
        assert_eq!(read(more.as_bytes()).nodes.len(), 2);
    }

    #[test]
    fn news_are_read_as_they_were_written() {
        let mut node = NodeInfo::new(Name::from_static("a"), Name::from_static("shop"));
        node.metadata.insert("zone".to_owned(), "north".to_owned());
        let news = News {
            by: By(node.id.clone(), node.incarnation),
            made: "then".to_owned(),
            revision: 7,
            time: node.started_at,
            id: node.id.clone(),
            node: Some(node.clone()),
        };
        let bytes = Report::News(Box::new(news)).encode().unwrap();
        match Report::decode(&bytes).unwrap() {
            Report::News(news) => assert_eq!((news.node, news.revision), (Some(node), 7)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_print_tells_all_changes_but_of_load_and_times() {
        let node = NodeInfo::new(Name::from_static("a"), Name::from_static("shop"));
        let with = |change: fn(&mut NodeInfo)| {
            let mut other = node.clone();
            change(&mut other);
            print(&other) == print(&node)
        };
        assert!(with(|node| {
            node.load = Load::percent(99);
            node.last_seen = SystemTime::UNIX_EPOCH;
            node.started_at = SystemTime::UNIX_EPOCH;
            node.incarnation = Incarnation::new();
        }));
        for change in [
            (|node: &mut NodeInfo| node.draining = true) as fn(&mut NodeInfo),
            |node| node.endpoint = Some(String::new()),
            |node| node.requests = [Name::from_static("Ask")].into(),
            |node| node.service = Name::from_static("other"),
            |node| node.metadata.insert("", ""),
        ] {
            assert!(!with(change));
        }
    }
}
