//! A rule that was broken, told with all that led to it.

use std::fmt;

use super::clause::{Clause, Invariant};
use super::report::{Found, Topic, span};
use crate::evidence::{Event, What};

/// The first rule, by time, that a run broke.
///
/// It shows as one sentence, and below it everything that happened to the message, node or process.
#[derive(Clone, Debug)]
pub struct Violation {
    found: Found,
    /// When the run began.
    start: u64,
    timeline: Vec<Event>,
}

impl Violation {
    pub(super) fn new(found: Found, events: &[Event]) -> Self {
        let about = |event: &&Event| is_about(event, &found.topic) || is_fault(event);
        Self {
            start: events.first().map_or(0, |event| event.at),
            timeline: events.iter().filter(about).cloned().collect(),
            found,
        }
    }

    /// The invariant that was broken.
    #[must_use]
    pub fn invariant(&self) -> Invariant {
        self.found.clause.invariant()
    }

    /// Which of its rules.
    #[must_use]
    pub fn clause(&self) -> Clause {
        self.found.clause
    }

    /// The message or request that it is about, if it is about one.
    #[must_use]
    pub fn message(&self) -> Option<u64> {
        match self.found.topic {
            Topic::Message(id) => Some(id),
            _ => None,
        }
    }

    /// The process, group or node that it is about, if it is about one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match &self.found.topic {
            Topic::Message(_) => None,
            Topic::Process(name) | Topic::Group(name) | Topic::Node(name) => Some(name),
        }
    }

    /// What happened, in one sentence.
    #[must_use]
    pub fn sentence(&self) -> &str {
        &self.found.text
    }

    /// All that happened to the message, process, group or node, and the kills and faults of the run.
    #[must_use]
    pub fn timeline(&self) -> &[Event] {
        &self.timeline
    }
}

fn is_about(event: &Event, topic: &Topic) -> bool {
    match topic {
        Topic::Message(id) => event.id == Some(*id),
        Topic::Group(name) => event.id.is_none() && event.group.as_ref() == Some(name),
        Topic::Process(name) => event.process == *name,
        Topic::Node(name) => is_of_node(&event.what, name),
    }
}

fn is_of_node(what: &What, name: &str) -> bool {
    match what {
        What::NodeRegistering { node, .. }
        | What::NodeRegistered { node, .. }
        | What::NodeLeft { node, .. }
        | What::NodeLost { node, .. }
        | What::NodeSeen { node, .. }
        | What::NodeGone { node, .. } => node == name,
        What::ViewOpened { .. } | What::ViewClosed { .. } => true,
        _ => false,
    }
}

fn is_fault(event: &Event) -> bool {
    matches!(
        event.what,
        What::Killed { .. }
            | What::Restarted { .. }
            | What::FaultBegun { .. }
            | What::FaultHealed { .. }
            | What::Troubled
            | What::Relieved
    )
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = |at: u64| span(at.saturating_sub(self.start));
        let Found {
            clause,
            at,
            topic,
            text,
        } = &self.found;
        writeln!(f, "{clause}: {text}, at {}", since(*at))?;
        match topic {
            Topic::Message(id) => writeln!(f, "what happened to {id}:")?,
            Topic::Process(name) => writeln!(f, "what happened in {name}:")?,
            Topic::Group(name) => writeln!(f, "what happened to group {name}:")?,
            Topic::Node(name) => writeln!(f, "what happened to node {name}:")?,
        }
        let mut told = false;
        for event in &self.timeline {
            if !told && event.at > *at {
                writeln!(f, "  {:>11}  <- here", since(*at))?;
                told = true;
            }
            writeln!(
                f,
                "  {:>11}  {:<14} {event}",
                since(event.at),
                event.process
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for Violation {}
