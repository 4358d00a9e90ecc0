//! What a run was promised.

use std::collections::BTreeMap;
use std::time::Duration;

/// What counts as right in one run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Rules {
    /// What each group or subscriber was promised, by its name.
    pub groups: BTreeMap<String, GroupRules>,
    /// R: how long after the last fault everything is settled. Default: 10 s. See [`recovery_bound`].
    pub recovery: Duration,
    /// How long a publish may take. Default: 5 s. 250 ms more are granted to the scheduler, as for every deadline.
    pub publish_deadline: Duration,
    /// How long a claim or delivery is a run's without being renewed; renewals come at least twice in it. Default: 1 s.
    pub lease: Duration,
    /// How often a node says that it lives. Default: 200 ms.
    pub heartbeat: Duration,
    /// After which silence a node is dead. Default: 1 s.
    pub node_timeout: Duration,
    /// How often dead nodes are looked for. Default: 200 ms.
    pub sweep: Duration,
    /// How long a delivery may take while somebody else is in trouble. Default: 2 s.
    pub isolation: Duration,
    /// How long before the kill of a server what was stored there may be lost with it: where replicas follow, and nobody waits
    /// for them. Default: nothing may be lost.
    pub replication: Option<Duration>,
    /// Credentials, in each spelling in which they would give something away; their percent-encoded form is looked for too.
    pub secrets: Vec<String>,
    /// Which names may reach the wire. Default: those of letters, digits and `_-.=~:{}$`.
    pub wire_name: fn(&str) -> bool,
}

/// What one group or subscriber was promised.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GroupRules {
    /// Which messages it gets: the `subject` of [`What::Publishing`](crate::evidence::What::Publishing).
    pub subject: String,
    /// How they are delivered.
    pub promise: Promise,
    /// Whether first deliveries are in the order of publishing: one publisher, one subject or key, concurrency 1. Default: no.
    pub ordered: bool,
    /// At QoS 0: whether it keeps up on a healthy link, so that it gets everything. Default: no.
    pub keeps_up: bool,
    /// How often a message may be delivered. Default: without a bound.
    pub max_deliver: Option<usize>,
    /// How many handlers may run at once in one process. Default: without a bound.
    pub concurrency: Option<usize>,
    /// How many of the messages that a process had handled may come again after it was killed: those whose acks were still on
    /// their way. Default: without a bound.
    pub again: Option<usize>,
}

/// How messages of a group are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// QoS 0.
    AtMostOnce,
    /// QoS 1.
    AtLeastOnce,
    /// QoS 2.
    ExactlyOnce,
    /// Requests: as long as somebody waits for the reply.
    Requests,
}

impl Rules {
    /// The short times of the conformance list, and no group.
    #[must_use]
    pub fn new() -> Self {
        Self {
            groups: BTreeMap::new(),
            recovery: Duration::from_secs(10),
            publish_deadline: Duration::from_secs(5),
            lease: Duration::from_secs(1),
            heartbeat: Duration::from_millis(200),
            node_timeout: Duration::from_secs(1),
            sweep: Duration::from_millis(200),
            isolation: Duration::from_secs(2),
            replication: None,
            secrets: Vec::new(),
            wire_name: plain_name,
        }
    }

    /// With what a group was promised.
    #[must_use]
    pub fn group(mut self, name: &str, rules: GroupRules) -> Self {
        self.groups.insert(name.to_owned(), rules);
        self
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self::new()
    }
}

impl GroupRules {
    /// A group that gets the messages of `subject`.
    #[must_use]
    pub fn new(subject: &str, promise: Promise) -> Self {
        Self {
            subject: subject.to_owned(),
            promise,
            ordered: false,
            keeps_up: false,
            max_deliver: None,
            concurrency: None,
            again: None,
        }
    }

    /// With first deliveries in the order of publishing.
    #[must_use]
    pub fn ordered(mut self) -> Self {
        self.ordered = true;
        self
    }

    /// At QoS 0: it gets everything.
    #[must_use]
    pub fn keeps_up(mut self) -> Self {
        self.keeps_up = true;
        self
    }

    /// With so many deliveries of a message at most.
    #[must_use]
    pub fn max_deliver(mut self, times: usize) -> Self {
        self.max_deliver = Some(times);
        self
    }

    /// With so many handlers at once in a process at most.
    #[must_use]
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = Some(handlers);
        self
    }

    /// With so many messages at most that come again after the kill of a process that had handled them.
    #[must_use]
    pub fn again(mut self, messages: usize) -> Self {
        self.again = Some(messages);
        self
    }

    /// Whether what was published may not be lost.
    pub(super) fn is_durable(&self) -> bool {
        matches!(self.promise, Promise::AtLeastOnce | Promise::ExactlyOnce)
    }
}

/// R of the conformance list: ack wait, a claim lease for each of so many members, the largest back-off, and 5 s.
#[must_use]
pub fn recovery_bound(
    ack_wait: Duration,
    lease: Duration,
    backoff: Duration,
    members: u32,
) -> Duration {
    ack_wait + lease * members + backoff + Duration::from_secs(5)
}

fn plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 512
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.=~:{}$".contains(&byte))
}
