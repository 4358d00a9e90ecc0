//! What a backend can do, as data.

use std::fmt;

/// One ability of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Capability {
    /// QoS 0: hands messages to those who listen, and forgets them.
    AtMostOnce,
    /// QoS 1: stores, acknowledges, redelivers.
    AtLeastOnce,
    /// QoS 2: recognises an id that was published before, or leaves it to an inbox.
    ExactlyOnce,
    /// Consumer groups.
    Groups,
    /// A copy for each node.
    EachNode,
    /// Order within partitions, through redeliveries.
    Ordered,
    /// A redelivery that waits at the broker and survives the consumer.
    DelayedNak,
    /// A release that does not count as a delivery.
    UncountedRelease,
    /// Messages survive a restart of the broker, as far as its own settings say.
    Persistent,
    /// Request and reply.
    Requests,
    /// Remembers what was handled, and with which response.
    Inbox,
    /// Knows its nodes.
    Nodes,
    /// Claim, response and ack are completed in one step.
    FusedCompletion,
    /// Dead letter and ack are one step.
    FusedDeadLetter,
    /// QoS 0 values travel without being encoded.
    TypedPayload,
}

impl Capability {
    /// All abilities.
    pub const ALL: &[Self] = &[
        Self::AtMostOnce,
        Self::AtLeastOnce,
        Self::ExactlyOnce,
        Self::Groups,
        Self::EachNode,
        Self::Ordered,
        Self::DelayedNak,
        Self::UncountedRelease,
        Self::Persistent,
        Self::Requests,
        Self::Inbox,
        Self::Nodes,
        Self::FusedCompletion,
        Self::FusedDeadLetter,
        Self::TypedPayload,
    ];

    const fn bit(self) -> u32 {
        1 << self as u8
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::AtMostOnce => "at_most_once",
            Self::AtLeastOnce => "at_least_once",
            Self::ExactlyOnce => "exactly_once",
            Self::Groups => "groups",
            Self::EachNode => "each_node",
            Self::Ordered => "ordered",
            Self::DelayedNak => "delayed_nak",
            Self::UncountedRelease => "uncounted_release",
            Self::Persistent => "persistent",
            Self::Requests => "requests",
            Self::Inbox => "inbox",
            Self::Nodes => "nodes",
            Self::FusedCompletion => "fused_completion",
            Self::FusedDeadLetter => "fused_dead_letter",
            Self::TypedPayload => "typed_payload",
        })
    }
}

/// The abilities and limits of a backend: none, until it says so.
///
/// # Examples
/// ```
/// use catga_core::{Capabilities, Capability};
///
/// let capabilities = Capabilities::none().with(Capability::Groups).with_max_payload_bytes(1024);
/// assert!(capabilities.has(Capability::Groups));
/// assert!(!capabilities.has(Capability::Ordered));
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    bits: u32,
    max_payload_bytes: Option<usize>,
}

impl Capabilities {
    /// No abilities.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            bits: 0,
            max_payload_bytes: None,
        }
    }

    /// Adds an ability.
    #[must_use]
    pub const fn with(mut self, capability: Capability) -> Self {
        self.bits |= capability.bit();
        self
    }

    /// Sets the most bytes that payload and headers of a message may have together, without what the backend adds.
    #[must_use]
    pub const fn with_max_payload_bytes(mut self, bytes: usize) -> Self {
        self.max_payload_bytes = Some(bytes);
        self
    }

    /// Whether the backend has an ability.
    #[must_use]
    pub const fn has(&self, capability: Capability) -> bool {
        self.bits & capability.bit() != 0
    }

    /// The most bytes that payload and headers of a message may have together.
    #[must_use]
    pub const fn max_payload_bytes(&self) -> Option<usize> {
        self.max_payload_bytes
    }

    /// The abilities, in the order of their declaration.
    pub fn iter(&self) -> impl Iterator<Item = Capability> {
        Capability::ALL
            .iter()
            .copied()
            .filter(|capability| self.has(*capability))
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(abilities: I) -> Self {
        abilities.into_iter().fold(Self::none(), Self::with)
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
