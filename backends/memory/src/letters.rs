//! The dead letters of one message name.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use catga_core::{Consumers, DeadLetter, DeadLetterFilter, DeadLetterId, MessageId, Name, Reason};

use crate::group::Job;

/// A bounded store. When it is full nothing goes in, since what is in it was acknowledged.
#[derive(Debug)]
pub(crate) struct Letters {
    capacity: usize,
    /// Shared by the streams of a bus, so that numbers tell the age across all of them.
    numbers: Arc<AtomicU64>,
    kept: BTreeMap<u64, Kept>,
    /// What is kept of QoS 2, each once.
    once: HashSet<Once>,
}

/// A group, an id and a generation.
type Once = (usize, MessageId, u32);

#[derive(Debug)]
struct Kept {
    letter: DeadLetter,
    group: usize,
    job: Job,
    once: Option<Once>,
}

impl Letters {
    pub(crate) fn new(capacity: usize, numbers: Arc<AtomicU64>) -> Self {
        Self {
            capacity,
            numbers,
            kept: BTreeMap::new(),
            once: HashSet::new(),
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn is_full(&self) -> bool {
        self.kept.len() >= self.capacity
    }

    /// Whether this generation of an id that is handled once is kept already.
    pub(crate) fn has(&self, group: usize, job: &Job, id: Option<MessageId>) -> bool {
        id.is_some_and(|id| self.once.contains(&(group, id, job.generation)))
    }

    /// Keeps what the group of these consumers gave up; `id` is that of a message that is handled once, of which
    /// a second copy is not kept.
    pub(crate) fn keep(
        &mut self,
        group: usize,
        consumers: &Consumers,
        job: Job,
        reason: Reason,
        id: Option<MessageId>,
    ) {
        let once = id.map(|id| (group, id, job.generation));
        if once.is_some_and(|once| !self.once.insert(once)) {
            return;
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let envelope = job.entry.envelope.clone();
        let id = letter_id(number, envelope.name());
        let name = consumers.group().clone();
        let mut letter = DeadLetter::new(id, envelope, name, reason, job.count);
        if let Consumers::EachNode { node, .. } = consumers {
            letter.node = Some(node.clone());
        }
        letter.published_at = job.entry.published_at;
        letter.dead_at = SystemTime::now();
        letter.generation = job.generation;
        let kept = Kept {
            letter,
            group,
            job,
            once,
        };
        self.kept.insert(number, kept);
    }

    /// Up to `limit` that are meant, oldest first, after number `after`.
    pub(crate) fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<u64>,
        limit: usize,
    ) -> Vec<DeadLetter> {
        let from = after.map_or(0, |number| number.saturating_add(1));
        self.kept
            .range(from..)
            .map(|(_, kept)| &kept.letter)
            .filter(|letter| filter.matches(letter))
            .take(limit)
            .cloned()
            .collect()
    }

    pub(crate) fn inspect(&self, number: u64) -> Option<DeadLetter> {
        self.kept.get(&number).map(|kept| kept.letter.clone())
    }

    /// Takes a letter out, as a job of the next generation for its group.
    pub(crate) fn take(&mut self, number: u64) -> Option<(usize, Job)> {
        let kept = self.kept.remove(&number)?;
        let Kept {
            group,
            mut job,
            once,
            ..
        } = kept;
        if let Some(once) = once {
            self.once.remove(&once);
        }
        job.seq = None;
        job.count = 0;
        job.generation += 1;
        Some((group, job))
    }

    pub(crate) fn purge(&mut self, filter: &DeadLetterFilter) -> u64 {
        let before = self.kept.len();
        self.kept.retain(|_, kept| {
            let goes = filter.matches(&kept.letter);
            if let Some(once) = kept.once.filter(|_| goes) {
                self.once.remove(&once);
            }
            !goes
        });
        (before - self.kept.len()) as u64
    }
}

/// The number in fixed width comes first: ids sort by age.
fn letter_id(number: u64, message: &Name) -> DeadLetterId {
    DeadLetterId::new(format!("{number:016x}~{message}"))
}

/// The number and the message name in an id, when it is written as [`letter_id`] does: a letter has one id.
pub(crate) fn parse_id(id: &DeadLetterId) -> Option<(u64, &str)> {
    let (digits, message) = id.as_str().split_once('~')?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (digits == format!("{number:016x}")).then_some((number, message))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, prop_oneof, proptest};
    use proptest::test_runner::{Config, FileFailurePersistence};

    use super::*;

    proptest! {
        #![proptest_config(Config {
            failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
            ..Config::default()
        })]

        #[test]
        fn a_letter_has_one_id_which_tells_its_age(
            one in any::<u64>(), other in any::<u64>(), name in "[A-Za-z0-9_-]{1,12}(\\.[a-z]{1,4})?",
        ) {
            let name = Name::new(name).unwrap();
            let ids = [one, other].map(|number| letter_id(number, &name));
            prop_assert_eq!(parse_id(&ids[0]), Some((one, name.as_str())));
            prop_assert_eq!(ids[0].cmp(&ids[1]), one.cmp(&other));
        }

        #[test]
        fn no_other_text_is_its_id(text in prop_oneof!["[+]?[0-9a-fA-F]{0,17}~.{0,9}", ".*"]) {
            let id = DeadLetterId::new(text);
            if let Some((number, message)) = parse_id(&id) {
                let written = format!("{number:016x}~{message}");
                prop_assert!(id.as_str() == written, "{} for {}", id, written);
            }
        }
    }
}
