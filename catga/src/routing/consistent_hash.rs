use xxhash_rust::xxh3::xxh3_64;

use super::{Candidates, RoutingStrategy};

/// Requests of one key go to one node, for as long as it is there: the key is the field that `#[route_by(..)]` names.
///
/// For nodes that hold something for a key: a cache, an open file, a connection. It is no promise that nobody else has the key: while
/// nodes come and go, and after a failure, two nodes get requests of one key.
///
/// Each node is given a number for each key, and the highest has it ([rendezvous hashing][hrw]): when a node leaves, only the keys that
/// it had move, each to another of the rest; when one joins, only those that it gets. The number is made of [XXH3] (64 bits,
/// without a seed) of the key and of the node's id, mixed as [SplitMix64] does: the same in each process, on each platform and
/// in each version of Rust and of this crate.
///
/// [hrw]: https://en.wikipedia.org/wiki/Rendezvous_hashing
/// [XXH3]: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
/// [SplitMix64]: https://prng.di.unimi.it/splitmix64.c
#[derive(Clone, Copy, Debug, Default)]
pub struct ConsistentHash;

impl RoutingStrategy for ConsistentHash {
    fn pick(&self, candidates: &Candidates<'_>) -> usize {
        let key = place_of(candidates.key().unwrap_or_default());
        highest(key, candidates.places)
    }

    fn needs_key(&self) -> bool {
        true
    }
}

/// What is known of a key or a node's id before they meet.
pub(crate) fn place_of(text: &str) -> u64 {
    xxh3_64(text.as_bytes())
}

/// Who has a key: the first of those with the highest number.
fn highest(key: u64, places: &[u64]) -> usize {
    let (mut index, mut most) = (0, 0);
    for (i, place) in places.iter().enumerate() {
        let number = mix(key ^ place);
        if number > most {
            (index, most) = (i, number);
        }
    }
    index
}

/// The finishing mix of `SplitMix64`: each bit of the sum changes half of the bits.
const fn mix(sum: u64) -> u64 {
    let sum = sum.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let sum = (sum ^ (sum >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let sum = (sum ^ (sum >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    sum ^ (sum >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};
    use proptest::test_runner::{Config, FileFailurePersistence};

    use super::{highest, place_of};

    fn places(nodes: &[String]) -> Vec<u64> {
        nodes.iter().map(|node| place_of(node)).collect()
    }

    fn key(number: u64) -> u64 {
        place_of(&format!("order-{number}"))
    }

    /// Another hash, seed or mix would send every key of a running cluster elsewhere during an upgrade.
    #[test]
    fn who_has_a_key_never_changes() {
        let nodes: Vec<_> = (1..=5).map(|n| format!("node{n}")).collect();
        assert_eq!(place_of(""), 0x2d06_8005_38d3_94c2, "XXH3 of nothing");
        let places = places(&nodes);
        let owners: Vec<_> = (0..16).map(|n| highest(key(n), &places)).collect();
        assert_eq!(owners, PINNED);
    }

    const PINNED: [usize; 16] = [2, 3, 4, 3, 2, 4, 4, 4, 0, 2, 0, 0, 0, 2, 3, 3];

    #[test]
    fn keys_are_spread_over_the_nodes() {
        let nodes: Vec<_> = (0..10).map(|n| format!("node-{n}")).collect();
        let places = places(&nodes);
        let mut shares = [0_u32; 10];
        for number in 0..20_000 {
            shares[highest(key(number), &places)] += 1;
        }
        assert!(
            shares.iter().all(|share| (1_800..2_200).contains(share)),
            "{shares:?}"
        );
    }

    proptest! {
        #![proptest_config(Config {
            failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
            cases: 64,
            ..Config::default()
        })]

        /// When a node leaves, nothing moves but what it had: no more than its share of the keys and a twentieth of them.
        #[test]
        fn few_keys_move_when_a_node_leaves(
            nodes in proptest::collection::btree_set("[a-zA-Z0-9_-]{1,24}", 2..40),
            leaving in proptest::prelude::any::<proptest::sample::Index>(),
            first in proptest::prelude::any::<u32>(),
        ) {
            let nodes: Vec<_> = nodes.into_iter().collect();
            let leaving = leaving.index(nodes.len());
            let (before, mut rest) = (places(&nodes), nodes.clone());
            rest.remove(leaving);
            let after = places(&rest);
            let (keys, mut moved) = (4_000_u64, 0_u32);
            for number in 0..keys {
                let key = key(u64::from(first) + number);
                let (old, new) = (highest(key, &before), highest(key, &after));
                if old == leaving {
                    moved += 1;
                } else {
                    prop_assert_eq!(&nodes[old], &rest[new], "a key moved whose node is still there");
                }
            }
            #[allow(clippy::cast_precision_loss, reason = "small numbers")]
            let most = keys as f64 * (1.0 / nodes.len() as f64 + 0.05);
            prop_assert!(f64::from(moved) <= most, "{} of {} keys, {} nodes", moved, keys, nodes.len());
        }
    }
}
