//! Of members: I13.

use super::{About, at, list};
use crate::checker::tests::world::World;
use crate::evidence::{Event, What};

list! {
    NotListed Calm "a view never lists a node": |world| {
        world.remove(|event| is_seen(event, "v-c2", "c1"));
        About::Name("c1")
    };
    NotListed Calm "a view lists a node too late": |world| {
        world.change(|event| {
            let seen = is_seen(event, "v-c2", "c1");
            if seen {
                event.at = at(676);
            }
            seen
        });
        About::Name("c1")
    };
    NotListed Storm "a view that opens late does not list who is there": |world| {
        world.remove(|event| is_seen(event, "v-c1b", "c3"));
        About::Name("c3")
    };
    GoneAlive Calm "a node that lives is gone": |world| {
        gone(world, "v-c2", "c1", at(4_000));
        About::Name("c1")
    };
    NotGone Calm "a node that left stays listed": |world| {
        world.remove(|event| matches!(&event.what, What::NodeGone { by, .. } if by == "v-c2"));
        About::Name("c3")
    };
    NotGone Storm "a node that was killed stays listed": |world| {
        world.remove(|event| {
            let gone = matches!(&event.what, What::NodeGone { node, .. } if node == "c1");
            let second = matches!(&event.what, What::NodeSeen { owner, .. }
                | What::NodeRegistering { owner, .. }
                | What::NodeRegistered { owner, .. } if owner == "c1-second");
            gone || second
        });
        About::Name("c1")
    };
    CameBack Calm "a node that left comes back": |world| {
        see(world, "v-c2", ("c3", "c3-first"), at(12_000));
        About::Name("c3")
    };
    CameBack Calm "a node is listed that never registered": |world| {
        see(world, "v-c2", ("ghost", "nobody"), at(4_000));
        About::Name("ghost")
    };
    TwoOwners Calm "a second owner is let in": |world| {
        let named = || ("c1".to_owned(), "thief".to_owned());
        let (node, owner) = named();
        world.insert(at(4_000), "c2", (), What::NodeRegistering { node, owner });
        let (node, owner) = named();
        world.insert(at(4_001), "c2", (), What::NodeRegistered { node, owner });
        for by in ["v-c1", "v-c2", "v-c3"] {
            see(world, by, ("c1", "thief"), at(4_100));
        }
        About::Name("c1")
    };
    TwoOwners Storm "an entry alternates between owners": |world| {
        let again = world.kill + 700_000;
        see(world, "v-c2", ("c1", "c1-first"), again);
        About::Name("c1")
    };
}

fn is_seen(event: &Event, view: &str, of: &str) -> bool {
    matches!(&event.what, What::NodeSeen { by, node, .. } if by == view && node == of)
}

fn see(world: &mut World, by: &str, (node, owner): (&str, &str), at: u64) {
    let (process, by) = (by[2..4].to_owned(), by.to_owned());
    let (node, owner) = (node.to_owned(), owner.to_owned());
    world.insert(at, &process, (), What::NodeSeen { by, node, owner });
}

fn gone(world: &mut World, by: &str, node: &str, at: u64) {
    let (process, by, node) = (by[2..4].to_owned(), by.to_owned(), node.to_owned());
    world.insert(at, &process, (), What::NodeGone { by, node });
}
