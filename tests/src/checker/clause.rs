//! The rules by name.

use std::fmt;

/// An invariant of the conformance list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// Not of the list: the evidence contradicts itself, so that nothing can be said. A mistake in the harness.
    Evidence,
    /// Nothing invented.
    I1,
    /// QoS 0: at most once.
    I2,
    /// QoS 1: at least once.
    I3,
    /// QoS 2: effectively once.
    I4,
    /// Honest outcomes.
    I5,
    /// Ack after effect.
    I6,
    /// No stuck consumer.
    I7,
    /// Bounded redelivery.
    I8,
    /// Order.
    I9,
    /// Bounded memory.
    I10,
    /// Shutdown.
    I11,
    /// Requests.
    I12,
    /// Membership.
    I13,
    /// Isolation.
    I14,
    /// Hygiene.
    I15,
}

macro_rules! clauses {
    ($($invariant:ident { $($name:ident $rule:literal,)+ })+) => {
        /// One rule of an invariant.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Clause {
            $($(#[doc = concat!(stringify!($invariant), ": ", $rule, ".")] $name,)+)+
        }

        impl Clause {
            /// All of them.
            pub const ALL: &[Self] = &[$($(Self::$name,)+)+];

            /// Which invariant it is a part of.
            #[must_use]
            pub fn invariant(self) -> Invariant {
                match self {
                    $($(Self::$name)|+ => Invariant::$invariant,)+
                }
            }

            /// What it says.
            #[must_use]
            pub fn rule(self) -> &'static str {
                match self {
                    $($(Self::$name => $rule,)+)+
                }
            }
        }
    };
}

clauses! {
    Evidence {
        Consistent "the evidence does not contradict itself",
    }
    I1 {
        Invented "only what was published is handled or dead-lettered",
        Altered "payload, headers and id arrive as they were published",
    }
    I2 {
        HandledTwice "at QoS 0 a subscriber gets a message at most once",
        Missed "at QoS 0 a subscriber that keeps up on a healthy link gets all",
    }
    I3 {
        Lost "nothing that was published is lost",
    }
    I4 {
        CompletedTwice "a message completes at most once",
        Overlap "two runs overlap only after the first lost its lease",
        EffectTwice "a keyed or committed effect happens at most once",
        PlainEffects "a plain effect happens at most once, and once more for each cut between effect and completion",
        NotTold "a run after one that was cut short is told that it may have run",
        Unsettled "a published message completes or is dead-lettered",
        Both "no message both completes and is dead-lettered",
    }
    I5 {
        RejectedHandled "what was rejected is never handled",
        PublishOverdue "a publish returns by its deadline",
    }
    I6 {
        AckedWithoutEffect "what is acked at the server has its effect",
        NotBack "what was not acked when its consumer was killed comes back",
    }
    I7 {
        Stuck "after faults a group is drained",
        RestartedByHand "no process is restarted by hand",
    }
    I8 {
        TooManyDeliveries "a message is delivered at most `max_deliver` times, and once more for each crash of its consumer",
        NotDeadLettered "after the last attempt a message is dead-lettered",
        HandledDead "a dead letter is never handled again",
        TooManyAgain "of what a process had handled before it was killed no more comes again than is said",
    }
    I9 {
        OutOfOrder "first deliveries are in the order of publishing",
    }
    I10 {
        OverLimit "counts stay within their limits",
        TooManyRuns "no more handlers run at once than their limit",
        MemoryGrows "memory is flat over the second half",
    }
    I11 {
        RunsAfterShutdown "no handler runs after shutdown returned",
        FinishedNotAcked "what finished before shutdown returned is acked",
        UnfinishedNotBack "what shutdown left unfinished is redelivered",
        ShutdownOverdue "shutdown returns by its deadline",
        ShutdownMiscounts "shutdown reports what it finished and what not",
    }
    I12 {
        ResolvedTwice "a request resolves once",
        RequestOverdue "a request resolves by its deadline",
        ForeignReply "a request gets its own reply",
        RequestEffectTwice "an idempotency key has at most one effect",
    }
    I13 {
        NotListed "a live node is listed within two heartbeats",
        GoneAlive "a live node stays listed",
        NotGone "a dead node is gone within the time-out and one sweep",
        CameBack "no gone node comes back without a new registration",
        TwoOwners "a node id has one owner",
    }
    I14 {
        HeldUp "the trouble of one holds up nobody else",
    }
    I15 {
        Secret "no credential is in what people read",
        BadName "no unvalidated name reaches the wire",
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.invariant(), self.rule())
    }
}
