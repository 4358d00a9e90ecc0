//! One line of evidence.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One thing that happened.
///
/// `at` is the first field of its line: where it begins, a line begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in microseconds since 1970, by the system's clock.
    pub at: u64,
    /// The process that wrote it down.
    pub process: String,
    /// The group or subscriber that it is about; for a request, the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The workload's own id of the message or request, which lies in the payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// What happened.
    pub what: What,
}

/// What happened. Each kind says who writes it, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum What {
    /// A durable group exists from now on, or a subscriber listens. About the group; written once that is confirmed.
    GroupCreated,
    /// The group is to go. About the group; written before it is removed.
    GroupRemoved,
    /// A message is about to be published. About its id; written before the call.
    Publishing {
        /// The number of this call: [`Evidence::fresh`](super::Evidence::fresh).
        call: u64,
        /// Where it goes: the message's name, as in [`GroupRules::subject`](crate::checker::GroupRules::subject).
        subject: String,
        /// The routing key, where order is kept by key.
        key: Option<String>,
        /// [`checksum`] of what is published.
        checksum: u64,
    },
    /// The call returned. A call that was given up ended `Unknown`.
    Published {
        /// The number of the call.
        call: u64,
        /// How it ended.
        outcome: Outcome,
    },
    /// A handler begins. About the group and the id; written first in the handler.
    Started {
        /// The number of this run of the handler: [`Evidence::fresh`](super::Evidence::fresh).
        run: u64,
        /// Which attempt it is told to be.
        attempt: u32,
        /// Whether it is told that the message was delivered before.
        redelivered: bool,
        /// Whether it is told that an earlier run may have had its effect.
        may_have_run: bool,
        /// [`checksum`] of what arrived.
        checksum: u64,
    },
    /// The handler's effect happened. A keyed one only where the store told that the key was new; a committed one as read
    /// from the store.
    Effect {
        /// The run that had it, where that is known.
        run: Option<u64>,
        /// How it is kept from happening twice.
        kind: EffectKind,
    },
    /// The run was told that its lease, and so its message, is another's.
    LeaseLost {
        /// The number of the run.
        run: u64,
    },
    /// The handler succeeds. Written last in the handler.
    Done {
        /// The number of the run.
        run: u64,
    },
    /// The handler fails, or panics.
    Failed {
        /// The number of the run.
        run: u64,
    },
    /// The handler was dropped half-way: a time-out, or a shutdown.
    Dropped {
        /// The number of the run.
        run: u64,
    },
    /// A completion was recorded in the inbox: by whoever sees that. A group without any is judged by its `Done`.
    Completed,
    /// The parent found the message in the store of dead letters. About the group and the id.
    DeadLettered {
        /// [`checksum`] of what the store holds.
        checksum: u64,
    },
    /// A dead letter is about to be moved back. Written before the call.
    Redriven,
    /// The parent read from the server that the message is acked for the group.
    Acked,
    /// The parent read from the server that the message is delivered to the group, and not acked.
    Pending,
    /// A process, or a server, was killed. Written once it is gone.
    Killed {
        /// Its name.
        process: String,
    },
    /// A process, or a server, was started again. Written before it is started.
    Restarted {
        /// Its name.
        process: String,
    },
    /// Something is about to go wrong: a link, a server, a pause.
    FaultBegun {
        /// Its name, the same when it is healed.
        fault: String,
    },
    /// It is over.
    FaultHealed {
        /// Its name.
        fault: String,
    },
    /// Somebody makes trouble from now on: the group (stuck, slow), one message of it (poison), or, about `()`, an outsider.
    Troubled,
    /// That is over. About the same.
    Relieved,
    /// How much a process holds of a group, by its own counters.
    Counted {
        /// Delivered, and not settled.
        in_flight: u64,
        /// The limit of that which is in force.
        in_flight_limit: u64,
        /// Waiting in queues.
        buffered: u64,
        /// The limit of that which is in force.
        buffered_limit: u64,
    },
    /// The resident memory of the process that writes this.
    Memory {
        /// In bytes.
        bytes: u64,
    },
    /// What the server still has for the group, as read by the parent.
    Drained {
        /// Delivered, and not acked.
        pending: u64,
        /// Not delivered yet.
        lag: u64,
    },
    /// `shutdown` is about to be called in this process.
    ShutdownCalled {
        /// How long it may take.
        deadline: Duration,
    },
    /// It returned.
    ShutdownReturned {
        /// How many handlers it says to have finished, where it says so.
        finished: Option<u64>,
        /// How many handlers it says not to have finished, where it says so.
        unfinished: Option<u64>,
    },
    /// A request is about to be sent. About its id.
    RequestSent {
        /// The number of this call: [`Evidence::fresh`](super::Evidence::fresh).
        call: u64,
        /// The idempotency key, where it has one.
        key: Option<String>,
        /// How long it may take.
        deadline: Duration,
        /// [`checksum`] of what is sent.
        checksum: u64,
    },
    /// The request ended.
    RequestResolved {
        /// The number of the call.
        call: u64,
        /// With what.
        reply: Reply,
    },
    /// A node is about to register.
    NodeRegistering {
        /// The node's id.
        node: String,
        /// Who registers: another start is another owner.
        owner: String,
    },
    /// The node is registered. It lives as long as the process that wrote this, unless it leaves or loses its id.
    NodeRegistered {
        /// The node's id.
        node: String,
        /// Who registered.
        owner: String,
    },
    /// The node is about to unregister. Written before the call.
    NodeLeft {
        /// The node's id.
        node: String,
        /// Who unregistered.
        owner: String,
    },
    /// The owner was told that the id is another's.
    NodeLost {
        /// The node's id.
        node: String,
        /// Who lost it.
        owner: String,
    },
    /// Somebody looks at the members from now on. Written once the watch is there.
    ViewOpened {
        /// The name of the view.
        by: String,
    },
    /// And no more.
    ViewClosed {
        /// The name of the view.
        by: String,
    },
    /// A node is in the view: it joined, or the snapshot had it.
    NodeSeen {
        /// The name of the view.
        by: String,
        /// The node's id.
        node: String,
        /// Whose it is.
        owner: String,
    },
    /// A node is no more in the view.
    NodeGone {
        /// The name of the view.
        by: String,
        /// The node's id.
        node: String,
    },
    /// Something that people may read: a log line, an error, a `Debug` output, a metric.
    Text {
        /// All of it.
        text: String,
    },
    /// A name as the server has it: a subject, a key, a stream, a group.
    WireName {
        /// The name.
        name: String,
    },
}

/// How a publish ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The message is stored; at QoS 0, handed over.
    Ok,
    /// It may be stored.
    Unknown,
    /// It is certainly not stored.
    Rejected,
}

/// How an effect is kept from happening twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EffectKind {
    /// It is not.
    Plain,
    /// By the idempotency key.
    Keyed,
    /// It is committed together with the claim.
    Committed,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// With the reply to this very request.
    Own,
    /// With a reply to another one.
    Foreign,
    /// With an error.
    Error,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(group) = &self.group {
            write!(f, "{group}: ")?;
        }
        write!(f, "{:?}", self.what)
    }
}

/// A number that differs when the id, a header or the payload differs; the same in every process of one program.
///
/// The order of headers does not count. Where the id is not kept (QoS 0 without one of the caller's), give an empty one.
#[must_use]
pub fn checksum<'a>(
    id: &str,
    headers: impl IntoIterator<Item = (&'a str, &'a str)>,
    payload: &[u8],
) -> u64 {
    let headers: BTreeSet<_> = headers.into_iter().collect();
    let mut hasher = DefaultHasher::new();
    (id, headers, payload).hash(&mut hasher);
    hasher.finish()
}
