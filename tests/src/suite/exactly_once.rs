//! QoS 2: what is published under one id is handled once: rows 12, 13 and 40 to 42.

use std::collections::BTreeSet;
use std::future::pending;
use std::time::Duration;

use catga::prelude::{Catga, FailWith, Result, handlers};
use catga::{HandlerError, MessageId, ReasonKind};
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::JoinSet;

use crate::harness::{
    Bus, PLANNED, SOON, dead_letters, scenarios, wait_for_dead_letters, wait_until,
};
use crate::journal::{Journal, Step};
use crate::messages::{Work, on_work};
use crate::reliable::{
    Claiming, assert_no_overlap, audit_payment, drain, duplicates, each_payment, lost, on_payment,
    pay,
};

scenarios! { Backend "exactly_once":
    Paused one_id_published_many_times [12],
    Real one_id_published_by_two_threads [12],
    Paused one_id_at_least_once [12],
    Paused one_id_with_two_bodies [13],
    Paused a_copy_after_the_window [40],
    Paused two_copies_at_one_moment [41],
    Paused two_copies_of_which_the_first_fails [41],
    Paused two_copies_that_are_given_up [41],
    Paused a_failure_frees_the_claim [42],
    Paused a_named_delay_holds_its_copies_too [42],
    Paused attempts_that_are_exhausted [42],
    Paused a_terminal_error [42],
    Paused each_node_and_each_group,
    Paused an_id_is_forgotten_after_its_retention [44],
}

const MINUTE: Duration = Duration::from_secs(60);

/// Row 12: one id published 50 times at once is stored once, and every other publish is told so.
async fn one_id_published_many_times(bus: Bus) -> Result<()> {
    published_at_once(bus).await
}

/// Row 12: the same on two threads, where the publishes race.
async fn one_id_published_by_two_threads(bus: Bus) -> Result<()> {
    published_at_once(bus).await
}

async fn published_at_once(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = bus.node("a").state(journal.plain());
    let node = node.handlers(handlers![on_payment]).start().await?;
    let other = bus.observer().await?;
    for round in 0..10 {
        let key = format!("payment {round}");
        let mut publishes = JoinSet::new();
        for i in 0..50 {
            // Of two publishers: the window is the broker's, not one connection's.
            let from = if i % 2 == 0 {
                node.clone()
            } else {
                other.clone()
            };
            let key = key.clone();
            publishes.spawn(async move { pay(&from, round, &key).await });
        }
        let mut copies = 0;
        for duplicate in publishes.join_all().await {
            copies += u32::from(duplicate?);
        }
        assert_eq!(copies, 49, "round {round}");
    }
    journal.wait(Step::Done, 10, SOON).await;
    // Whatever else was stored came before this.
    pay(&node, 10, "the last").await?;
    wait_until("the last is handled", SOON, || {
        journal.handled().contains(&10)
    })
    .await;
    assert_eq!(journal.handled(), (0..=10).collect::<Vec<_>>());
    assert_eq!(duplicates(&[&node]), 0, "a copy was stored");
    Ok(())
}

/// Row 12: at QoS 1 every publish of one id succeeds too, and each copy that was stored is handled.
async fn one_id_at_least_once(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = bus.node("a").state(journal.plain());
    let node = node.handlers(handlers![on_work]).start().await?;
    let mut publishes = JoinSet::new();
    for _ in 0..50 {
        let node = node.clone();
        publishes.spawn(async move {
            let work = node.message(Work { id: 0 });
            work.id(MessageId::from_key("work")).publish().await
        });
    }
    let mut stored = 0;
    for published in publishes.join_all().await {
        stored += usize::from(!published?.duplicate);
    }
    assert!(stored >= 1);
    journal.wait(Step::Done, stored, SOON).await;
    bus.quiet(MINUTE).await;
    assert_eq!(journal.count(Step::Done), stored);
    Ok(())
}

/// Row 13: of two bodies under one id the first wins, and the second publish is told.
async fn one_id_with_two_bodies(bus: Bus) -> Result<()> {
    let bus = bus.with_short_window();
    let journal = Journal::default();
    let node = bus.node("a").state(journal.plain());
    let node = node.handlers(handlers![on_payment]).start().await?;
    assert!(!pay(&node, 1, "one").await?);
    assert!(pay(&node, 2, "one").await?);
    journal.wait(Step::Done, 1, SOON).await;
    assert!(pay(&node, 3, "one").await?, "forgotten once it was handled");
    bus.after_the_window().await;
    assert!(!pay(&node, 4, "one").await?, "the window does not end");
    assert!(!pay(&node, 5, "another").await?);
    journal.wait(Step::Done, 2, SOON).await;
    bus.quiet(MINUTE).await;
    assert_eq!(journal.handled(), [1, 5]);
    Ok(())
}

/// Row 40: a copy that comes after the duplicate window is stored, and acked unhandled.
async fn a_copy_after_the_window(bus: Bus) -> Result<()> {
    copies_after_the_window(&Claiming::own(bus)).await
}

pub(super) async fn copies_after_the_window(claiming: &Claiming) -> Result<()> {
    let window = Duration::from_secs(1);
    let journal = Journal::default();
    let node = claiming.node("a").state(journal.plain());
    let node = node.publish_deadline(window / 4).duplicate_window(window);
    let node = node.handlers(handlers![on_payment]).start().await?;
    assert!(!pay(&node, 0, "one").await?);
    assert!(pay(&node, 0, "one").await?);
    journal.wait(Step::Done, 1, SOON).await;
    for copies in 1..=3 {
        tokio::time::sleep(window + Duration::from_millis(1)).await;
        assert!(!pay(&node, 0, "one").await?, "the window does not end");
        wait_until("it is counted", SOON, || duplicates(&[&node]) == copies).await;
    }
    // Acked: no lease brings it back.
    claiming.bus.quiet(10 * MINUTE).await;
    assert_eq!((journal.handled(), duplicates(&[&node])), (vec![0], 3));
    assert_eq!(node.handlers()[0].stats.handled, 1);
    Ok(())
}

/// Row 44: what is remembered is bounded by its retention: a copy within it is suppressed, one after it runs.
async fn an_id_is_forgotten_after_its_retention(bus: Bus) -> Result<()> {
    let second = Duration::from_secs(1);
    let journal = Journal::default();
    let node = bus.node("a").state(journal.plain()).attempts(1);
    let node = node.ack_wait(second).backoff(second / 100, second / 50);
    let node = node
        .publish_deadline(second / 10)
        .duplicate_window(second / 2)
        .inbox_retention(3 * second);
    let node = node.handlers(handlers![on_payment]).start().await?;
    assert!(!pay(&node, 0, "one").await?);
    journal.wait(Step::Done, 1, SOON).await;
    tokio::time::sleep(second).await;
    assert!(!pay(&node, 0, "one").await?, "the window does not end");
    wait_until("the copy is suppressed", SOON, || duplicates(&[&node]) == 1).await;
    tokio::time::sleep(4 * second).await;
    assert!(!pay(&node, 0, "one").await?);
    journal.wait(Step::Done, 2, SOON).await;
    assert_eq!((journal.handled(), duplicates(&[&node])), (vec![0, 0], 1));
    Ok(())
}

/// Long enough for a copy to come meanwhile.
fn a_while(bus: &Bus) -> Duration {
    bus.by_clock(Duration::from_secs(5), Duration::from_secs(1))
}

/// Two copies of one id, stored, and two members that are handed one each.
async fn two_copies(claiming: &Claiming, play: crate::journal::Play) -> Result<[Catga; 2]> {
    let observer = claiming.bus.observer().await?;
    assert!(!pay(&observer, 0, "one").await?);
    claiming.bus.after_the_window().await;
    assert!(!pay(&observer, 0, "one").await?);
    let member = |id| {
        let node = claiming.node(id).state(play.clone()).attempts(3);
        node.concurrency(1).handlers(handlers![on_payment]).start()
    };
    let (a, b) = tokio::join!(member("a"), member("b"));
    Ok([a?, b?])
}

/// Row 41: of two copies at one moment one is handled, and the other is acked once that is done.
async fn two_copies_at_one_moment(bus: Bus) -> Result<()> {
    copies_at_one_moment(&Claiming::own(bus.with_short_window())).await
}

pub(super) async fn copies_at_one_moment(claiming: &Claiming) -> Result<()> {
    let journal = Journal::default();
    let takes = claiming
        .bus
        .by_clock(Duration::from_secs(20), Duration::from_secs(3));
    let play = journal.play(move |_| async move {
        tokio::time::sleep(takes).await;
        Ok(())
    });
    let [a, b] = two_copies(claiming, play).await?;
    journal.wait(Step::Started, 1, SOON).await;
    claiming.bus.quiet(Duration::from_secs(15)).await;
    assert_eq!(duplicates(&[&a, &b]), 0, "acked while the first may fail");
    journal.wait(Step::Done, 1, MINUTE).await;
    wait_until("the copy is acked", MINUTE, || duplicates(&[&a, &b]) == 1).await;
    claiming.bus.quiet(10 * MINUTE).await;
    assert_eq!(journal.count(Step::Started), 1);
    assert_eq!((duplicates(&[&a, &b]), lost(&[&a, &b])), (1, 0));
    assert!(dead_letters(a.backend()).await?.is_empty());
    Ok(())
}

/// Row 41: when the first of two copies fails, one of them is tried again, and the other still waits.
async fn two_copies_of_which_the_first_fails(bus: Bus) -> Result<()> {
    first_of_two_copies_fails(&Claiming::own(bus.with_short_window())).await
}

pub(super) async fn first_of_two_copies_fails(claiming: &Claiming) -> Result<()> {
    let journal = Journal::default();
    let takes = a_while(&claiming.bus);
    let play = journal.play(move |scene| async move {
        tokio::time::sleep(takes).await;
        match scene.attempt {
            1 => Err(HandlerError::retry("not yet")),
            2 => panic!("{PLANNED}"),
            _ => Ok(()),
        }
    });
    let [a, b] = two_copies(claiming, play).await?;
    journal.wait(Step::Done, 1, 2 * MINUTE).await;
    wait_until("the copy is acked", MINUTE, || duplicates(&[&a, &b]) == 1).await;
    claiming.bus.quiet(10 * MINUTE).await;
    let attempts: Vec<_> = journal.starts(0).iter().map(|note| note.attempt).collect();
    assert_eq!(attempts, [1, 2, 3], "the copies share their attempts");
    assert_no_overlap(&journal);
    assert_eq!(duplicates(&[&a, &b]), 1);
    assert!(dead_letters(a.backend()).await?.is_empty());
    Ok(())
}

/// Row 41: two copies that always fail have their attempts together, and are one dead letter.
async fn two_copies_that_are_given_up(bus: Bus) -> Result<()> {
    both_copies_fail(&Claiming::own(bus.with_short_window())).await
}

pub(super) async fn both_copies_fail(claiming: &Claiming) -> Result<()> {
    let journal = Journal::default();
    let takes = a_while(&claiming.bus);
    let play = journal.play(move |_| async move {
        tokio::time::sleep(takes).await;
        Err(HandlerError::retry("never"))
    });
    let [a, _b] = two_copies(claiming, play).await?;
    wait_for_dead_letters(a.backend(), 1).await?;
    claiming.bus.quiet(10 * MINUTE).await;
    assert_eq!(journal.count(Step::Started), 3);
    assert_no_overlap(&journal);
    let letters = dead_letters(a.backend()).await?;
    assert_eq!(letters.len(), 1, "the copy is a letter of its own");
    assert_eq!(letters[0].reason.kind, ReasonKind::Exhausted);
    Ok(())
}

/// Row 42: an attempt that fails gives its claim back: the next runs, is counted, and is told.
async fn a_failure_frees_the_claim(bus: Bus) -> Result<()> {
    failures_free_the_claim(&Claiming::own(bus)).await
}

pub(super) async fn failures_free_the_claim(claiming: &Claiming) -> Result<()> {
    let (tell, mut told) = unbounded_channel();
    let journal = Journal::default();
    let play = journal.play(move |scene| {
        let tell = tell.clone();
        async move {
            let attempt = scene.context.attempt();
            tell.send((attempt.number(), attempt.may_have_run()))?;
            match attempt.number() {
                1 => Err("not yet").retry()?,
                2 => pending().await,
                3 => panic!("{PLANNED}"),
                _ => {}
            }
            Ok(())
        }
    });
    let node = claiming.node("a").state(play).attempts(5);
    let node = node.handler_timeout(Duration::from_secs(2));
    let node = node.handlers(handlers![on_payment]).start().await?;
    pay(&node, 0, "one").await?;
    journal.wait(Step::Done, 1, MINUTE).await;
    claiming.bus.quiet(10 * MINUTE).await;
    let expected = [(1, false), (2, true), (3, true), (4, true)];
    assert_eq!(drain(&mut told), expected);
    let stats = node.handlers()[0].stats;
    assert_eq!((stats.handled, stats.failed, stats.retried), (1, 3, 3));
    assert_eq!((stats.lost, stats.duplicates), (0, 0));
    assert!(dead_letters(node.backend()).await?.is_empty());
    Ok(())
}

/// Row 42: a copy does not run before the delay that the first one's error names, or if it does, counts as
/// the next attempt.
async fn a_named_delay_holds_its_copies_too(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let bus = bus.with_short_window();
    let (takes, delay) = (a_while(&bus), bus.by_clock(MINUTE, 4 * a_while(&bus)));
    let play = journal.play(move |scene| async move {
        tokio::time::sleep(takes).await;
        match scene.attempt {
            1 => Err(HandlerError::retry_after("busy", delay)),
            _ => Ok(()),
        }
    });
    let nodes = two_copies(&Claiming::own(bus.clone()), play).await?;
    journal.wait(Step::Done, 1, 3 * MINUTE).await;
    wait_until("the copy is acked", 2 * MINUTE, || {
        duplicates(&[&nodes[0], &nodes[1]]) == 1
    })
    .await;
    bus.quiet(10 * MINUTE).await;
    let starts = journal.starts(0);
    let attempts: Vec<_> = starts.iter().map(|note| note.attempt).collect();
    assert_eq!(attempts, [1, 2]);
    // Elsewhere a claim that was given up is free, and the copy takes it.
    if bus.subject().is_embedded() {
        assert!(starts[1].at - starts[0].at >= delay, "before its delay");
    }
    assert_eq!(duplicates(&[&nodes[0], &nodes[1]]), 1);
    Ok(())
}

/// Row 42: after its last attempt an id is dead, once: a later copy is neither handled nor a letter.
async fn attempts_that_are_exhausted(bus: Bus) -> Result<()> {
    given_up(&Claiming::own(bus.with_short_window()), 3, || {
        HandlerError::retry("never")
    })
    .await
}

/// Row 42: after a terminal error too.
async fn a_terminal_error(bus: Bus) -> Result<()> {
    given_up(&Claiming::own(bus.with_short_window()), 1, || {
        HandlerError::terminal("never")
    })
    .await
}

pub(super) async fn given_up(
    claiming: &Claiming,
    attempts: usize,
    error: fn() -> HandlerError,
) -> Result<()> {
    let journal = Journal::default();
    let play =
        journal.play(move |scene| async move { if scene.id == 0 { Err(error()) } else { Ok(()) } });
    let node = claiming.node("a").state(play).attempts(3);
    let node = node.handlers(handlers![on_payment]).start().await?;
    pay(&node, 0, "poison").await?;
    pay(&node, 1, "good").await?;
    let letters = wait_for_dead_letters(node.backend(), 1).await?;
    let letter = &letters[0];
    assert_eq!(letter.envelope.id(), Some(MessageId::from_key("poison")));
    assert_eq!(letter.generation, 0);
    claiming.bus.after_the_window().await;
    assert!(!pay(&node, 0, "poison").await?);
    claiming.bus.quiet(10 * MINUTE).await;
    assert_eq!(journal.starts(0).len(), attempts);
    assert_eq!(journal.handled(), [1]);
    assert_eq!(dead_letters(node.backend()).await?.len(), 1);
    Ok(())
}

/// Each group, and each node of an `each_node` handler, handles one id once.
async fn each_node_and_each_group(bus: Bus) -> Result<()> {
    let bus = bus.with_short_window();
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.attempt == 1 {
            Err("not yet").retry()?;
        }
        Ok(())
    });
    let mut nodes = Vec::new();
    for id in ["a", "b", "c"] {
        let node = bus.node(id).state(play.clone());
        let handlers = handlers![on_payment, audit_payment, each_payment];
        nodes.push(node.handlers(handlers).start().await?);
    }
    for _ in 0..2 {
        for id in 0..10 {
            pay(&nodes[0], id, &id.to_string()).await?;
        }
        bus.after_the_window().await;
    }
    let all: Vec<_> = (0..10).collect();
    assert_eq!(journal.handled_by("on_payment"), all);
    assert_eq!(journal.handled_by("audit_payment"), all);
    for node in ["a", "b", "c"] {
        let done = journal.all(Step::Done).into_iter();
        let own = done.filter(|note| note.handler == "each_payment" && note.node == node);
        let ids: Vec<_> = own.map(|note| note.id).collect();
        assert_eq!(
            (ids.len(), BTreeSet::from_iter(ids).len()),
            (10, 10),
            "{node}"
        );
    }
    let nodes: Vec<_> = nodes.iter().collect();
    assert_eq!(duplicates(&nodes), 10 * (1 + 1 + 3));
    Ok(())
}
