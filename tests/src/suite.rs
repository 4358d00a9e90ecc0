//! The scenarios, a file per behaviour.

mod acks;
mod attempts;
mod back_pressure;
mod balance;
mod breaker;
mod cancel;
mod chaos;
mod commit;
mod commit_checks;
mod commit_faults;
mod control;
mod crashes;
mod dead_letters;
mod deadlines;
mod delivery;
mod derived_ids;
mod derived_keys;
mod derived_requests;
mod exactly_once;
mod exactly_once_faults;
mod hostile;
mod hostile_keys;
mod idempotency;
mod inbox;
mod inbox_faults;
mod layer_faults;
mod layer_replies;
mod layers;
mod lifecycle;
mod limits;
mod lost_answers;
mod member_processes;
mod membership;
mod names;
mod node_ids;
mod node_timeouts;
mod odd_nodes;
mod ordering;
mod places;
mod raw_payloads;
mod redelivery;
mod redrive;
mod redrive_once;
mod request_failures;
mod requests;
mod retried_requests;
mod round_trip;
mod server_access;
mod server_chaos;
mod server_cluster;
mod server_failover;
mod server_outage;
mod server_permissions;
mod server_publishing;
mod server_registry;
mod server_resources;
mod server_room;
mod standstill;
mod start;
mod store_windows;
mod versions;
mod windows;

use crate::harness::Scenario;

/// All scenarios, by behaviour.
#[must_use]
pub fn suite() -> Vec<Scenario> {
    [
        start::SCENARIOS,
        round_trip::SCENARIOS,
        raw_payloads::SCENARIOS,
        delivery::SCENARIOS,
        redelivery::SCENARIOS,
        dead_letters::SCENARIOS,
        back_pressure::SCENARIOS,
        requests::SCENARIOS,
        request_failures::SCENARIOS,
        lifecycle::SCENARIOS,
        hostile::SCENARIOS,
        hostile_keys::SCENARIOS,
        cancel::SCENARIOS,
        chaos::SCENARIOS,
        redrive::SCENARIOS,
        redrive_once::SCENARIOS,
        inbox::SCENARIOS,
        inbox_faults::SCENARIOS,
        exactly_once_faults::SCENARIOS,
        exactly_once::SCENARIOS,
        derived_ids::SCENARIOS,
        derived_requests::SCENARIOS,
        commit::SCENARIOS,
        commit_checks::SCENARIOS,
        breaker::SCENARIOS,
        control::SCENARIOS,
        crashes::SCENARIOS,
        deadlines::SCENARIOS,
        idempotency::SCENARIOS,
        layer_faults::SCENARIOS,
        layers::SCENARIOS,
        limits::SCENARIOS,
        membership::SCENARIOS,
        names::SCENARIOS,
        ordering::SCENARIOS,
        store_windows::SCENARIOS,
        versions::SCENARIOS,
        windows::SCENARIOS,
        attempts::SCENARIOS,
        commit_faults::SCENARIOS,
        derived_keys::SCENARIOS,
        layer_replies::SCENARIOS,
        lost_answers::SCENARIOS,
        places::SCENARIOS,
        retried_requests::SCENARIOS,
        node_ids::SCENARIOS,
        node_timeouts::SCENARIOS,
        odd_nodes::SCENARIOS,
        balance::SCENARIOS,
        member_processes::SCENARIOS,
        server_access::SCENARIOS,
        server_chaos::SCENARIOS,
        server_cluster::SCENARIOS,
        server_failover::SCENARIOS,
        server_outage::SCENARIOS,
        server_permissions::SCENARIOS,
        server_publishing::SCENARIOS,
        server_registry::SCENARIOS,
        server_resources::SCENARIOS,
        server_room::SCENARIOS,
        acks::SCENARIOS,
        standstill::SCENARIOS,
    ]
    .concat()
}
