//! Which of a hundred nodes a request goes to: the choice alone, one after the other, on one thread.

use std::hint::black_box;

use catga::__private::Picker;
use catga::routing::{ConsistentHash, LeastLoad, LocalFirst, Random, RoundRobin, RoutingStrategy};

use crate::bench::{Bench, Handled, Measured};
use crate::case::{Bar, Case, Terms};

const NODES: u32 = 100;

fn pick(bench: Bench, strategy: impl RoutingStrategy) -> Measured {
    let picker = Picker::new(NODES, strategy);
    // As long as a UUID.
    let keys: Vec<_> = (0..1024).map(|n| format!("{n:036}")).collect();
    let (mut count, mut sum) = (0, 0);
    let clock = bench.begin();
    for i in 0..bench.operations {
        let key = &keys[usize::try_from(i).expect("it fits") % keys.len()];
        black_box(picker.pick(black_box(key)));
        count += 1;
        sum += i;
    }
    clock.end(Handled { count, sum })
}

pub fn cases() -> Vec<Case> {
    const MANY: u64 = 5_000_000;
    const CHOICE: Terms = Terms::new("a choice", "nowhere", "nobody").payload("a key of 36 B");
    let case = |name, does, nanos, run| {
        let case = Case::new(name, does, MANY, run).terms(CHOICE);
        case.asked(Bar::NanosAtMost(nanos))
            .asked(Bar::AllocationsAtMost(0.0))
    };
    vec![
        case(
            "routing/round-robin",
            "pick out of 100: in turn",
            100.0,
            |bench| pick(bench, RoundRobin),
        ),
        case(
            "routing/least-load",
            "pick out of 100: the less loaded of two",
            100.0,
            |bench| pick(bench, LeastLoad),
        ),
        case("routing/random", "pick out of 100: any", 100.0, |bench| {
            pick(bench, Random)
        }),
        case(
            "routing/local-first",
            "pick out of 100: this node",
            100.0,
            |bench| pick(bench, LocalFirst),
        ),
        case(
            "routing/hash",
            "pick out of 100: by rendezvous hashing",
            300.0,
            |bench| pick(bench, ConsistentHash),
        ),
    ]
}
