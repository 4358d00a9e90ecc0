//! Who is there as this process knows it, and what watchers are told when that changes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use catga_core::{Load, NodeEvent, NodeId, NodeInfo};
use tokio::time::Instant;

use super::entry::{Change, Rubbish, Snapshot, What};

/// The nodes, as of one revision of the registry.
#[derive(Debug, Default)]
pub(crate) struct View {
    epoch: String,
    revision: u64,
    nodes: BTreeMap<NodeId, Known>,
}

#[derive(Debug)]
struct Known {
    /// As watchers know it.
    info: NodeInfo,
    /// Since when the registry, which was lost, has not got it back.
    missing: Option<Instant>,
}

/// What came before a message was missed: a snapshot is needed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Gap;

impl View {
    /// Whether it is of this revision, or a later one.
    pub(crate) fn has(&self, epoch: &str, revision: u64) -> bool {
        self.epoch == epoch && self.revision >= revision
    }

    /// Whether it is of a later revision than this.
    pub(crate) fn is_beyond(&self, epoch: &str, revision: u64) -> bool {
        self.epoch == epoch && self.revision > revision
    }

    pub(crate) fn infos(&self) -> Vec<NodeInfo> {
        self.nodes
            .values()
            .map(|known| known.info.clone())
            .collect()
    }

    /// Follows a change that was published.
    pub(crate) fn follow(
        &mut self,
        change: &Change<'_>,
        rubbish: &Rubbish,
    ) -> Result<Vec<NodeEvent>, Gap> {
        if self.epoch != change.epoch {
            return Err(Gap);
        }
        // What the snapshot had already.
        if change.revision <= self.revision {
            return Ok(Vec::new());
        }
        if change.revision != self.revision + 1 {
            return Err(Gap);
        }
        let mut events = Vec::new();
        match &change.what {
            What::Is(entry) => match entry.decode() {
                Ok(node) => self.is(node, &mut events),
                Err(problem) => rubbish.note(entry.id, problem),
            },
            What::Left { id, incarnation } => {
                let left = self.nodes.get(*id).is_some_and(|known| {
                    known.info.incarnation.as_uuid().to_string() == *incarnation
                });
                if left && let Some(known) = self.nodes.remove(*id) {
                    events.push(NodeEvent::Left(known.info));
                }
            }
            What::Unreadable => {
                rubbish.note("", "a change cannot be read");
                return Err(Gap);
            }
        }
        self.revision = change.revision;
        Ok(events)
    }

    /// Takes over what the registry says now.
    ///
    /// Whoever is not there any more has left; but not when the registry was lost: then all have to be registered
    /// again, and who was there counts as there until that has had its time.
    pub(crate) fn take(&mut self, snapshot: Snapshot, now: Instant) -> Vec<NodeEvent> {
        let lost = self.epoch != snapshot.epoch;
        let mut events = Vec::new();
        let mut absent: BTreeSet<NodeId> = self.nodes.keys().cloned().collect();
        for (node, live) in snapshot.nodes {
            // Whoever is beyond its time is there until it is taken out, and joins nowhere.
            if !live && !self.nodes.contains_key(&node.id) {
                continue;
            }
            absent.remove(&node.id);
            self.is(node, &mut events);
        }
        for id in absent {
            match self.nodes.get_mut(&id) {
                Some(known) if lost || known.missing.is_some() => {
                    known.missing.get_or_insert(now);
                }
                _ => {
                    if let Some(known) = self.nodes.remove(&id) {
                        events.push(NodeEvent::Left(known.info));
                    }
                }
            }
        }
        (self.epoch, self.revision) = (snapshot.epoch, snapshot.revision);
        events
    }

    /// Gives up those that did not come back after the registry was lost.
    pub(crate) fn give_up_missing(&mut self, now: Instant, patience: Duration) -> Vec<NodeEvent> {
        let mut events = Vec::new();
        self.nodes.retain(|_, known| {
            let late = known.missing.is_some_and(|since| now >= since + patience);
            if late {
                events.push(NodeEvent::Left(known.info.clone()));
            }
            !late
        });
        events
    }

    /// A node is there, as it says now.
    fn is(&mut self, node: NodeInfo, events: &mut Vec<NodeEvent>) {
        match self.nodes.get_mut(&node.id) {
            Some(known) if known.info.incarnation == node.incarnation => {
                known.missing = None;
                if differs(&known.info, &node) {
                    known.info = node.clone();
                    events.push(NodeEvent::Updated(node));
                } else {
                    known.info.last_seen = node.last_seen;
                }
            }
            _ => {
                let known = Known {
                    info: node.clone(),
                    missing: None,
                };
                // Of the incarnation before it nobody else tells.
                if let Some(before) = self.nodes.insert(node.id.clone(), known) {
                    events.push(NodeEvent::Left(before.info));
                }
                events.push(NodeEvent::Joined(node));
            }
        }
    }
}

/// Whether watchers want to hear of a change.
fn differs(before: &NodeInfo, after: &NodeInfo) -> bool {
    let moved = after.load.as_percent().abs_diff(before.load.as_percent());
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
    use crate::registry::entry::{self, Entry};

    const PATIENCE: Duration = Duration::from_secs(30);

    fn node(id: &'static str) -> NodeInfo {
        NodeInfo::new(NodeId::from_static(id), Name::from_static("shop"))
    }

    fn snapshot(epoch: &str, revision: u64, nodes: &[&NodeInfo]) -> Snapshot {
        Snapshot {
            epoch: epoch.to_owned(),
            revision,
            nodes: nodes.iter().map(|node| ((*node).clone(), true)).collect(),
        }
    }

    /// What is told, as words.
    fn told(events: Vec<NodeEvent>) -> Vec<String> {
        let told = events.into_iter().map(|event| match event {
            NodeEvent::Joined(node) => format!("+{}", node.id),
            NodeEvent::Updated(node) => format!("~{}", node.id),
            NodeEvent::Left(node) => format!("-{}", node.id),
            other => format!("{other:?}"),
        });
        told.collect()
    }

    fn is(view: &mut View, revision: u64, node: &NodeInfo) -> Result<Vec<String>, Gap> {
        let json = entry::encode("register", node).unwrap();
        let incarnation = node.incarnation.as_uuid().to_string();
        let what = What::Is(Entry {
            id: node.id.as_str(),
            incarnation: &incarnation,
            started: 0,
            seen: 0,
            load: node.load.as_percent().into(),
            node: &json,
        });
        follow(view, revision, what)
    }

    fn left(view: &mut View, revision: u64, node: &NodeInfo) -> Result<Vec<String>, Gap> {
        let incarnation = node.incarnation.as_uuid().to_string();
        let (id, incarnation) = (node.id.as_str(), incarnation.as_str());
        follow(view, revision, What::Left { id, incarnation })
    }

    fn follow(view: &mut View, revision: u64, what: What<'_>) -> Result<Vec<String>, Gap> {
        let change = Change {
            epoch: "e",
            revision,
            what,
        };
        view.follow(&change, &Rubbish::default()).map(told)
    }

    fn view(nodes: &[&NodeInfo]) -> View {
        let mut view = View::default();
        view.take(snapshot("e", 10, nodes), Instant::now());
        view
    }

    #[test]
    fn changes_are_told_once_and_only_those_that_matter() {
        let (mut one, two) = (node("one"), node("two"));
        let mut view = view(&[&one]);
        assert_eq!(is(&mut view, 10, &two), Ok(vec![]), "the snapshot had it");
        assert_eq!(is(&mut view, 11, &two).unwrap(), ["+two"]);
        assert_eq!(is(&mut view, 12, &one), Ok(vec![]), "nothing is new");
        one.load = Load::percent(9);
        assert_eq!(is(&mut view, 13, &one), Ok(vec![]));
        one.load = Load::percent(10);
        assert_eq!(is(&mut view, 14, &one).unwrap(), ["~one"]);
        one.draining = true;
        assert_eq!(is(&mut view, 15, &one).unwrap(), ["~one"]);
        assert_eq!(left(&mut view, 16, &two).unwrap(), ["-two"]);
        assert_eq!(left(&mut view, 17, &two), Ok(vec![]));
        assert_eq!(view.infos().len(), 1);
        assert!(view.infos()[0].draining);
    }

    #[test]
    fn another_incarnation_takes_the_place_of_the_one_before() {
        let (old, new) = (node("one"), node("one"));
        let mut view = view(&[&old]);
        assert_eq!(is(&mut view, 11, &new).unwrap(), ["-one", "+one"]);
        assert_eq!(left(&mut view, 12, &old), Ok(vec![]), "it has no say");
        assert_eq!(view.infos()[0].incarnation, new.incarnation);
    }

    #[test]
    fn what_was_missed_is_noticed_and_found_in_a_snapshot() {
        let (one, two, three) = (node("one"), node("two"), node("three"));
        let mut view = view(&[&one, &two]);
        assert_eq!(is(&mut view, 12, &three), Err(Gap));
        assert_eq!(follow(&mut view, 11, What::Unreadable), Err(Gap));
        assert!(view.has("e", 10) && !view.has("e", 11) && !view.has("f", 10));
        assert!(view.is_beyond("e", 9) && !view.is_beyond("e", 10));
        let events = view.take(snapshot("e", 12, &[&two, &three]), Instant::now());
        assert_eq!(told(events), ["+three", "-one"]);
        assert!(view.has("e", 12));
    }

    #[test]
    fn when_the_registry_was_lost_the_nodes_have_time_to_come_back() {
        let (one, two) = (node("one"), node("two"));
        let mut view = view(&[&one, &two]);
        let (began, second) = (Instant::now(), Duration::from_secs(1));
        assert_eq!(told(view.take(snapshot("", 0, &[]), began)), [""; 0]);
        assert_eq!(is(&mut view, 1, &one), Err(Gap), "another epoch");
        let later = began + second;
        let events = view.take(snapshot("f", 1, &[&one]), later);
        assert_eq!(told(events), [""; 0], "it is as it was");
        // And the other is waited for as long as from the beginning, also by later snapshots.
        let events = view.take(snapshot("f", 2, &[&one]), later);
        assert_eq!(told(events), [""; 0]);
        let events = view.give_up_missing(began + PATIENCE - second, PATIENCE);
        assert_eq!((told(events), view.infos().len()), (vec![], 2));
        let events = view.give_up_missing(began + PATIENCE, PATIENCE);
        assert_eq!(told(events), ["-two"]);
        assert_eq!(view.infos(), [one]);
    }

    #[test]
    fn who_is_beyond_its_time_joins_nowhere_and_leaves_when_it_is_taken_out() {
        let (known, unknown) = (node("known"), node("unknown"));
        let mut view = view(&[&known]);
        let silent = Snapshot {
            nodes: vec![(known.clone(), false), (unknown.clone(), false)],
            ..snapshot("e", 11, &[])
        };
        assert_eq!(told(view.take(silent, Instant::now())), [""; 0]);
        assert_eq!(left(&mut view, 12, &unknown), Ok(vec![]));
        assert_eq!(left(&mut view, 13, &known).unwrap(), ["-known"]);
    }
}
