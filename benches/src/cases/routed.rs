//! `send` to one of three nodes, each with a connection of its own, beside the raw client's requests to one of three
//! responders.

use super::nats::request_to_one_of;
use super::ours::requests::{Price, SafePrice, send_to_one_of};
use super::redis::by_stream_to_one_of;
use super::work::RAW_PAYLOAD;
use crate::bench::{Bench, Measured};
use crate::case::{Bar, Case, Needs, Terms};

const NODES: usize = 3;
/// The part of the raw client's rate that is asked.
const ASKED: f64 = 0.85;

/// What differs between the brokers.
struct Broker {
    needs: Needs,
    /// What is guaranteed to a request by hand, and where it is kept.
    terms: Terms,
    once: Terms,
    /// Names of the cases: one in flight, then 64.
    raw: [&'static str; 2],
    ours: [&'static str; 2],
    ours_once: [&'static str; 2],
    does: &'static str,
    by_hand: [fn(Bench) -> Measured; 2],
}

fn ours(bench: Bench, window: usize) -> Measured {
    send_to_one_of::<Price>(bench, NODES, window, 100)
}

fn ours_once(bench: Bench, window: usize) -> Measured {
    send_to_one_of::<SafePrice>(bench, NODES, window, 100)
}

fn cases_over(broker: &Broker) -> Vec<Case> {
    const IN_FLIGHT: [&str; 2] = ["three nodes", "three nodes; 64 in flight"];
    const SEND: &str = "`send` to one of three nodes, in turn";
    type Runs = [fn(Bench) -> Measured; 2];
    const OURS: Runs = [|bench| ours(bench, 1), |bench| ours(bench, 64)];
    const ONCE: Runs = [|bench| ours_once(bench, 1), |bench| ours_once(bench, 64)];
    let case = |name, does, terms: Terms, settings, operations, run| {
        Case::new(name, does, operations, run)
            .terms(terms.settings(settings))
            .needs(broker.needs)
            .with_latency()
    };
    let mut cases = Vec::new();
    for (i, settings) in IN_FLIGHT.into_iter().enumerate() {
        let (many, fewer) = ([10_000, 100_000][i], [2_000, 20_000][i]);
        let (raw, routed) = (broker.raw[i], broker.ours[i]);
        cases.extend([
            case(
                raw,
                broker.does,
                broker.terms,
                settings,
                many,
                broker.by_hand[i],
            ),
            case(routed, SEND, broker.terms, settings, many, OURS[i])
                .against(raw)
                .asked(Bar::RatioAtLeast(ASKED)),
            // What idempotence costs is told, and has no bar.
            case(
                broker.ours_once[i],
                SEND,
                broker.once,
                settings,
                fewer,
                ONCE[i],
            )
            .against(routed),
        ]);
    }
    cases
}

pub fn cases() -> Vec<Case> {
    let nats = Broker {
        needs: Needs::Nats,
        terms: Terms::new("an answer, or none in time", "nowhere", "the answer")
            .payload(RAW_PAYLOAD),
        once: Terms::new(
            "at least once, run once",
            "claim and answer in a KV bucket on file",
            "the answer",
        )
        .payload(RAW_PAYLOAD),
        raw: ["routed/nats/alone", "routed/nats/64"],
        ours: ["routed/nats/ours-alone", "routed/nats/ours-64"],
        ours_once: ["routed/nats/ours-alone-once", "routed/nats/ours-64-once"],
        does: "`Client::request` to a queue group of three",
        by_hand: [
            |bench| request_to_one_of(bench, NODES, 1),
            |bench| request_to_one_of(bench, NODES, 64),
        ],
    };
    let redis = Broker {
        needs: Needs::Redis,
        terms: Terms::new("at least once", "the server's memory", "the answer")
            .payload(RAW_PAYLOAD),
        once: Terms::new(
            "at least once, run once",
            "the server's memory, claim and answer too",
            "the answer",
        )
        .payload(RAW_PAYLOAD),
        raw: ["routed/redis/alone", "routed/redis/64"],
        ours: ["routed/redis/ours-alone", "routed/redis/ours-64"],
        ours_once: ["routed/redis/ours-alone-once", "routed/redis/ours-64-once"],
        does: "XADD, and XREADGROUP in a group of three, answered by PUBLISH",
        by_hand: [
            |bench| by_stream_to_one_of(bench, NODES, 1),
            |bench| by_stream_to_one_of(bench, NODES, 64),
        ],
    };
    [nats, redis].iter().flat_map(cases_over).collect()
}
