//! A redriven message runs once more where it was given up, and nowhere else: row 37.

use std::collections::BTreeSet;
use std::time::Duration;

use catga::MessageId;
use catga::prelude::{Catga, FailWith, Result, handlers};
use tokio::sync::mpsc::unbounded_channel;

use super::redrive::{Broken, letters, node, runs, wait_for};
use crate::harness::{Bus, SOON, scenarios, wait_until};
use crate::journal::{Journal, Step};
use crate::messages::{Work, audit_work, each_work, on_work};
use crate::reliable::{
    Booked, Books, Claiming, audit_payment, drain, duplicates, each_payment, on_booked, on_payment,
    pay,
};

scenarios! { Backend "redrive_once":
    Paused redriven [37],
    Paused redriven_exactly_once [37],
    Paused redriven_in_a_given_inbox [37],
    Paused redriven_and_given_up_again [37],
    Paused redriven_and_given_up_again_in_a_given_inbox [37],
    Paused a_copy_of_the_old_generation [37, 40],
    Paused a_copy_of_the_old_generation_in_a_given_inbox [37, 40],
    Paused a_copy_of_two_generations_ago,
    Paused a_copy_of_two_generations_ago_in_a_given_inbox,
    Paused what_follows_from_a_redrive,
    Paused to_one_node [37],
    Paused to_one_node_exactly_once [37],
    Paused to_a_group_without_members [37],
}

const MINUTE: Duration = Duration::from_secs(60);

/// Row 37: a redriven message goes to the group that failed alone, with all its attempts, and is told that it may have run.
async fn redriven(bus: Bus) -> Result<()> {
    let (broken, journal, healthy) = (Broken::new(), Journal::default(), Journal::default());
    let (play, mut told) = broken.play(&journal);
    let a = node(&bus, "a", play).handlers(handlers![on_work]);
    let a = a.start().await?;
    let b = node(&bus, "b", healthy.plain()).handlers(handlers![audit_work]);
    let _b = b.start().await?;
    let work = a.message(Work { id: 0 }).id(MessageId::from_key("one"));
    work.publish().await?;
    let letter = wait_for(&bus, &a, 1).await?.remove(0);
    assert_eq!(runs(&mut told), [(1, false), (2, true)]);
    broken.mend();
    a.dead_letters().redrive(&letter.id).await?;
    journal.wait(Step::Done, 1, SOON).await;
    bus.quiet(10 * MINUTE).await;
    assert_eq!(runs(&mut told), [(1, true)]);
    assert_eq!(healthy.handled(), [0], "the healthy group saw it again");
    assert!(letters(&a).await?.is_empty());
    assert!(a.dead_letters().inspect(&letter.id).await?.is_none());
    Ok(())
}

/// Row 37 at QoS 2: its id was dead, and runs all the same; then it is done.
async fn redriven_exactly_once(bus: Bus) -> Result<()> {
    redriven_once(&Claiming::own(bus.with_short_window())).await
}

/// Row 37 in a given inbox.
async fn redriven_in_a_given_inbox(bus: Bus) -> Result<()> {
    redriven_once(&Claiming::given(bus.with_short_window()).await?).await
}

async fn redriven_once(claiming: &Claiming) -> Result<()> {
    let (broken, journal, healthy) = (Broken::new(), Journal::default(), Journal::default());
    let (play, mut told) = broken.play(&journal);
    let a = claiming.node("a").attempts(2).state(play);
    let a = a.handlers(handlers![on_payment]).start().await?;
    let b = claiming.node("b").state(healthy.plain());
    let _b = b.handlers(handlers![audit_payment]).start().await?;
    pay(&a, 0, "one").await?;
    let letter = wait_for(&claiming.bus, &a, 1).await?.remove(0);
    assert_eq!(runs(&mut told), [(1, false), (2, true)]);
    broken.mend();
    a.dead_letters().redrive(&letter.id).await?;
    journal.wait(Step::Done, 1, SOON).await;
    claiming.bus.after_the_window().await;
    assert_eq!(runs(&mut told), [(1, true)]);
    assert!(!pay(&a, 0, "one").await?);
    wait_until("it is known as done", SOON, || duplicates(&[&a]) == 1).await;
    claiming.bus.quiet(10 * MINUTE).await;
    assert_eq!((journal.handled(), healthy.handled()), (vec![0], vec![0]));
    assert!(letters(&a).await?.is_empty());
    Ok(())
}

/// Row 37: what is given up again has another letter, of the next generation, and can be redriven again.
async fn redriven_and_given_up_again(bus: Bus) -> Result<()> {
    generations(&Claiming::own(bus.with_short_window())).await
}

/// Row 37 in a given inbox.
async fn redriven_and_given_up_again_in_a_given_inbox(bus: Bus) -> Result<()> {
    generations(&Claiming::given(bus.with_short_window()).await?).await
}

async fn generations(claiming: &Claiming) -> Result<()> {
    let (broken, journal) = (Broken::new(), Journal::default());
    let (play, mut told) = broken.play(&journal);
    let a = claiming.node("a").attempts(2).state(play);
    let a = a.handlers(handlers![on_payment, on_work]).start().await?;
    pay(&a, 0, "one").await?;
    a.publish(Work { id: 0 }).await?;
    let mut ids = BTreeSet::new();
    for generation in 0..3 {
        let letters = wait_for(&claiming.bus, &a, 2).await?;
        let mut expected = [(1, generation > 0), (2, true)].repeat(2);
        expected.sort_unstable();
        let mut runs = runs(&mut told);
        runs.sort_unstable();
        assert_eq!(runs, expected, "of generation {generation}");
        for letter in letters {
            assert_eq!((letter.generation, letter.deliveries), (generation, 2));
            if generation == 2 {
                broken.mend();
            }
            a.dead_letters().redrive(&letter.id).await?;
            assert!(ids.insert(letter.id), "a letter of before");
        }
    }
    journal.wait(Step::Done, 2, SOON).await;
    claiming.bus.quiet(10 * MINUTE).await;
    assert_eq!(runs(&mut told), [(1, true), (1, true)]);
    assert!(letters(&a).await?.is_empty());
    Ok(())
}

/// Row 37 with row 40: a copy of the generation that was given up neither runs nor is a letter, before, while and after the redriven one runs.
async fn a_copy_of_the_old_generation(bus: Bus) -> Result<()> {
    old_copies(&Claiming::own(bus.with_short_window())).await
}

/// Row 37 with row 40 in a given inbox.
async fn a_copy_of_the_old_generation_in_a_given_inbox(bus: Bus) -> Result<()> {
    old_copies(&Claiming::given(bus.with_short_window()).await?).await
}

async fn old_copies(claiming: &Claiming) -> Result<()> {
    let (tell, mut told) = unbounded_channel();
    let journal = Journal::default();
    // Long enough for a copy to come meanwhile.
    let takes = Duration::from_secs(5);
    let takes = claiming.bus.by_clock(10 * MINUTE, takes);
    let play = journal.play(move |scene| {
        let tell = tell.clone();
        async move {
            let attempt = scene.context.attempt();
            tell.send((attempt.number(), attempt.may_have_run()))?;
            if !attempt.may_have_run() {
                Err("broken").terminal()?;
            }
            tokio::time::sleep(takes).await;
            Ok(())
        }
    });
    let a = claiming.node("a").state(play);
    let a = a.handler_timeout(2 * takes);
    let a = a.handlers(handlers![on_payment]).start().await?;
    pay(&a, 0, "one").await?;
    let letter = wait_for(&claiming.bus, &a, 1).await?.remove(0);
    claiming.bus.after_the_window().await;
    assert!(!pay(&a, 0, "one").await?);
    claiming.bus.after_the_window().await;
    assert_eq!(
        letters(&a).await?.len(),
        1,
        "the copy is a letter of its own"
    );
    a.dead_letters().redrive(&letter.id).await?;
    journal.wait(Step::Started, 2, SOON).await;
    assert!(!pay(&a, 0, "one").await?);
    claiming.bus.after_the_window().await;
    assert!(letters(&a).await?.is_empty(), "dead, and running");
    journal.wait(Step::Done, 1, 20 * MINUTE).await;
    assert!(!pay(&a, 0, "one").await?);
    claiming.bus.quiet(30 * MINUTE).await;
    assert_eq!(drain(&mut told), [(1, false), (1, true)]);
    assert!(letters(&a).await?.is_empty(), "dead, and done");
    Ok(())
}

/// A copy of generation 0 while generation 1 is dead is neither a run nor a letter.
async fn a_copy_of_two_generations_ago(bus: Bus) -> Result<()> {
    older_copies(&Claiming::own(bus.with_short_window())).await
}

/// The same in a given inbox.
async fn a_copy_of_two_generations_ago_in_a_given_inbox(bus: Bus) -> Result<()> {
    older_copies(&Claiming::given(bus.with_short_window()).await?).await
}

async fn older_copies(claiming: &Claiming) -> Result<()> {
    let (broken, journal) = (Broken::new(), Journal::default());
    let (play, mut told) = broken.play(&journal);
    let a = claiming.node("a").attempts(1).state(play);
    let a = a.handlers(handlers![on_payment]).start().await?;
    pay(&a, 0, "one").await?;
    let letter = wait_for(&claiming.bus, &a, 1).await?.remove(0);
    a.dead_letters().redrive(&letter.id).await?;
    journal.wait(Step::Started, 2, SOON).await;
    claiming.bus.after_the_window().await;
    assert!(!pay(&a, 0, "one").await?);
    claiming.bus.quiet(10 * MINUTE).await;
    let kept = letters(&a).await?;
    let generations: Vec<_> = kept.iter().map(|letter| letter.generation).collect();
    assert_eq!(generations, [1], "the copy is a letter of its own");
    broken.mend();
    a.dead_letters().redrive(&kept[0].id).await?;
    claiming.bus.quiet(10 * MINUTE).await;
    assert_eq!(runs(&mut told), [(1, false), (1, true), (1, true)]);
    assert_eq!(journal.handled(), [0]);
    assert!(letters(&a).await?.is_empty());
    Ok(())
}

/// What a redriven run publishes again is a duplicate: it follows from the same message.
async fn what_follows_from_a_redrive(bus: Bus) -> Result<()> {
    let bus = bus.with_short_window();
    let (journal, booked) = (Journal::default(), Journal::default());
    let play = journal.play(|scene| async move {
        scene.context.publish(Booked { id: 1 }).await?;
        if !scene.context.attempt().may_have_run() {
            Err("broken").terminal()?;
        }
        Ok(())
    });
    let a = bus.node("a").state(play).state(Books(booked.plain()));
    let a = a.handlers(handlers![on_payment, on_booked]).start().await?;
    pay(&a, 0, "one").await?;
    let letter = wait_for(&bus, &a, 1).await?.remove(0);
    bus.after_the_window().await;
    a.dead_letters().redrive(&letter.id).await?;
    journal.wait(Step::Done, 1, SOON).await;
    bus.quiet(MINUTE).await;
    assert_eq!(
        (booked.handled(), journal.count(Step::Started)),
        (vec![1], 2)
    );
    Ok(())
}

/// Row 37: the letter of one node of an `each_node` handler goes to that node alone.
async fn to_one_node(bus: Bus) -> Result<()> {
    let (broken, journal, healthy) = (Broken::new(), Journal::default(), Journal::default());
    let (play, mut told) = broken.play(&journal);
    let a = node(&bus, "a", play).handlers(handlers![each_work]);
    let a = a.start().await?;
    let b = node(&bus, "b", healthy.plain()).handlers(handlers![each_work]);
    let b = b.start().await?;
    b.publish(Work { id: 0 }).await?;
    one_node(&bus, &a, &b, &broken, &journal, &healthy).await?;
    assert_eq!(runs(&mut told), [(1, false), (2, true), (1, true)]);
    Ok(())
}

/// Row 37 for each node, at QoS 2.
async fn to_one_node_exactly_once(bus: Bus) -> Result<()> {
    let (broken, journal, healthy) = (Broken::new(), Journal::default(), Journal::default());
    let (play, mut told) = broken.play(&journal);
    let a = node(&bus, "a", play).handlers(handlers![each_payment]);
    let a = a.start().await?;
    let b = node(&bus, "b", healthy.plain()).handlers(handlers![each_payment]);
    let b = b.start().await?;
    pay(&b, 0, "one").await?;
    one_node(&bus, &a, &b, &broken, &journal, &healthy).await?;
    assert_eq!(runs(&mut told), [(1, false), (2, true), (1, true)]);
    Ok(())
}

async fn one_node(
    bus: &Bus,
    a: &Catga,
    b: &Catga,
    broken: &Broken,
    journal: &Journal,
    healthy: &Journal,
) -> Result<()> {
    let letter = wait_for(bus, b, 1).await?.remove(0);
    let named = letter.node.as_ref().map(|node| node.as_str().to_owned());
    assert_eq!(named.as_deref(), Some("a"));
    broken.mend();
    // By the node that did not fail.
    b.dead_letters().redrive(&letter.id).await?;
    journal.wait(Step::Done, 1, SOON).await;
    bus.quiet(10 * MINUTE).await;
    assert_eq!((journal.handled(), healthy.handled()), (vec![0], vec![0]));
    assert!(letters(a).await?.is_empty());
    Ok(())
}

/// Row 37: what is redriven while its group has no member waits for one.
async fn to_a_group_without_members(bus: Bus) -> Result<()> {
    let observer = bus.observer().await?;
    let (broken, journal) = (Broken::new(), Journal::default());
    let (play, _told) = broken.play(&journal);
    let a = node(&bus, "a", play.clone()).handlers(handlers![on_payment]);
    let a = a.start().await?;
    pay(&observer, 0, "one").await?;
    let letter = wait_for(&bus, &observer, 1).await?.remove(0);
    a.shutdown().await?;
    broken.mend();
    observer.dead_letters().redrive(&letter.id).await?;
    bus.quiet(10 * MINUTE).await;
    let b = node(&bus, "b", play).handlers(handlers![on_payment]);
    let _b = b.start().await?;
    journal.wait(Step::Done, 1, SOON).await;
    assert_eq!(journal.handled(), [0]);
    Ok(())
}
