//! `POST /orders` under wrk: the example `cluster`, and axum with the same calls of the broker by hand; one node and three.

mod load;
mod nodes;

use std::time::Duration;

use self::nodes::{Nodes, Side};
use crate::bench::{Bench, Measured};
use crate::case::{Bar, Case, Needs, Terms};
use crate::figure::Figure;
use crate::running::Running;

/// The part of the rate by hand that is asked.
const ASKED: f64 = 0.85;

/// What is served.
#[derive(Clone, Copy, PartialEq, Eq)]
struct What {
    side: Side,
    nodes: usize,
    needs: Needs,
    /// No event, no claim: the request alone.
    one_request: bool,
}

fn run(mut bench: Bench, what: What) -> Measured {
    let running = Running::start(what.needs).expect("the server starts");
    bench.server = running.as_ref().and_then(Running::pid);
    let url = running
        .as_ref()
        .map_or("memory://".to_owned(), Running::url);
    let nodes = Nodes::start(what, &url);
    let before = load::post_one(nodes.address());
    // The first second fills caches and pools.
    let warmed = load::wrk(nodes.address(), Duration::from_secs(1));
    let clock = bench.begin_with(nodes.pids());
    let length = Duration::from_millis(bench.operations);
    let posted = load::wrk(nodes.address(), length);
    let mut measured = clock.stop();
    posted.check();
    if !what.one_request {
        let orders = before + warmed.requests + posted.requests;
        nodes.check_stored(running.as_ref(), orders);
    }
    let cores = crate::machine::cores() as f64;
    let wrk_share = posted.cpu.as_secs_f64() / (measured.wall.as_secs_f64() * cores);
    // It is no stranger.
    measured.others = (measured.others - wrk_share).max(0.0);
    measured.operations = posted.requests;
    measured.wall = posted.took;
    let each = posted.cpu / u32::try_from(posted.requests).expect("not so many");
    measured.latency = Some(posted.latency);
    measured.figures.extend([
        Figure::number("answers that are no 2xx", posted.refused as f64),
        Figure::number("broken connections", posted.broken as f64),
        Figure::time("CPU of wrk", each),
    ]);
    measured
}

struct Broker {
    name: &'static str,
    stored: &'static str,
}

/// A name that lives as long as the program, which a case has.
fn named(parts: [&str; 3]) -> &'static str {
    let [broker, nodes, side] = parts;
    Box::leak(format!("http/{broker}/{nodes}/{side}").into_boxed_str())
}

const SETTINGS: [&str; 2] = [
    "wrk -t2 -c100 on the same cores; one node; no line for an order on either side",
    "wrk -t2 -c100 on the same cores, all to node1; three nodes, in turn; no line for an order on either side",
];

macro_rules! runs {
    ($needs:ident) => {
        [
            [run_of!($needs, 1, ByHand), run_of!($needs, 1, Ours)],
            [run_of!($needs, 3, ByHand), run_of!($needs, 3, Ours)],
        ]
    };
}

macro_rules! run_of {
    ($needs:ident, $nodes:literal, $side:ident $(, $one:literal)?) => {
        |bench| {
            let one_request = [false $(, $one)?].contains(&true);
            run(bench, What { side: Side::$side, nodes: $nodes, needs: Needs::$needs, one_request })
        }
    };
}

pub fn cases() -> Vec<Case> {
    type Runs = [[fn(Bench) -> Measured; 2]; 2];
    let brokers: [(Broker, Runs); 3] = [
        (
            Broker {
                name: "memory",
                stored: "the process",
            },
            runs!(Nothing),
        ),
        (
            Broker {
                name: "nats",
                stored: "file, 1 replica",
            },
            runs!(Nats),
        ),
        (
            Broker {
                name: "redis",
                stored: "the server's memory",
            },
            runs!(Redis),
        ),
    ];
    let mut cases = Vec::new();
    for (broker, runs) in &brokers {
        for (count, (name, settings)) in ["one", "three"].into_iter().zip(SETTINGS).enumerate() {
            let hand = named([broker.name, name, "by-hand"]);
            let ours = named([broker.name, name, "ours"]);
            let [by_hand, example] = runs[count];
            let terms = ORDER.kept(broker.stored).settings(settings);
            cases.push(case(
                hand,
                "axum, and the same calls by hand",
                terms,
                by_hand,
            ));
            cases.push(
                case(ours, "the example `cluster`", terms, example)
                    .against(hand)
                    .asked(Bar::RatioAtLeast(ASKED)),
            );
        }
    }
    // For information: a handler that does nothing but send a request.
    let alone = |name, does, run| {
        let terms = Terms::new("an answer, or none in time", "nowhere", "the answer");
        case(
            name,
            does,
            terms.payload(PAYLOAD).settings(SETTINGS[1]),
            run,
        )
    };
    cases.extend([
        alone(
            "http/nats/one-request/by-hand",
            "axum, and one request by hand",
            run_of!(Nats, 3, ByHand, true),
        ),
        alone(
            "http/nats/one-request/ours",
            "axum, and one `send`",
            run_of!(Nats, 3, Ours, true),
        )
        .against("http/nats/one-request/by-hand"),
        alone(
            "http/redis/one-request/by-hand",
            "axum, and one request by hand",
            run_of!(Redis, 3, ByHand, true),
        ),
        alone(
            "http/redis/one-request/ours",
            "axum, and one `send`",
            run_of!(Redis, 3, Ours, true),
        )
        .against("http/redis/one-request/by-hand"),
    ]);
    cases
}

const PAYLOAD: &str = "an order of 33 B as JSON";
const ORDER: Terms = Terms::new(
    "an order made once; an event that may be lost, one at least once, each to all nodes",
    "",
    "each event by each node, after its handler",
)
.payload(PAYLOAD);

fn case(name: &'static str, does: &'static str, terms: Terms, run: fn(Bench) -> Measured) -> Case {
    // Milliseconds of the load.
    Case::new(name, does, 10_000, run)
        .terms(terms)
        .without_allocations()
}
