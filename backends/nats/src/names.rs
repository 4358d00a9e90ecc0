//! Names on the wire: subjects, streams, durables and keys.
//!
//! A [`Name`] holds `A-Z a-z 0-9 _ - .` and nothing else, so that none can address what it does not mean. Where dots
//! may not stand they are written `=`; parts are set apart by `~`, or by `/` in keys: none of them is in a name, so
//! that different names never meet.

use async_nats::Subject;
use catga_core::{Consumers, Error, ErrorKind, InboxKey, Incarnation, Name, NodeId};

/// Stands for the node of those who share, and for all nodes.
const NO_NODE: &str = "~";

/// The names of one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    namespace: Name,
}

impl Names {
    /// Takes a namespace, which is one token and not the client's.
    pub(crate) fn new(namespace: &Name, inbox_prefix: &str) -> Result<Self, Error> {
        let namespace = Name::token(namespace)?;
        let reserved = inbox_prefix.split('.').next();
        if reserved == Some(namespace.as_str()) {
            return Err(Error::new(
                ErrorKind::Config,
                "connect",
                format!(
                    "the namespace `{namespace}` is the first token of the inbox prefix: choose another"
                ),
            ));
        }
        Ok(Self { namespace })
    }

    /// A QoS 0 event.
    pub(crate) fn event(&self, message: &Name) -> Subject {
        format!("{}.e.{message}", self.namespace).into()
    }

    /// A stored message. One without a routing key is in partition 0.
    pub(crate) fn stored(&self, message: &Name, partition: u16) -> Subject {
        format!("{}.s.{partition}.{message}", self.namespace).into()
    }

    /// A stored message of any partition.
    pub(crate) fn stored_in_any(&self, message: &Name) -> String {
        format!("{}.s.*.{message}", self.namespace)
    }

    /// A message that is redriven to one group, or one node of it.
    pub(crate) fn redriven(&self, member: &Member, message: &Name) -> Subject {
        format!("{}.d.{member}.{message}", self.namespace).into()
    }

    /// The stream of a message.
    pub(crate) fn stream(&self, message: &Name) -> String {
        format!("{}~{}", self.namespace, token(message))
    }

    /// The subjects of a message's stream.
    pub(crate) fn stream_subjects(&self, message: &Name) -> Vec<String> {
        vec![
            self.stored_in_any(message),
            format!("{}.d.*.{message}", self.namespace),
        ]
    }

    /// The stream of dead letters.
    pub(crate) fn dead_stream(&self) -> String {
        format!("{}~~dead", self.namespace)
    }

    /// The subjects of the stream of dead letters.
    pub(crate) fn dead_subjects(&self) -> Vec<String> {
        vec![format!("{}.x.>", self.namespace)]
    }

    /// A dead letter: with the id, so that it can be seen whether one of it is there.
    pub(crate) fn dead(&self, member: &Member, message: &Name, id: &str) -> Subject {
        let node = member.node.as_ref().map(token);
        let node = node.as_deref().unwrap_or(NO_NODE);
        let group = token(&member.group);
        format!("{}.x.{group}.{node}.{message}.{id}", self.namespace).into()
    }

    /// The dead letters of a group, of a message, or all.
    pub(crate) fn dead_filter(&self, group: Option<&Name>, message: Option<&Name>) -> String {
        let group = group.map_or_else(|| "*".to_owned(), token);
        match message {
            None => format!("{}.x.{group}.*.>", self.namespace),
            Some(message) => format!("{}.x.{group}.*.{message}.*", self.namespace),
        }
    }

    /// Who gave up which message, as the subject of a dead letter tells.
    pub(crate) fn read_dead(&self, subject: &str) -> Option<(Member, Name)> {
        let rest = subject.strip_prefix(self.namespace.as_str())?;
        let mut parts = rest.strip_prefix(".x.")?.splitn(3, '.');
        let group = untoken(parts.next()?)?;
        let node = match parts.next()? {
            NO_NODE => None,
            node => Some(untoken(node)?),
        };
        let (message, _id) = parts.next()?.rsplit_once('.')?;
        let message = Name::new(message).ok()?;
        Some((Member { group, node }, message))
    }

    /// A request that one node of a service takes.
    pub(crate) fn to_service(&self, service: &Name, request: &Name) -> Subject {
        format!("{}.r.{}.{request}", self.namespace, token(service)).into()
    }

    /// A request to one node.
    pub(crate) fn to_node(&self, node: &NodeId, request: &Name) -> Subject {
        format!("{}.n.{}.{request}", self.namespace, token(node)).into()
    }

    /// What a node says of itself where nobody keeps it.
    pub(crate) fn node(&self, node: &NodeId) -> Subject {
        format!("{}.nodes.{}", self.namespace, token(node)).into()
    }

    /// What all nodes say of themselves, and where they are asked.
    pub(crate) fn nodes(&self) -> Subject {
        format!("{}.nodes.*", self.namespace).into()
    }

    /// Where an incarnation of a node is asked whether it is there.
    pub(crate) fn incarnation(&self, node: &NodeId, incarnation: Incarnation) -> Subject {
        let uuid = incarnation.as_uuid().simple();
        format!("{}.nodes.{}.{uuid}", self.namespace, token(node)).into()
    }

    /// Where all nodes are asked.
    pub(crate) fn ask_nodes(&self) -> Subject {
        format!("{}.nodes.{NO_NODE}", self.namespace).into()
    }

    /// Where a node says that it lives, for those who report.
    pub(crate) fn beat(&self, node: &NodeId) -> Subject {
        format!("{}.nodes.{}.beat", self.namespace, token(node)).into()
    }

    /// Where all nodes say so.
    pub(crate) fn beats(&self) -> Subject {
        format!("{}.nodes.*.beat", self.namespace).into()
    }

    /// Where those who hear beats hear themselves.
    pub(crate) fn echo(&self) -> Subject {
        format!("{}.nodes.{NO_NODE}.beat", self.namespace).into()
    }

    /// Where those who report tell everybody of all nodes.
    pub(crate) fn reports(&self) -> Subject {
        format!("{}.nodes.{NO_NODE}.report", self.namespace).into()
    }

    /// The bucket of the nodes.
    pub(crate) fn nodes_bucket(&self) -> String {
        format!("{}_nodes", self.namespace)
    }

    /// The bucket of the inbox.
    pub(crate) fn inbox_bucket(&self) -> String {
        format!("{}_inbox", self.namespace)
    }
}

/// Who handles a message: a group, or one node of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) group: Name,
    pub(crate) node: Option<NodeId>,
}

impl Member {
    pub(crate) fn of(consumers: &Consumers) -> Self {
        let node = match consumers {
            Consumers::EachNode { node, .. } => Some(node.clone()),
            _ => None,
        };
        Self {
            group: consumers.group().clone(),
            node,
        }
    }

    /// The durable of all partitions.
    pub(crate) fn durable(&self) -> String {
        self.to_string()
    }

    /// The durable of one partition.
    pub(crate) fn partition_durable(&self, partition: u16) -> String {
        format!("{self}~~{partition}")
    }

    /// The durable of what is redriven.
    pub(crate) fn redrive_durable(&self) -> String {
        format!("{self}~~r")
    }

    /// The node whose durable this is, in the `each_node` group `group`.
    pub(crate) fn node_of_durable(group: &Name, durable: &str) -> Option<NodeId> {
        let rest = durable.strip_prefix(&token(group))?.strip_prefix('~')?;
        untoken(rest.split('~').next().filter(|node| !node.is_empty())?)
    }
}

/// `group`, or `group~node`.
impl std::fmt::Display for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&token(&self.group))?;
        match &self.node {
            Some(node) => write!(f, "~{}", token(node)),
            None => Ok(()),
        }
    }
}

/// The key of an inbox entry. Buckets do not take `~` in keys.
pub(crate) fn inbox_key(key: &InboxKey) -> String {
    let group = token(&key.group);
    let node = key.node.as_ref().map(token).unwrap_or_default();
    format!("{group}/{node}.{}.{}", key.message, key.id)
}

/// A name as one token.
fn token(name: &Name) -> String {
    name.as_str().replace('.', "=")
}

fn untoken(text: &str) -> Option<Name> {
    Name::new(text.replace('=', ".")).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use catga_core::MessageId;

    use super::*;

    /// Names that a careless encoding would mix up.
    const TRICKY: [&str; 9] = ["a", "a.b", "a-b", "a_b", "a.0", "0", "r", "a.r", "-"];

    fn tricky() -> impl Iterator<Item = Name> + Clone {
        TRICKY.into_iter().map(Name::from_static)
    }

    fn names() -> Names {
        Names::new(&Name::from_static("ns"), "_INBOX").unwrap()
    }

    #[track_caller]
    fn distinct<K: std::fmt::Debug>(made: impl Iterator<Item = (String, K)>) {
        let mut seen = HashMap::new();
        for (text, from) in made {
            if let Some(other) = seen.get(&text) {
                panic!("{text} is made from {from:?} and from {other:?}");
            }
            seen.insert(text, from);
        }
    }

    fn members() -> Vec<Member> {
        let alone = tricky().map(|group| Member { group, node: None });
        let nodes = tricky().flat_map(|group| {
            tricky().map(move |node| Member {
                group: group.clone(),
                node: Some(node),
            })
        });
        alone.chain(nodes).collect()
    }

    #[test]
    fn different_names_never_meet() {
        let names = names();
        distinct(tricky().map(|name| (names.stream(&name), name)));
        distinct(tricky().flat_map(|name| {
            let subject = |p| (names.stored(&name, p).to_string(), (name.clone(), p));
            [subject(0), subject(1)]
        }));
        distinct(members().into_iter().flat_map(|member| {
            let made = [
                member.durable(),
                member.redrive_durable(),
                member.partition_durable(0),
                member.partition_durable(1),
            ];
            made.into_iter()
                .zip(1..)
                .map(move |(text, i)| (text, (member.clone(), i)))
        }));
        distinct(members().into_iter().flat_map(|member| {
            let subjects = tricky().map(|name| {
                let subject = names.dead(&member, &name, "1").to_string();
                (subject, (member.clone(), name))
            });
            subjects.collect::<Vec<_>>()
        }));
        let id = MessageId::from_key("x");
        distinct(members().into_iter().flat_map(|member| {
            let keys = tricky().map(|name| {
                let key = InboxKey::new(member.group.clone(), name.clone(), id);
                (
                    inbox_key(&key.with_node(member.node.clone())),
                    (member.clone(), name),
                )
            });
            keys.collect::<Vec<_>>()
        }));
    }

    #[test]
    fn the_subject_of_a_dead_letter_is_read_back() {
        let names = names();
        for member in members() {
            for name in tricky() {
                let subject = names.dead(&member, &name, "1");
                assert_eq!(names.read_dead(&subject), Some((member.clone(), name)));
            }
        }
        for foreign in ["other.x.a.~.b", "ns.s.0.a", "ns.x.a.~", "ns.x.a b.~.c"] {
            assert_eq!(names.read_dead(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn the_node_of_a_durable_is_read_back() {
        let group = Name::from_static("a.b");
        for member in members() {
            for durable in [
                member.durable(),
                member.redrive_durable(),
                member.partition_durable(3),
            ] {
                let node = Member::node_of_durable(&group, &durable);
                let expected = member.node.clone().filter(|_| member.group == group);
                assert_eq!(node, expected, "{durable}");
            }
        }
    }

    #[test]
    fn a_namespace_is_one_token_and_not_the_clients() {
        for namespace in ["a.b", "_INBOX"] {
            assert!(Names::new(&Name::from_static(namespace), "_INBOX.x").is_err());
        }
    }
}
