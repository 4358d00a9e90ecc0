//! What an application wants others to know of a node.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

/// Labels of a node, sorted by key. A clone shares them: a process that sees many nodes keeps each label once.
///
/// # Examples
/// ```
/// use catga_core::Metadata;
///
/// let mut labels = Metadata::default();
/// labels.insert("zone", "eu-1");
/// assert_eq!(labels.get("zone"), Some("eu-1"));
/// ```
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "BTreeMap<Box<str>, Box<str>>")]
pub struct Metadata(Arc<[Label]>);

type Label = (Box<str>, Box<str>);

impl Metadata {
    /// The value under a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.find(key).ok()?;
        Some(&self.0[at].1)
    }

    /// Sets the value under a key.
    pub fn insert(&mut self, key: impl Into<Box<str>>, value: impl Into<Box<str>>) {
        let (key, value) = (key.into(), value.into());
        let mut labels = self.0.to_vec();
        match self.find(&key) {
            Ok(at) => labels[at].1 = value,
            Err(at) => labels.insert(at, (key, value)),
        }
        self.0 = labels.into();
    }

    /// All keys and values, sorted by key.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| (**known).cmp(key))
    }
}

impl From<BTreeMap<Box<str>, Box<str>>> for Metadata {
    fn from(labels: BTreeMap<Box<str>, Box<str>>) -> Self {
        Self(labels.into_iter().collect())
    }
}

impl<K: Into<Box<str>>, V: Into<Box<str>>> FromIterator<(K, V)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(labels: I) -> Self {
        let labels = labels.into_iter();
        let labels = labels.map(|(key, value)| (key.into(), value.into()));
        labels.collect::<BTreeMap<_, _>>().into()
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_sorted_and_the_last_under_a_key_counts() {
        let mut labels: Metadata = [("b", "1"), ("a", "2"), ("b", "3")].into_iter().collect();
        for (key, value) in [("c", "4"), ("", ""), ("a", "5")] {
            labels.insert(key, value);
        }
        let all = [("", ""), ("a", "5"), ("b", "3"), ("c", "4")];
        assert!(labels.iter().eq(all));
        assert_eq!((labels.get("b"), labels.get("d")), (Some("3"), None));
        assert_eq!((labels.len(), labels.is_empty()), (4, false));
    }

    #[test]
    fn what_is_changed_in_a_clone_is_not_changed_elsewhere() {
        let labels: Metadata = [("zone", "eu-1")].into_iter().collect();
        let mut other = labels.clone();
        assert!(Arc::ptr_eq(&labels.0, &other.0));
        other.insert("zone", "eu-2");
        assert_eq!(
            (labels.get("zone"), other.get("zone")),
            (Some("eu-1"), Some("eu-2"))
        );
    }

    #[test]
    fn they_are_written_as_a_map_and_read_in_any_order() {
        let text = r#"{"b":"1","a":"2"}"#;
        let labels: Metadata = serde_json::from_str(text).unwrap();
        assert_eq!(
            serde_json::to_string(&labels).unwrap(),
            r#"{"a":"2","b":"1"}"#
        );
        for wrong in ["[]", "1", r#"{"a":1}"#, r#"{"a":null}"#] {
            assert!(serde_json::from_str::<Metadata>(wrong).is_err(), "{wrong}");
        }
        assert_eq!(format!("{labels:?}"), r#"{"a": "2", "b": "1"}"#);
    }
}
