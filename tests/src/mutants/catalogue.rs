//! The bugs, and the scenarios that catch each.

use std::fmt;

use catga_core::Capability;

use crate::subject::Subject;

macro_rules! mutants {
    ($($(#[doc = $bug:literal])* $mutant:ident: [$($scenario:literal),* $(,)?],)*) => {
        /// One bug, planted around a backend.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Mutant {
            $($(#[doc = $bug])* $mutant,)*
        }

        impl Mutant {
            /// All bugs.
            pub const ALL: &[Self] = &[$(Self::$mutant),*];

            /// The scenarios that have to fail on it.
            #[must_use]
            pub const fn caught_by(self) -> &'static [&'static str] {
                match self {
                    $(Self::$mutant => &[$($scenario),*],)*
                }
            }

            /// What it does wrong.
            #[must_use]
            pub fn bug(self) -> &'static str {
                match self {
                    $(Self::$mutant => concat!($($bug),*).trim(),)*
                }
            }

            const fn identifier(self) -> &'static str {
                match self {
                    $(Self::$mutant => stringify!($mutant),)*
                }
            }
        }
    };
}

/// What the inbox decides, where the backend does not claim what it hands out.
const IN_THE_INBOX: &[&str] = &[
    "exactly_once::two_copies_at_one_moment",
    "chaos::exactly_once",
];

mutants! {
    /// Every 100th message that is published is dropped, and the publish is Ok.
    DropsOneInAHundred: ["delivery::churn",
        "delivery::members_share",
        "control::concurrency_under_load",
        "back_pressure::one_stuck_of_ten",
        "chaos::at_least_once", "crashes::rolling_restart",
        "server_outage::restarts_under_load",
        "server_failover::the_primary_steps_down",
    ],
    /// The last message of a batch is dropped, and reported as Ok.
    DropsTheLastOfABatch: [
        "limits::one_of_many_too_large",
    ],
    /// Every second message is stored after the one that is published next.
    SwapsNeighbours: [
        "ordering::one_member",
        "hostile_keys::keys_are_only_keys",
        "server_outage::order_across_cuts",
        "server_outage::order_across_cuts_at_most_once",
    ],
    /// Nobody minds what is to be handled in order.
    IgnoresTheOrder: [
        "ordering::by_key",
    ],
    /// A publish that failed is reported as Ok.
    SwallowsPublishErrors: [
        "limits::payload_over_the_limit",
        "back_pressure::full_queue",
        "server_publishing::nobody_keeps_it",
        "server_publishing::the_answer_is_cut_off",
        "server_publishing::a_full_stream_rejects",
        "server_publishing::a_full_server_rejects",
        "server_publishing::an_outage",
        "server_resources::a_stream_that_is_deleted",
        "server_room::memory_is_full",
        "server_room::memory_is_full_exactly_once",
    ],
    /// Messages are published without their headers.
    ForgetsHeaders: [
        "round_trip::at_least_once",
    ],
    /// Messages are published without their version.
    ForgetsVersions: [
        "versions::older_versions_are_read_as_what_they_were",
        "versions::newer_versions_are_given_up",
    ],
    /// Each publish has another id, whatever its message says.
    PublishesUnderNewIds: [
        "exactly_once::an_id_is_forgotten_after_its_retention",
        "exactly_once::one_id_published_many_times",
        "exactly_once::one_id_with_two_bodies",
        "exactly_once::a_copy_after_the_window",
        "exactly_once_faults::a_publisher_that_dies",
        "crashes::a_publisher_that_dies_publishes_again",
        "round_trip::at_least_once",
    ],
    /// One bit of a payload is another one when it arrives.
    FlipsABit: [
        "raw_payloads::events",
        "round_trip::at_least_once",
        "round_trip::bytes",
    ],
    /// Every tenth message goes to those who want the one that was published first.
    ConfusesNames: [
        "delivery::types_are_apart",
        "names::names_that_are_alike_stay_apart",
    ],
    /// A new group begins with the next message, whatever it asks for.
    StartsAtNow: [
        "delivery::subscribe_before_and_after_stored",
        "dead_letters::no_handler",
    ],
    /// A member is handed as many messages as there are, whatever it asks for.
    BuffersWithoutBound: [
        "back_pressure::in_flight_limit",
    ],
    /// Messages are acked when they are handed out.
    AcksBeforeTheHandler: ["redelivery::handler_panic",
        "redelivery::hung_handler",
        "limits::prefetch_abandoned",
        "lifecycle::drain_deadline",
        "lifecycle::drop_without_shutdown",
        "inbox_faults::out_of_reach",
        "chaos::at_least_once", "crashes::killed_before_the_effect", "crashes::a_live_member_takes_over", "crashes::its_own_backlog_after_a_restart",
        "server_outage::acks_are_lost",
    ],
    /// At QoS 2 the completion is recorded when a message is handed out, before its effect.
    CompletesBeforeTheEffect: [
        "exactly_once::a_failure_frees_the_claim",
        "exactly_once::two_copies_of_which_the_first_fails",
    ],
    /// Each message is handed out twice.
    HandsOutTwice: ["delivery::fan_out_and_groups",
        "delivery::members_share",
        "exactly_once::two_copies_at_one_moment",
        "lifecycle::drain",
        "cancel::publish",
        "chaos::exactly_once", "delivery::fan_out_and_groups_stored",
        "server_outage::restarts_at_most_once",
    ],
    /// How often a message was delivered is not told.
    ForgetsTheCount: ["dead_letters::always_failing", "crashes::killed_after_the_effect"],
    /// A member that leaves gives nothing back.
    LeavesWithoutAWord: ["requests::shutdown_while_it_runs", "windows::while_receiving",
        "server_resources::subscriptions_leave_nothing",
        "server_resources::subscriptions_leave_nothing_at_most_once",
    ],
    /// What was dropped or suppressed is not counted.
    CountsNothing: [
        "back_pressure::slow_subscriber_at_most_once",
        "lifecycle::what_is_left_at_most_once_is_counted",
        "server_room::trimmed_while_pending",
    ],
    /// An ack gets lost, and the backend says that it was taken.
    LosesAcks: ["redelivery::slow_handler"],
    /// A nak with a delay is one without.
    NaksWithoutDelay: [
        "redelivery::handler_error",
    ],
    /// A nak is an ack.
    AcksWhateverFails: [
        "redelivery::handler_error",
        "dead_letters::always_failing",
    ],
    /// What is given back unfinished counts as a failure.
    CountsReleases: ["lifecycle::drain_gives_back_what_was_fetched"],
    /// What is given up is dropped, and no dead letter.
    LosesDeadLetters: [
        "dead_letters::always_failing",
        "dead_letters::malformed_payload",
        "inbox::full_dead_letters_at_least_once",
        "versions::deep_nesting",
    ],
    /// The lease of a long handler is not renewed, and the backend says that it was.
    NeverExtends: [
        "redelivery::slow_handler",
    ],
    /// A lease that was lost is reported as held.
    IgnoresLostOwnership: [
        "redelivery::a_lease_that_ran_out_is_another_members",
        "exactly_once_faults::a_zombie_that_succeeds",
    ],
    /// The inbox grants every claim.
    GrantsEveryClaim: [
        "idempotency::a_response_is_kept",
        "exactly_once::two_copies_at_one_moment",
    ],
    /// The inbox takes a claim that failed for one that was completed.
    KeepsFailedClaims: [
        "idempotency::a_duplicate_runs_when_the_first_failed",
    ],
    /// A redrive does nothing, and says Ok.
    RedrivesNothing: [
        "redrive_once::redriven",
        "redrive::all_of_them",
    ],
    /// Callers get the answer that came first, whoever asked for it.
    ConfusesReplies: [
        "requests::own_reply_for_each",
        "deadlines::a_late_reply_is_dropped",
    ],
    /// A request that nobody answers is reported when its time is over.
    WaitsForNobody: [
        "balance::all_of_them_down",
        "balance::broadcast_to_one_that_is_dead",
        "request_failures::server_goes_away",
    ],
    /// A request to a node goes to any node of its service.
    AsksAnybody: [
        "requests::send_to_a_named_node",
    ],
    /// The node that answers does not know how long its caller waits.
    ForgetsTheTimeLeft: [
        "deadlines::the_time_left_is_passed_on",
        "request_failures::expired_is_not_begun",
    ],
    /// A node that leaves stays listed.
    NeverUnregisters: [
        "membership::join_update_leave",
        "requests::shutdown_while_it_runs",
    ],
    /// A connection that is closed stays open.
    StaysOpen: ["lifecycle::shutdown_twice",
        "server_outage::shutdown_while_it_is_down_at_most_once",
    ],
    /// Who was there before is not told to those who come.
    ForgetsWhoWasThere: [
        "membership::join_update_leave",
        "membership::a_late_joiner_sees_everybody",
        "membership::a_late_joiner_asks",
        "membership::watches_begin_while_nodes_come_and_go",
    ],
    /// Whoever closes a connection is not told of what could not be sent.
    HidesTheUnflushed: [
        "server_outage::shutdown_while_it_is_down",
        "server_outage::shutdown_while_it_is_down_at_most_once",
    ],
    /// A publish is Ok before the message is stored.
    AnswersBeforeItIsStored: [
        "server_publishing::ok_means_stored",
        "server_publishing::ok_means_stored_exactly_once",
        "server_publishing::a_full_disk_rejects",
    ],
    /// A publish of which nobody knows the outcome is reported as rejected.
    CallsTheUnknownRejected: [
        "server_publishing::the_answer_is_cut_off",
        "server_publishing::the_answer_is_cut_off_exactly_once",
    ],
    /// A start without a server waits for one, and says nothing.
    WaitsForAServer: [
        "server_outage::a_cold_start",
    ],
    /// Whoever joins with other settings gets those of the first.
    KeepsOldSettings: [
        "server_resources::another_ack_wait_is_used",
    ],
    /// After a reconnect, what waits is skipped.
    SkipsToNow: [
        "server_resources::a_group_that_is_deleted",
        "server_resources::a_stream_that_is_deleted",
        "server_resources::data_that_is_wiped",
    ],
    /// A connection is made without TLS, whatever is asked for.
    ForgetsTls: [
        "server_access::a_plain_server",
    ],
    /// The password that stood in its file at the start is used for ever.
    RemembersThePassword: [
        "server_access::another_password",
    ],
    /// A connect that fails says by which password.
    ShowsThePassword: [
        "server_access::secrets_are_nowhere",
    ],
    /// A watcher that was too slow is not told.
    HidesLag: [
        "back_pressure::unread_watch",
    ],
    /// Watchers are not told who leaves.
    ForgetsWhoLeft: [
        "membership::join_update_leave",
        "membership::every_connection_is_told_once",
        "membership::watches_begin_while_nodes_come_and_go",
        "node_timeouts::who_falls_silent_leaves",
        "member_processes::killed",
    ],
    /// Watchers are not told who changes.
    HidesChanges: [
        "membership::join_update_leave",
        "membership::every_connection_is_told_once",
        "membership::small_changes_of_load_are_not_told",
        "odd_nodes::they_disturb_nobody",
    ],
    /// Watchers are told twice who joins.
    TellsJoinsTwice: [
        "membership::no_gap_between_snapshot_and_changes",
        "membership::every_connection_is_told_once",
        "membership::a_next_that_is_dropped_loses_nothing",
    ],
    /// Who joins first after the snapshot of a watch is not told.
    LosesAJoinAfterTheSnapshot: [
        "membership::join_update_leave",
        "membership::watches_begin_while_nodes_come_and_go",
        "membership::a_next_that_is_dropped_loses_nothing",
    ],
    /// A watch says nothing more after some events.
    WatchEndsSilently: [
        "membership::join_update_leave",
        "server_registry::an_unread_watch_across_a_restart",
    ],
    /// Who drops the next event of a watch at the wrong moment loses it.
    DropsWhatItReads: [
        "membership::a_next_that_is_dropped_loses_nothing",
    ],
    /// A node that falls silent stays.
    NeverSweeps: [
        "node_timeouts::who_falls_silent_leaves",
        "node_timeouts::clocks_that_are_an_hour_off",
    ],
    /// A node that was given up is not told.
    HidesWhoWasGivenUp: [
        "node_timeouts::who_was_given_up_comes_back",
    ],
    /// A heartbeat brings back a node that was given up.
    BringsBackTheDead: [
        "node_timeouts::who_was_given_up_comes_back",
    ],
    /// Whether a node lives is judged by its own clock.
    TrustsThePeersClock: [
        "node_timeouts::clocks_that_are_an_hour_off",
    ],
    /// A second node with the id of one that lives is let in.
    AdmitsDoubles: [
        "node_ids::a_live_double_is_refused",
        "node_ids::an_old_incarnation_is_powerless",
    ],
    /// A node that lost its id is not told.
    LetsTheOldIncarnationBeat: [
        "node_ids::a_live_double_is_refused",
        "node_ids::an_old_incarnation_is_powerless",
    ],
    /// A node that leaves takes out whoever has its id.
    LetsTheOldIncarnationLeave: [
        "node_ids::a_live_double_is_refused",
        "node_ids::an_old_incarnation_is_powerless",
    ],
    /// One entry that is odd, and nobody is listed.
    ChokesOnOddEntries: [
        "odd_nodes::they_disturb_nobody",
    ],
    /// Whoever joins is looked for at its endpoint.
    DialsEndpoints: [
        "odd_nodes::endpoints_are_never_dialled",
    ],
    /// After one failure a node says no more that it lives.
    GivesUpAfterAFailure: [
        "node_timeouts::heartbeats_around_the_timeout",
        "server_registry::the_server_is_away",
    ],
    /// A connection listens for others.
    OpensADoor: [
        "member_processes::no_door_is_open",
    ],
    /// Each try of a request has another id.
    RequestsUnderNewIds: [
        "idempotency::a_lost_reply_is_sent_again",
        "member_processes::killed_with_requests_in_flight",
    ],
}

impl Mutant {
    /// Whether a scenario can feel it on a backend.
    pub(crate) fn is_felt(self, scenario: &str, subject: &Subject) -> bool {
        let (claimed, claims) = (subject.capabilities(), subject.hands_out_claimed());
        match self {
            Self::CountsReleases => claimed.has(Capability::UncountedRelease),
            _ if self.is_about_nodes() => claimed.has(Capability::Nodes),
            // The second one's claim is not granted.
            Self::HandsOutTwice => claims || !IN_THE_INBOX.contains(&scenario),
            Self::GrantsEveryClaim => !claims || !IN_THE_INBOX.contains(&scenario),
            _ => true,
        }
    }

    const fn is_about_nodes(self) -> bool {
        matches!(
            self,
            Self::NeverUnregisters
                | Self::ForgetsWhoWasThere
                | Self::HidesLag
                | Self::ForgetsWhoLeft
                | Self::HidesChanges
                | Self::TellsJoinsTwice
                | Self::LosesAJoinAfterTheSnapshot
                | Self::WatchEndsSilently
                | Self::DropsWhatItReads
                | Self::NeverSweeps
                | Self::HidesWhoWasGivenUp
                | Self::BringsBackTheDead
                | Self::TrustsThePeersClock
                | Self::AdmitsDoubles
                | Self::LetsTheOldIncarnationBeat
                | Self::LetsTheOldIncarnationLeave
                | Self::ChokesOnOddEntries
                | Self::DialsEndpoints
                | Self::GivesUpAfterAFailure
        )
    }

    pub(super) const fn is_about_publishing(self) -> bool {
        matches!(
            self,
            Self::DropsOneInAHundred
                | Self::ForgetsHeaders
                | Self::ForgetsVersions
                | Self::PublishesUnderNewIds
                | Self::FlipsABit
                | Self::ConfusesNames
        )
    }
}

impl fmt::Display for Mutant {
    /// In words: `acks_before_the_handler`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, letter) in self.identifier().char_indices() {
            if letter.is_ascii_uppercase() && i > 0 {
                f.write_str("_")?;
            }
            write!(f, "{}", letter.to_ascii_lowercase())?;
        }
        Ok(())
    }
}
