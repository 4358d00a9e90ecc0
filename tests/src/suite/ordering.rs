//! What is handled in the order in which it was published: rows 46 and 48.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use catga::prelude::{Catga, Result, handlers};
use catga::{Envelope, HandlerError, Handlers, Name, QoS};
use catga_core::{Consumers, Delivery, Subscribe};
use tokio::time::Instant;

use crate::harness::{
    Bus, PLANNED, SOON, dead_letters, scenarios, wait_for_dead_letters, wait_until,
};
use crate::journal::{Journal, Note, Play, Step};
use crate::messages::{Tick, Work, on_tick, on_work};
use crate::parts::{Move, Turn, on_move, on_turn};
use crate::subject::Time;

scenarios! { Backend "ordering":
    Paused one_member [46],
    Paused one_member_at_most_once [46],
    Paused by_key [48],
    Paused by_key_exactly_once [48],
    Real by_key_races [48],
    Real by_key_races_exactly_once [48],
    Paused a_delayed_key_holds_up_its_own [48],
    Paused a_dead_letter_lets_its_key_go_on [48],
    Paused a_shutdown_hands_the_order_on [48],
    Paused a_published_twice_is_handled_once_in_order,
}

const KEYS: u32 = 16;
const MINUTE: Duration = Duration::from_secs(60);
const LEASE: Duration = Duration::from_millis(500);

/// Message `id` has key `id % KEYS`, and each key its own sequence.
async fn publish(from: &Catga, qos: QoS, id: u32) -> Result<()> {
    let key = id % KEYS;
    match qos {
        QoS::ExactlyOnce => from.publish(Turn { key, id }).await?,
        _ => from.publish(Move { key, id }).await?,
    }
    Ok(())
}

fn partition(key: u32) -> u16 {
    let routed = Envelope::new(Move { key, id: 0 });
    routed.partition().expect("it has a key")
}

/// The handler of messages at one level.
fn of(qos: QoS) -> Handlers {
    match qos {
        QoS::ExactlyOnce => handlers![on_turn],
        _ => handlers![on_move],
    }
}

async fn moving(bus: &Bus, qos: QoS, id: &str, play: &Play) -> Result<Catga> {
    let node = bus.node(id).state(play.clone()).concurrency(8).attempts(50);
    let short = Duration::from_millis(10);
    let node = node.backoff(short, 4 * short).handler_timeout(4 * short);
    let node = node.ack_wait(LEASE);
    Ok(node.handlers(of(qos)).start().await?)
}

/// A member that dies with what it holds: its leases end.
async fn dying(from: &Catga, qos: QoS) -> Result<Vec<Delivery>> {
    let name = if qos == QoS::ExactlyOnce {
        "Turn"
    } else {
        "Move"
    };
    let group = Consumers::Group(Name::new("movers")?);
    let subscribe = Subscribe::new(Name::new(name)?, qos, group)
        .with_ack_wait(LEASE)
        .with_ordered(Some(16.try_into()?))
        .with_max_in_flight(4);
    let mut subscription = from.backend().transport.subscribe(&subscribe).await?;
    let mut held = Vec::new();
    let received = subscription.recv(4, &mut held);
    // It may be that the others leave nothing for it.
    if let Ok(received) = tokio::time::timeout(Duration::from_millis(50), received).await {
        received?;
    }
    Ok(held)
}

/// Row 46: one publisher, one member, one at a time: a thousand messages in their order.
async fn one_member(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = bus.node("a").state(journal.plain()).concurrency(1);
    let node = node.handlers(handlers![on_work]).start().await?;
    for id in 0..1_000 {
        node.publish(Work { id }).await?;
    }
    began_in_order(&journal).await;
    Ok(())
}

/// Row 46: the same at QoS 0, to a member that keeps up.
async fn one_member_at_most_once(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = bus.node("a").state(journal.plain()).concurrency(1);
    let node = node.handlers(handlers![on_tick]).start().await?;
    for id in 0..1_000 {
        node.publish(Tick { id }).await?;
        if id % 100 == 99 {
            journal.wait(Step::Done, id as usize + 1, SOON).await;
        }
    }
    began_in_order(&journal).await;
    Ok(())
}

async fn began_in_order(journal: &Journal) {
    journal.wait(Step::Done, 1_000, SOON).await;
    let started = journal.all(Step::Started).into_iter().map(|note| note.id);
    assert!(started.eq(0..1_000), "out of order");
}

/// At QoS 1: per key in order and one at a time, whatever fails, joins, leaves and dies.
async fn by_key(bus: Bus) -> Result<()> {
    let count = if bus.subject().time() == Time::Wall {
        800
    } else {
        1600
    };
    chaos(bus, QoS::AtLeastOnce, count).await
}

/// At QoS 2 the same.
async fn by_key_exactly_once(bus: Bus) -> Result<()> {
    let count = if bus.subject().time() == Time::Wall {
        800
    } else {
        1600
    };
    chaos(bus, QoS::ExactlyOnce, count).await
}

/// On two threads the same.
async fn by_key_races(bus: Bus) -> Result<()> {
    chaos(bus, QoS::AtLeastOnce, 800).await
}

/// On two threads at QoS 2 the same.
async fn by_key_races_exactly_once(bus: Bus) -> Result<()> {
    chaos(bus, QoS::ExactlyOnce, 800).await
}

async fn chaos(bus: Bus, qos: QoS, count: u32) -> Result<()> {
    let journal = Journal::default();
    let seed = bus.chance().u64(..);
    let play = journal.play(move |scene| async move {
        let lot = u64::from(scene.id) << 8 | u64::from(scene.attempt);
        let mut chance = fastrand::Rng::with_seed(seed ^ lot);
        if scene.attempt > 3 {
            return Ok(());
        }
        match chance.u32(..40) {
            0 => return Err(HandlerError::retry("not yet")),
            1 => panic!("{PLANNED}"),
            // Longer than it may take.
            2 => tokio::time::sleep(MINUTE).await,
            3..20 => tokio::time::sleep(Duration::from_millis(chance.u64(..5))).await,
            20..25 => tokio::task::yield_now().await,
            _ => {}
        }
        Ok(())
    });
    let observer = bus.observer().await?;
    let mut chance = bus.chance();
    let mut nodes = vec![moving(&bus, qos, "n0", &play).await?];
    let mut graves = Vec::new();
    for id in 0..count {
        publish(&observer, qos, id).await?;
        // Somebody comes, goes or dies, and there is always one left.
        match chance.u32(..count / 10) {
            0..=2 => nodes.push(moving(&bus, qos, &format!("n{}", id + 1), &play).await?),
            3 | 4 if nodes.len() > 1 => {
                let leaving = nodes.swap_remove(chance.usize(..nodes.len()));
                leaving.shutdown_within(Duration::from_millis(20)).await?;
            }
            5 => drop(nodes.swap_remove(0)),
            6 => graves.push(dying(&observer, qos).await?),
            7..12 => tokio::time::sleep(Duration::from_millis(10)).await,
            _ => {}
        }
        if nodes.is_empty() {
            nodes.push(moving(&bus, qos, &format!("n{}", id + 1), &play).await?);
        }
    }
    let all = usize::try_from(count)?;
    all_done(&journal, count, 10 * MINUTE).await;
    assert!(dead_letters(observer.backend()).await?.is_empty());
    in_order(&bus, &journal, qos, count);
    assert!(journal.count(Step::Started) > all, "nothing failed");
    Ok(())
}

/// Waits until so many messages are done; one that was completed again counts once.
async fn all_done(journal: &Journal, count: u32, limit: Duration) {
    wait_until("each is done", limit, || {
        let mut done = journal.handled();
        done.dedup();
        done.len() == count as usize
    })
    .await;
}

/// Checks that per key the completions are in order, once each, and that no partition ran two at once. At QoS 1 one whose
/// ack had a way to go when its member died may be completed again, before any that is behind it.
fn in_order(bus: &Bus, journal: &Journal, qos: QoS, count: u32) {
    let mut done: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut running: HashMap<u16, u32> = HashMap::new();
    for note in journal.notes() {
        let key = note.id % KEYS;
        if note.step == Step::Started {
            let other = running.insert(partition(key), note.id);
            assert_eq!(other, None, "with {} at once", note.id);
            continue;
        }
        assert_eq!(running.remove(&partition(key)), Some(note.id));
        if note.step == Step::Done {
            done.entry(key).or_default().push(note.id);
        }
    }
    if qos == QoS::AtLeastOnce && bus.subject().time() == Time::Wall {
        done.values_mut().for_each(Vec::dedup);
    }
    for key in 0..KEYS {
        let published: Vec<_> = (0..count).filter(|id| id % KEYS == key).collect();
        assert_eq!(done.get(&key), Some(&published), "key {key}");
    }
}

/// A retry that is delayed holds up its own partition, and nobody else.
async fn a_delayed_key_holds_up_its_own(bus: Bus) -> Result<()> {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let journal = Journal::default();
        let delay = bus.by_clock(MINUTE, Duration::from_secs(5));
        let play = journal.play(move |scene| async move {
            if scene.id == 0 && scene.attempt == 1 {
                return Err(HandlerError::retry_after("busy", delay));
            }
            Ok(())
        });
        let (a, b) = (
            moving(&bus, qos, "a", &play).await?,
            moving(&bus, qos, "b", &play).await?,
        );
        let began = Instant::now();
        for id in 0..160 {
            publish(&a, qos, id).await?;
        }
        let held = |id: u32| partition(id % KEYS) == partition(0);
        let free = (0..160).filter(|id| !held(*id)).count();
        assert!(free > 80, "too few partitions");
        journal.wait(Step::Done, free, SOON).await;
        assert!(
            began.elapsed() < bus.by_clock(Duration::from_secs(5), delay),
            "they waited for another's retry"
        );
        assert!(
            journal.handled().iter().all(|id| !held(*id)),
            "it was overtaken"
        );
        // Looking all the while would take long by the wall clock.
        tokio::time::sleep(delay * 5 / 6).await;
        all_done(&journal, 160, delay).await;
        assert!(began.elapsed() >= delay);
        in_order(&bus, &journal, qos, 160);
        a.shutdown().await?;
        b.shutdown().await?;
    }
    Ok(())
}

/// What is given up is out of the way of those behind it.
async fn a_dead_letter_lets_its_key_go_on(bus: Bus) -> Result<()> {
    let _keeps_the_bus = bus.observer().await?;
    for (n, qos) in [QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().enumerate() {
        let journal = Journal::default();
        let play = journal.play(|scene| async move {
            match scene.id {
                0 => Err(HandlerError::terminal("never")),
                16 if scene.attempt == 1 => panic!("{PLANNED}"),
                _ => Ok(()),
            }
        });
        let a = moving(&bus, qos, "a", &play).await?;
        for id in [0, 16, 32, 48] {
            publish(&a, qos, id).await?;
        }
        journal.wait(Step::Done, 3, SOON).await;
        let done: Vec<_> = journal.all(Step::Done).iter().map(|note| note.id).collect();
        assert_eq!(done, [16, 32, 48]);
        wait_for_dead_letters(a.backend(), n + 1).await?;
        a.shutdown().await?;
    }
    Ok(())
}

/// A node that leaves half-way hands on what it ran first, and the rest after it.
async fn a_shutdown_hands_the_order_on(bus: Bus) -> Result<()> {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let journal = Journal::default();
        let play = journal.play(|scene| async move {
            if scene.context.node().as_str() == "a" && scene.id >= 32 {
                tokio::time::sleep(MINUTE).await;
            }
            Ok(())
        });
        let observer = bus.observer().await?;
        let a = bus.node("a").state(play.clone());
        // A broker that loses sight of what was given back delivers it when this ends.
        let a = a.ack_wait(bus.by_clock(Duration::from_secs(30), Duration::from_secs(1)));
        let a = a.handlers(of(qos)).start().await?;
        for id in 0..160 {
            publish(&observer, qos, id).await?;
        }
        journal.wait(Step::Started, 33, SOON).await;
        let (report, b) = tokio::join!(
            a.shutdown_within(Duration::from_secs(1)),
            moving(&bus, qos, "b", &play)
        );
        assert!(report?.unfinished > 0);
        all_done(&journal, 160, SOON).await;
        in_order(&bus, &journal, qos, 160);
        let starts = journal.all(Step::Started);
        let counted = |note: &Note| !bus.allows_after_release(note.attempt, 2);
        assert!(!starts.iter().any(counted), "counted");
        b?.shutdown().await?;
        observer.shutdown().await?;
    }
    Ok(())
}

/// At QoS 2 what is published twice is handled once, at its first place.
async fn a_published_twice_is_handled_once_in_order(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let a = moving(&bus, QoS::ExactlyOnce, "a", &journal.plain()).await?;
    let turns: Vec<_> = (0..160)
        .map(|id| Envelope::new(Turn { key: id % KEYS, id }))
        .collect();
    for batch in turns.chunks(20) {
        for _ in 0..2 {
            for turn in batch {
                a.republish(turn.clone()).await?;
            }
        }
    }
    journal.wait(Step::Done, 160, SOON).await;
    bus.quiet(10 * MINUTE).await;
    in_order(&bus, &journal, QoS::ExactlyOnce, 160);
    Ok(())
}
