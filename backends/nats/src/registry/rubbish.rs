//! What stands in the registry and is no node: counted, and told once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Of so many keys it is remembered that they were told of; then it begins anew.
const TOLD: usize = 1024;
/// So much of a key is shown.
const SHOWN: usize = 100;

/// Counts and tells.
#[derive(Debug)]
pub(crate) struct Rubbish {
    count: Arc<AtomicU64>,
    /// Where which of them stood.
    told: HashMap<String, u64>,
}

impl Rubbish {
    pub(crate) fn new(count: Arc<AtomicU64>) -> Self {
        Self {
            count,
            told: HashMap::new(),
        }
    }

    /// Something under `key` is no node, as it stands at `revision`; the same again is not counted again.
    pub(crate) fn note(&mut self, key: &str, revision: u64, why: &str) {
        if self.told.get(key) == Some(&revision) {
            return;
        }
        let known = self.told.contains_key(key);
        if self.told.len() >= TOLD && !known {
            self.told.clear();
        }
        self.told.insert(key.to_owned(), revision);
        self.count.fetch_add(1, Ordering::Relaxed);
        if !known {
            let key: String = key.chars().take(SHOWN).collect();
            let why: String = why.chars().take(SHOWN).collect();
            tracing::warn!(
                ?key,
                ?why,
                "an entry of the node registry is no node, and ignored"
            );
        }
    }
}

impl Rubbish {
    /// The same where nothing stands: each is another one.
    pub(crate) fn note_again(&mut self, key: &str, why: &str) {
        let before = self.told.get(key).copied().unwrap_or_default();
        self.note(key, before + 1, why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_once_where_it_stands() {
        let count = Arc::new(AtomicU64::new(0));
        let mut rubbish = Rubbish::new(Arc::clone(&count));
        for (key, revision) in [("a", 1), ("a", 1), ("a", 2), ("b", 3), ("b", 3)] {
            rubbish.note(key, revision, "no JSON");
        }
        assert_eq!(count.load(Ordering::Relaxed), 3);
        for key in 0..10_000 {
            rubbish.note(&key.to_string(), 1, "no JSON");
        }
        assert!(rubbish.told.len() <= TOLD);
        assert_eq!(count.load(Ordering::Relaxed), 10_003);
    }
}
