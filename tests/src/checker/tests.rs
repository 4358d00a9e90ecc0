//! The checker passes what is right, and names what is not.

mod plants;
mod story;
mod world;

use std::collections::BTreeSet;

use super::{Clause, Invariant, check};
use plants::plants;
use story::done;
use world::{BEGIN, Weather, World};

/// The seeds of the random runs.
const SEEDS: std::ops::Range<u64> = 0..40;

#[test]
fn what_is_right_passes_and_every_rule_is_checked() {
    let mut checked = BTreeSet::new();
    for seed in SEEDS {
        for weather in [Weather::Calm, Weather::Storm] {
            let world = World::new(seed, weather);
            let verdict = check(&world.events, &world.rules)
                .unwrap_or_else(|violation| panic!("seed {seed} {weather:?}: {violation}"));
            assert!(verdict.published_ok > 0 && verdict.handled > 0);
            checked.extend(verdict.checked.into_keys());
        }
    }
    let all: BTreeSet<Clause> = Clause::ALL.iter().copied().collect();
    let missing: Vec<_> = all.difference(&checked).collect();
    assert!(missing.is_empty(), "never checked: {missing:?}");
}

#[test]
fn every_planted_bug_is_found_and_named() {
    let mut missed = Vec::new();
    for plant in plants() {
        for seed in SEEDS.step_by(10) {
            let mut world = World::new(seed, plant.weather);
            let about = (plant.apply)(&mut world);
            world.sort();
            let found = check(&world.events, &world.rules);
            let named = found
                .as_ref()
                .is_err_and(|violation| violation.clause() == plant.clause && about.is(violation));
            if !named {
                let found =
                    found.map_or_else(|violation| violation.to_string(), |_| "nothing".into());
                missed.push(format!(
                    "seed {seed}, {:?}, {}, about {about:?}: found {found}",
                    plant.clause, plant.name
                ));
                break;
            }
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn every_rule_has_a_planted_bug() {
    let planted: BTreeSet<Clause> = plants().map(|plant| plant.clause).collect();
    let all = Clause::ALL.iter();
    let missing: Vec<_> = all.filter(|clause| !planted.contains(clause)).collect();
    assert!(missing.is_empty(), "no bug is planted for {missing:?}");
}

#[test]
fn a_violation_tells_all_that_happened_to_its_message() {
    let mut world = World::new(7, Weather::Storm);
    let plant = plants().find(|plant| plant.clause == Clause::NotTold);
    let about = (plant.unwrap().apply)(&mut world);
    world.sort();
    let violation = check(&world.events, &world.rules).unwrap_err();
    let id = violation.message();
    assert!(about.is(&violation));
    let text = violation.to_string();
    let first = text.lines().next().unwrap();
    assert!(
        first.starts_with("I4 (") && first.contains(violation.sentence()),
        "{first}"
    );
    let told: Vec<_> = world.events.iter().filter(|event| event.id == id).collect();
    assert!(told.len() >= 6, "{text}");
    for event in told {
        assert!(text.contains(&event.to_string()), "{event} in {text}");
    }
    assert!(text.contains("Killed"), "{text}");
}

#[test]
fn kills_tell_what_they_hit() {
    let world = World::new(3, Weather::Storm);
    let verdict = check(&world.events, &world.rules).unwrap();
    assert_eq!(verdict.kills.len(), 3);
    let consumer = &verdict.kills[0];
    assert_eq!(consumer.process, "c1");
    assert!(consumer.own_handlers > 0 && consumer.handlers >= consumer.own_handlers);
    let publisher = &verdict.kills[1];
    assert_eq!(
        (publisher.process.as_str(), publisher.own_publishes),
        ("p2", 1)
    );
    assert!(verdict.worst_recovery.is_some());
    let text = verdict.to_string();
    assert!(text.contains("kill of c1: "), "{text}");
}

#[test]
fn what_a_killed_server_had_not_told_its_replica_may_be_lost_and_is_counted() {
    for (subject, id) in [("orders", 1_601), ("payments", 2_601)] {
        let mut world = World::new(3, Weather::Storm);
        let before = check(&world.events, &world.rules).unwrap();
        assert_eq!(before.lost, 0);
        // The server is killed 6 s after the begin.
        world.publish(subject, id, (BEGIN + 5_950_000, BEGIN + 5_960_000));
        world.sort();
        let verdict = check(&world.events, &world.rules).unwrap();
        assert_eq!(verdict.lost, 1, "{subject}");
        assert_eq!(verdict.may_be_lost, before.may_be_lost + 1, "{subject}");
        assert!(verdict.to_string().contains("lost with it: 1\n"));
        world.rules.replication = None;
        let violation = check(&world.events, &world.rules).unwrap_err();
        assert_eq!(violation.message(), Some(id));
    }
}

#[test]
fn what_comes_again_after_a_kill_is_counted() {
    let mut world = World::new(3, Weather::Storm);
    let before = check(&world.events, &world.rules).unwrap().kills[0].again;
    let kill = world.kill;
    world.publish("orders", 1_601, (kill - 50_000, kill - 40_000));
    world.run("least", 1_601, "c1", (kill - 20_000, kill - 10_000), done);
    world.run(
        "least",
        1_601,
        "c2",
        (kill + 1_500_000, kill + 1_510_000),
        done,
    );
    world.sort();
    let verdict = check(&world.events, &world.rules).unwrap();
    assert_eq!(verdict.kills[0].again, before + 1);
    assert!(verdict.kills[1..].iter().all(|kill| kill.again == 0));
}

#[test]
fn what_had_no_evidence_is_said() {
    let world = World::new(3, Weather::Calm);
    let mut events = world.events;
    events.retain(|event| event.group.as_deref() != Some("rpc") && !event.is_request());
    let mut rules = world.rules;
    rules.groups.remove("rpc");
    let verdict = check(&events, &rules).unwrap();
    assert_eq!(verdict.unchecked(), [Invariant::I12]);
    assert!(verdict.to_string().ends_with("nothing to check: I12\n"));
    let clauses = verdict.unchecked_clauses();
    assert!(clauses.contains(&Clause::ForeignReply) && clauses.contains(&Clause::NotTold));
}

#[test]
fn nothing_is_checked_on_nothing() {
    let verdict = check(&[], &super::Rules::new()).unwrap();
    assert_eq!(verdict.unchecked_clauses().len(), Clause::ALL.len());
}
