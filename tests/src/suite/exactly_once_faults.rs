//! QoS 2 while publishers die, nodes go, and leases are lost: invariant I4.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::time::Duration;

use catga::prelude::{Catga, FailWith, Result, handlers};
use catga::{CatgaBuilder, HandlerError};
use tokio::sync::mpsc::unbounded_channel;

use crate::flawed::CannotExtend;
use crate::harness::{Bus, PLANNED, SOON, dead_letters, poll_then_drop, scenarios, wait_until};
use crate::journal::{Journal, Step};
use crate::reliable::{
    Claiming, assert_no_overlap, audit_payment, drain, duplicates, lost, on_payment, pay,
};

scenarios! { Runtime "exactly_once_faults":
    Paused a_publisher_that_dies [45],
    Paused stopped_half_way,
    Paused dropped_half_way,
    Paused given_back_unstarted,
    Paused a_zombie_that_succeeds,
    Paused a_zombie_that_succeeds_meanwhile,
    Paused a_zombie_that_fails,
    Paused a_zombie_that_fails_for_good,
    Real a_zombie_whose_thread_was_blocked,
    Paused nodes_come_and_go,
}

const MINUTE: Duration = Duration::from_secs(60);
/// Longer than the duplicate window.
const AFTER_THE_WINDOW: Duration = Duration::from_secs(180);

/// Row 45: a publisher that died in its publishes publishes the same ids again: one effect each.
async fn a_publisher_that_dies(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = bus.node("a").state(journal.plain());
    let node = node.handlers(handlers![on_payment]).start().await?;
    let mut outbox = Vec::new();
    for polls in 0.. {
        let first = bus.node("publisher").handlers(handlers![]).start().await?;
        let id = u32::try_from(polls)?;
        // Each number of polls in a stream that is there, and in the publish that makes it.
        let key = format!("payment {id}");
        outbox.push((id, key.clone()));
        let outcome = poll_then_drop(polls, pay(&first, id, &key)).await;
        first.shutdown_within(Duration::ZERO).await?;
        if outcome.transpose()?.is_some() {
            break;
        }
        assert!(polls < 200, "it does not end");
    }
    assert!(outbox.len() > 1, "nothing was cut off");
    for _ in 0..2 {
        let second = bus.node("publisher").handlers(handlers![]).start().await?;
        for (id, key) in &outbox {
            pay(&second, *id, key).await?;
        }
        journal.wait(Step::Done, outbox.len(), SOON).await;
        second.shutdown().await?;
        // The second time its window is over, and the inbox is what knows.
        tokio::time::sleep(AFTER_THE_WINDOW).await;
    }
    let ids: Vec<_> = outbox.iter().map(|(id, _)| *id).collect();
    assert_eq!(journal.handled(), ids);
    assert_eq!(duplicates(&[&node]), outbox.len() as u64);
    Ok(())
}

/// A handler that a shutdown stops half-way has not used up an attempt, and the next run is told.
async fn stopped_half_way(bus: Bus) -> Result<()> {
    stopped(&Claiming::own(bus), false).await
}

/// One that is dropped with its application too.
async fn dropped_half_way(bus: Bus) -> Result<()> {
    stopped(&Claiming::own(bus), true).await
}

pub(super) async fn stopped(claiming: &Claiming, dropped: bool) -> Result<()> {
    let (tell, mut told) = unbounded_channel();
    let journal = Journal::default();
    let play = journal.play(move |scene| {
        let tell = tell.clone();
        async move {
            let attempt = scene.context.attempt();
            tell.send((attempt.number(), attempt.may_have_run()))?;
            if scene.context.node().as_str() != "last" {
                pending::<()>().await;
            }
            Ok(())
        }
    });
    let observer = claiming.bus.observer().await?;
    // More often than there are attempts.
    for id in ["a", "b", "c", "d", "e", "last"] {
        let node = claiming.node(id).state(play.clone()).attempts(2);
        let node = node.handlers(handlers![on_payment]).start().await?;
        if id == "a" {
            pay(&observer, 0, "one").await?;
        }
        wait_until("it begins", SOON, || {
            journal.starts(0).iter().any(|note| note.node == id)
        })
        .await;
        match id {
            "last" => journal.wait(Step::Done, 1, SOON).await,
            _ if dropped => drop(node),
            _ => {
                let report = node.shutdown_within(Duration::from_secs(1)).await?;
                assert_eq!(report.unfinished, 1);
            }
        }
    }
    let mut expected = vec![(1, false)];
    expected.extend([(1, true); 5]);
    assert_eq!(drain(&mut told), expected);
    assert!(dead_letters(observer.backend()).await?.is_empty());
    Ok(())
}

/// What was fetched and given back unstarted has not run, and is not said to.
async fn given_back_unstarted(bus: Bus) -> Result<()> {
    unstarted(&Claiming::own(bus)).await
}

pub(super) async fn unstarted(claiming: &Claiming) -> Result<()> {
    let observer = claiming.bus.observer().await?;
    for id in 0..10 {
        pay(&observer, id, &id.to_string()).await?;
    }
    let (tell, mut told) = unbounded_channel();
    let journal = Journal::default();
    let play = journal.play(move |scene| {
        let tell = tell.clone();
        async move {
            let attempt = scene.context.attempt();
            tell.send((attempt.number(), attempt.may_have_run()))?;
            // The others of its batch are behind it.
            scene.context.shutdown().await?;
            Ok(())
        }
    });
    for i in 0..10 {
        let before = journal.count(Step::Done);
        if before == 10 {
            break;
        }
        let id = format!("node-{i}");
        let node = claiming.node(&id).state(play.clone());
        let node = node.handlers(handlers![on_payment]).start().await?;
        journal.wait(Step::Done, before + 1, SOON).await;
        node.shutdown().await?;
    }
    assert_eq!(journal.handled(), (0..10).collect::<Vec<_>>());
    assert_eq!(drain(&mut told), vec![(1, false); 10]);
    Ok(())
}

/// A node whose deliveries cannot be extended.
pub(super) async fn zombie(claiming: &Claiming) -> Result<CatgaBuilder> {
    let lender = claiming.bus.node("lender").handlers(handlers![]);
    let node = Catga::builder().connect(CannotExtend::URL);
    let node = node.service("suite").node("zombie");
    let node = node.driver(CannotExtend::new(lender.start().await?));
    Ok(match &claiming.inbox {
        Some(inbox) => node.inbox(std::sync::Arc::clone(inbox)),
        None => node,
    })
}

/// One that lost its lease may return as it likes: what the one does that took over is what counts.
async fn a_zombie_that_succeeds(bus: Bus) -> Result<()> {
    taken_over(&Claiming::own(bus), 0, || Ok(())).await
}

/// Also when it returns while the other still runs.
async fn a_zombie_that_succeeds_meanwhile(bus: Bus) -> Result<()> {
    taken_over(&Claiming::own(bus), 100, || Ok(())).await
}

/// A zombie that fails does not bring back what the other completed.
async fn a_zombie_that_fails(bus: Bus) -> Result<()> {
    taken_over(&Claiming::own(bus), 100, || {
        Err(HandlerError::retry("late"))
    })
    .await
}

/// A zombie that fails for good makes no dead letter of what the other completes.
async fn a_zombie_that_fails_for_good(bus: Bus) -> Result<()> {
    taken_over(&Claiming::own(bus), 100, || {
        Err(HandlerError::terminal("late"))
    })
    .await
}

/// The zombie's handler takes 50 s, its lease 30 s; who takes over takes `seconds`.
pub(super) async fn taken_over(
    claiming: &Claiming,
    seconds: u64,
    end: fn() -> Result<()>,
) -> Result<()> {
    let (tell, mut told) = unbounded_channel();
    let journal = Journal::default();
    let play = journal.play(move |scene| {
        let tell = tell.clone();
        async move {
            let attempt = scene.context.attempt();
            let node = scene.context.node().to_string();
            let zombie = node == "zombie";
            tell.send((node, attempt.number(), attempt.may_have_run()))?;
            if !zombie {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                return Ok(());
            }
            tokio::time::sleep(Duration::from_secs(50)).await;
            end()
        }
    });
    let zombie = zombie(claiming).await?.state(play.clone());
    let zombie = zombie.handler_timeout(5 * MINUTE).concurrency(1);
    let zombie = zombie.handlers(handlers![on_payment]).start().await?;
    let observer = claiming.bus.observer().await?;
    pay(&observer, 0, "one").await?;
    journal.wait(Step::Started, 1, SOON).await;
    let healthy = claiming.node("healthy").state(play);
    let healthy = healthy.handler_timeout(5 * MINUTE);
    let healthy = healthy.handlers(handlers![on_payment]).start().await?;
    wait_until("the zombie is found out", 3 * MINUTE, || {
        lost(&[&zombie]) == 1
    })
    .await;
    wait_until("the other completes", 5 * MINUTE, || {
        healthy.handlers()[0].stats.handled == 1
    })
    .await;
    tokio::time::sleep(20 * MINUTE).await;
    let expected = [
        ("zombie".to_owned(), 1, false),
        ("healthy".to_owned(), 2, true),
    ];
    assert_eq!(drain(&mut told), expected);
    assert_eq!((lost(&[&zombie]), lost(&[&healthy])), (1, 0));
    assert!(dead_letters(observer.backend()).await?.is_empty());
    assert!(!pay(&observer, 0, "one").await?);
    wait_until("it is known as done", MINUTE, || {
        duplicates(&[&zombie, &healthy]) >= 1
    })
    .await;
    assert_eq!(journal.count(Step::Started), 2);
    Ok(())
}

/// A handler that blocks its thread for longer than its lease cannot renew it: another takes over.
async fn a_zombie_whose_thread_was_blocked(bus: Bus) -> Result<()> {
    let ack_wait = Duration::from_millis(150);
    let journal = Journal::default();
    let play = journal.play(move |scene| async move {
        // In a task of its own from here on.
        tokio::time::sleep(Duration::from_millis(1)).await;
        if scene.context.node().as_str() == "a" {
            tokio::task::block_in_place(|| std::thread::sleep(6 * ack_wait));
        }
        Ok(())
    });
    let node = |id| {
        // Who is blocked is not to get it again.
        let node = bus.node(id).state(play.clone()).concurrency(1);
        node.ack_wait(ack_wait)
    };
    let a = node("a").handlers(handlers![on_payment]).start().await?;
    pay(&a, 0, "one").await?;
    journal.wait(Step::Started, 1, SOON).await;
    let b = node("b").handlers(handlers![on_payment]).start().await?;
    wait_until("the zombie is found out", SOON, || lost(&[&a]) == 1).await;
    assert_eq!(b.handlers()[0].stats.handled, 1, "nobody took over");
    // Whatever it may have caused comes before this.
    pay(&b, 1, "two").await?;
    wait_until("the next is handled", SOON, || {
        journal.handled().contains(&1)
    })
    .await;
    assert_eq!(journal.starts(0).len(), 2);
    assert_eq!(lost(&[&b]), 0);
    assert!(dead_letters(b.backend()).await?.is_empty());
    Ok(())
}

/// I4 under a schedule of chance: handlers fail, panic, hang and dawdle, nodes stop and start.
async fn nodes_come_and_go(bus: Bus) -> Result<()> {
    come_and_go(&Claiming::own(bus)).await
}

pub(super) async fn come_and_go(claiming: &Claiming) -> Result<()> {
    const PAYMENTS: u32 = 80;
    let journal = Journal::default();
    // On a paused clock there is one thread, and the seed decides what it draws.
    let play = journal.play(|_| {
        let (chance, millis) = (fastrand::u32(..100), fastrand::u64(..3000));
        async move {
            match chance {
                0..15 => Err("chance").retry()?,
                15..20 => Err("chance").terminal()?,
                20..25 => panic!("{PLANNED}"),
                25..30 => pending().await,
                30..70 => tokio::time::sleep(Duration::from_millis(millis)).await,
                _ => {}
            }
            assert!(!chance.is_multiple_of(10), "{PLANNED}");
            Ok(())
        }
    });
    let observer = claiming.bus.observer().await?;
    let start = |id: &str| {
        let node = claiming.node(id).state(play.clone()).attempts(3);
        let node = node.concurrency(4).handler_timeout(Duration::from_secs(4));
        node.handlers(handlers![on_payment, audit_payment]).start()
    };
    let mut chance = claiming.bus.chance();
    let mut nodes = BTreeMap::new();
    for id in 0..PAYMENTS {
        pay(&observer, id, &id.to_string()).await?;
        if chance.u32(..3) == 0 {
            let name = ["a", "b", "c"][chance.usize(..3)];
            match nodes.remove(name) {
                None => drop(nodes.insert(name, start(name).await?)),
                Some(node) => {
                    let node: Catga = node;
                    let limit = Duration::from_millis(chance.u64(..3000));
                    node.shutdown_within(limit).await?;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(chance.u64(..500))).await;
    }
    for name in ["a", "b", "c"] {
        if !nodes.contains_key(name) {
            nodes.insert(name, start(name).await?);
        }
    }
    // Copies of all of them.
    tokio::time::sleep(AFTER_THE_WINDOW).await;
    for id in 0..PAYMENTS {
        assert!(!pay(&observer, id, &id.to_string()).await?);
    }
    tokio::time::sleep(20 * MINUTE).await;
    assert_eq!(journal.running(), 0, "something still runs");
    let letters = dead_letters(observer.backend()).await?;
    for (handler, group) in [("on_payment", "workers"), ("audit_payment", "audit")] {
        let done = journal.handled_by(handler);
        let of_group = letters
            .iter()
            .filter(|letter| letter.group.as_str() == group);
        let dead = of_group.map(|letter| {
            let body = letter.envelope.payload().as_bytes().expect("it is encoded");
            let text = String::from_utf8_lossy(body);
            text.trim_matches(|c: char| !c.is_ascii_digit()).parse()
        });
        let mut all = dead.collect::<Result<Vec<u32>, _>>()?;
        assert!(!all.is_empty() && !done.is_empty(), "too tame: {group}");
        all.extend(&done);
        all.sort_unstable();
        assert_eq!(all, (0..PAYMENTS).collect::<Vec<_>>(), "{group}");
    }
    assert_no_overlap(&journal);
    let starts = journal.all(Step::Started);
    let numbers: BTreeSet<_> = starts.iter().map(|note| note.attempt).collect();
    assert_eq!(numbers, BTreeSet::from([1, 2, 3]));
    Ok(())
}
