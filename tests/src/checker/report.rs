//! What the checks found.

use std::collections::BTreeMap;

use super::clause::Clause;

/// What was checked how often, and what was found broken.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) checked: BTreeMap<Clause, usize>,
    first: Option<Found>,
}

/// A rule that was broken.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) clause: Clause,
    /// When it was: for what did not happen, when it should have.
    pub(super) at: u64,
    pub(super) topic: Topic,
    pub(super) text: String,
}

/// What a violation is about, and so whose timeline is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    Message(u64),
    Process(String),
    Group(String),
    Node(String),
}

impl Report {
    /// A rule held.
    pub(super) fn held(&mut self, clause: Clause) {
        *self.checked.entry(clause).or_default() += 1;
    }

    /// A rule was broken.
    pub(super) fn broken(&mut self, clause: Clause, at: u64, topic: Topic, text: String) {
        self.held(clause);
        let earlier = self
            .first
            .as_ref()
            .is_none_or(|first| (at, clause) < (first.at, first.clause));
        if earlier {
            self.first = Some(Found {
                clause,
                at,
                topic,
                text,
            });
        }
    }

    /// A rule was broken unless `holds`.
    pub(super) fn expect(
        &mut self,
        clause: Clause,
        holds: bool,
        at: u64,
        topic: Topic,
        text: impl FnOnce() -> String,
    ) {
        if holds {
            self.held(clause);
        } else {
            self.broken(clause, at, topic, text());
        }
    }

    /// What should have happened by `due`, and did `at` some time or not at all by the `end` of the run. Without a time by
    /// which it is due there is nothing to check.
    pub(super) fn expect_by(
        &mut self,
        clause: Clause,
        due: Option<u64>,
        at: Option<u64>,
        end: u64,
        topic: Topic,
        what: impl FnOnce() -> String,
    ) {
        let Some(due) = due else { return };
        match at {
            Some(at) if at <= due => self.held(clause),
            Some(at) => {
                let text = format!("{}: it came {} too late", what(), span(at - due));
                self.broken(clause, due, topic, text);
            }
            None => {
                let text = format!("{}: it never did", what());
                self.broken(clause, due.min(end), topic, text);
            }
        }
    }

    /// The first violation by time.
    pub(super) fn first(&self) -> Option<Found> {
        self.first.clone()
    }
}

/// Microseconds, for people.
pub(super) fn span(us: u64) -> String {
    format!("{}.{:03} s", us / 1_000_000, us / 1_000 % 1_000)
}
