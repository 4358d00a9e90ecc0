//! Names on the wire: keys, channels and groups.
//!
//! A [`Name`] holds `A-Z a-z 0-9 _ - .` and nothing else, so that none can address what it does not mean. Parts are set
//! apart by `:` in keys and by `~` in groups: neither is in a name, so that different names never meet. What stands in
//! braces decides the slot of a cluster: all keys of one message name are in one, and scripts never cross slots.

use std::fmt;

use catga_core::{Consumers, Error, InboxKey, Name, NodeId};

/// The names of one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    namespace: Name,
}

impl Names {
    /// Takes a namespace, which is one token.
    pub(crate) fn new(namespace: &Name) -> Result<Self, Error> {
        let namespace = Name::token(namespace)?;
        Ok(Self { namespace })
    }

    /// A QoS 0 event: its channel, and its stream for groups.
    pub(crate) fn event(&self, message: &Name) -> String {
        format!("{{{}:{message}}}:e", self.namespace)
    }

    /// The stream of a message. One without a routing key is in partition 0.
    pub(crate) fn stream(&self, message: &Name, partition: u16) -> String {
        match partition {
            0 => format!("{{{}:{message}}}", self.namespace),
            partition => format!("{{{}:{message}}}:p:{partition}", self.namespace),
        }
    }

    /// The partitions of a message that have a stream of their own: a set.
    pub(crate) fn partitions(&self, message: &Name) -> String {
        format!("{{{}:{message}}}:parts", self.namespace)
    }

    /// Says that the id of a message was published.
    pub(crate) fn published(&self, message: &Name, id: &str) -> String {
        format!("{{{}:{message}}}:id:{id}", self.namespace)
    }

    /// The records of the inbox for one message and group.
    pub(crate) fn inbox(&self, key: &InboxKey) -> String {
        let member = Member {
            group: key.group.clone(),
            node: key.node.clone(),
        };
        self.inbox_of(&key.message, &member, &key.id.to_string())
    }

    /// As [`inbox`](Self::inbox).
    pub(crate) fn inbox_of(&self, message: &Name, member: &Member, id: &str) -> String {
        format!("{{{}:{message}}}:in:{member}:{id}", self.namespace)
    }

    /// What a handler writes together with the claim of a message.
    pub(crate) fn committed(&self, message: &Name, key: &str) -> String {
        format!("{{{}:{message}}}:tx:{key}", self.namespace)
    }

    /// The dead letters of one message and group: a stream.
    pub(crate) fn dead(&self, message: &Name, group: &Name) -> String {
        format!("{{{}:{message}}}:dl:{group}", self.namespace)
    }

    /// Which ids are among the dead letters of one message and group: a hash.
    pub(crate) fn dead_ids(&self, message: &Name, group: &Name) -> String {
        format!("{{{}:{message}}}:dlid:{group}", self.namespace)
    }

    /// Which messages and groups have dead letters: a set.
    pub(crate) fn dead_index(&self) -> String {
        format!("{{{}::dead}}", self.namespace)
    }

    /// When members of an `each_node` group were last there: a sorted set.
    pub(crate) fn seen(&self, message: &Name, group: &Name) -> String {
        format!("{{{}:{message}}}:seen:{group}", self.namespace)
    }

    /// Which members of an `each_node` group were given up, and have not come back: a set.
    pub(crate) fn gone(&self, message: &Name, group: &Name) -> String {
        format!("{{{}:{message}}}:gone:{group}", self.namespace)
    }

    /// Who shares the partitions of a message: a sorted set.
    pub(crate) fn sharing(&self, message: &Name, member: &Member) -> String {
        format!("{{{}:{message}}}:sharing:{member}", self.namespace)
    }

    /// How a group handles a message: in which order.
    pub(crate) fn order(&self, message: &Name, member: &Member) -> String {
        format!("{{{}:{message}}}:order:{member}", self.namespace)
    }

    /// The requests of one name that one node of a service takes: a stream.
    pub(crate) fn request(&self, service: &Name, request: &Name) -> String {
        format!("{{{}:{request}}}:r:{service}", self.namespace)
    }

    /// The requests of one name to one node: a stream.
    pub(crate) fn request_to_node(&self, node: &NodeId, request: &Name) -> String {
        format!("{{{}:{request}}}:n:{node}", self.namespace)
    }

    /// The nodes that are registered: the index, and the channel of their changes. The record of a node is behind it.
    pub(crate) fn nodes(&self) -> String {
        format!("{{{}::nodes}}", self.namespace)
    }

    /// A channel for replies.
    pub(crate) fn replies(&self, inbox: &str) -> String {
        format!("{{{}::replies}}:{inbox}", self.namespace)
    }
}

/// What is registered of a node.
pub(crate) fn node(nodes: &str, id: &impl fmt::Display) -> String {
    format!("{nodes}:{id}")
}

/// How often the registry of nodes has changed. No node is called so: a name has no `:`.
pub(crate) fn nodes_meta(nodes: &str) -> String {
    format!("{nodes}::meta")
}

/// When entries of a stream are due again: a sorted set by server time.
pub(crate) fn due(stream: &str, member: &impl fmt::Display) -> String {
    format!("{stream}:due:{member}")
}

/// Who handles the entries of a partition now.
pub(crate) fn owner(stream: &str, member: &impl fmt::Display) -> String {
    format!("{stream}:own:{member}")
}

/// Who handles a message: a group, or one node of it. It is also the name of the stream's group: `group`, or `group~node`.
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
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some(node) => write!(f, "{}~{node}", self.group),
            None => fmt::Display::fmt(&self.group, f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use catga_core::MessageId;

    use super::*;

    /// Names that a careless encoding would mix up.
    const TRICKY: [&str; 12] = [
        "a", "a.b", "a-b", "a_b", "a.0", "0", "r", "e", "p.1", "n", "dl", "parts",
    ];

    fn tricky() -> impl Iterator<Item = Name> {
        TRICKY.into_iter().map(|name| Name::new(name).unwrap())
    }

    #[test]
    fn different_things_have_different_keys() {
        let mut seen: HashMap<String, String> = HashMap::new();
        let mut note = |key: String, what: String| {
            if let Some(other) = seen.insert(key.clone(), what.clone()) {
                assert_eq!(other, what, "{key}");
            }
        };
        let id = MessageId::new();
        for namespace in ["a", "r", "n"] {
            let names = Names::new(&Name::new(namespace).unwrap()).unwrap();
            let of = |what: &str| format!("{namespace}/{what}");
            note(names.dead_index(), of("index"));
            let nodes = names.nodes();
            note(nodes_meta(&nodes), of("meta"));
            for id in tricky() {
                note(node(&nodes, &id), of(&format!("node {id}")));
            }
            note(nodes, of("nodes"));
            for message in tricky() {
                note(names.event(&message), of(&format!("e {message}")));
                let published = names.published(&message, &id.to_string());
                note(published, of(&format!("id {message}")));
                note(names.partitions(&message), of(&format!("parts {message}")));
                note(
                    names.replies(message.as_str()),
                    of(&format!("replies {message}")),
                );
                for partition in [0, 1, 10] {
                    let stream = names.stream(&message, partition);
                    note(stream, of(&format!("s {message} {partition}")));
                }
                for group in tricky() {
                    for node in [
                        None,
                        Some(Name::from_static("a")),
                        Some(Name::from_static("e")),
                    ] {
                        let member = Member {
                            group: group.clone(),
                            node,
                        };
                        let what = format!("{message} {group} {:?}", member.node);
                        let stream = names.stream(&message, 0);
                        note(due(&stream, &member), of(&format!("due {what}")));
                        note(owner(&stream, &member), of(&format!("own {what}")));
                        note(names.order(&message, &member), of(&format!("order {what}")));
                        let sharing = names.sharing(&message, &member);
                        note(sharing, of(&format!("sharing {what}")));
                        let inbox = names.inbox_of(&message, &member, &id.to_string());
                        note(inbox, of(&format!("in {what}")));
                    }
                    note(
                        names.dead(&message, &group),
                        of(&format!("dl {message} {group}")),
                    );
                    let ids = names.dead_ids(&message, &group);
                    note(ids, of(&format!("dlid {message} {group}")));
                    note(
                        names.seen(&message, &group),
                        of(&format!("seen {message} {group}")),
                    );
                    note(
                        names.gone(&message, &group),
                        of(&format!("gone {message} {group}")),
                    );
                    note(
                        names.request(&group, &message),
                        of(&format!("r {group} {message}")),
                    );
                    let to_node = names.request_to_node(&group, &message);
                    note(to_node, of(&format!("n {group} {message}")));
                }
            }
        }
    }

    #[test]
    fn a_namespace_is_one_token() {
        assert!(Names::new(&Name::from_static("a.b")).is_err());
    }
}
