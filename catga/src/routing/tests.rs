use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use catga_core::{Load, Name, NodeId, NodeInfo};

use super::*;
use crate::members::Member;
use crate::peer::Peer;

fn members(count: usize, load: impl Fn(usize) -> u8) -> Vec<Arc<Member>> {
    let member = |n: usize| {
        let id = NodeId::token(format!("node-{n:03}")).unwrap();
        let mut info = NodeInfo::new(id, Name::from_static("shop"));
        info.load = Load::percent(load(n));
        Arc::new(Member {
            place: place_of(info.id.as_str()),
            info,
            peer: Arc::<Peer>::default(),
        })
    };
    (0..count).map(member).collect()
}

/// Asks a strategy so often, and counts what it picks.
fn shares(
    strategy: &dyn RoutingStrategy,
    members: &[Arc<Member>],
    turns: &AtomicUsize,
    local: Option<usize>,
    times: usize,
) -> BTreeMap<usize, usize> {
    let places: Vec<_> = members.iter().map(|member| member.place).collect();
    let mut shares = BTreeMap::new();
    for _ in 0..times {
        let candidates = Candidates {
            members,
            places: &places,
            local,
            entry: None,
            turns: Some(turns),
            request: "Quote",
            key: Some("tea"),
        };
        *shares.entry(strategy.pick(&candidates)).or_default() += 1;
    }
    shares
}

#[test]
fn turns_are_exact_wherever_the_counter_stands() {
    for count in [1, 2, 3, 7, 100] {
        let members = members(count, |_| 0);
        for begin in [0, 1, count, usize::MAX - 5, usize::MAX] {
            let turns = AtomicUsize::new(begin);
            for round in 0..5 {
                let shares = shares(&RoundRobin, &members, &turns, None, count);
                let each_once = (0..count).map(|i| (i, 1)).collect();
                assert_eq!(shares, each_once, "round {round} of {count} from {begin}");
            }
        }
    }
}

#[test]
fn turns_that_are_taken_at_once_are_each_taken_once() {
    let turns = AtomicUsize::new(usize::MAX - 5);
    let members = members(3, |_| 0);
    let taken: Vec<_> = std::thread::scope(|scope| {
        let taking = || shares(&RoundRobin, &members, &turns, None, 3_000);
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(taking)).collect();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap());
        joined.collect()
    });
    for index in 0..3 {
        let share: usize = taken.iter().map(|shares| shares[&index]).sum();
        assert_eq!(share, 4_000);
    }
}

#[test]
fn a_lower_count_goes_on_with_turns_that_are_valid() {
    let turns = AtomicUsize::new(0);
    shares(&RoundRobin, &members(100, |_| 0), &turns, None, 57);
    let few = shares(&RoundRobin, &members(3, |_| 0), &turns, None, 30);
    assert_eq!(few, BTreeMap::from([(0, 10), (1, 10), (2, 10)]));
}

#[test]
fn random_spreads() {
    let shares = shares(
        &Random,
        &members(10, |_| 0),
        &AtomicUsize::new(0),
        None,
        10_000,
    );
    assert!(
        shares.values().all(|share| (800..1_200).contains(share)) && shares.len() == 10,
        "{shares:?}"
    );
}

#[test]
fn the_busiest_is_not_asked_and_the_idle_most() {
    let members = members(3, |n| [10, 50, 90][n]);
    let shares = shares(&LeastLoad, &members, &AtomicUsize::new(0), None, 3_000);
    assert_eq!(shares.get(&2), None, "{shares:?}");
    assert!((1_800..2_200).contains(&shares[&0]), "{shares:?}");
}

#[test]
fn what_waits_for_a_node_counts_before_the_registry_hears_of_it() {
    let members = members(2, |_| 0);
    let _waiting: Vec<_> = (0..3).map(|_| members[0].peer.wait_for()).collect();
    let shares = shares(&LeastLoad, &members, &AtomicUsize::new(0), None, 100);
    assert_eq!(shares, BTreeMap::from([(1, 100)]));
}

#[test]
fn equally_busy_nodes_share() {
    let shares = shares(
        &LeastLoad,
        &members(5, |_| 30),
        &AtomicUsize::new(0),
        None,
        5_000,
    );
    assert!(
        shares.values().all(|share| (800..1_200).contains(share)) && shares.len() == 5,
        "{shares:?}"
    );
    let one = self::shares(
        &LeastLoad,
        &members(1, |_| 30),
        &AtomicUsize::new(0),
        None,
        5,
    );
    assert_eq!(one, BTreeMap::from([(0, 5)]));
}

#[test]
fn local_first_stays_where_it_can() {
    let (members, turns) = (members(3, |_| 0), AtomicUsize::new(0));
    let here = shares(&LocalFirst, &members, &turns, Some(1), 9);
    assert_eq!(here, BTreeMap::from([(1, 9)]));
    let elsewhere = shares(&LocalFirst, &members, &turns, None, 9);
    assert_eq!(elsewhere, BTreeMap::from([(0, 3), (1, 3), (2, 3)]));
}

#[test]
fn one_key_goes_to_one_node() {
    let shares = shares(
        &ConsistentHash,
        &members(100, |_| 0),
        &AtomicUsize::new(0),
        None,
        50,
    );
    assert_eq!(shares.len(), 1);
}
