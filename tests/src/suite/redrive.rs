//! What was given up is looked at, handed to its handler again, or deleted: row 37.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use catga::prelude::{Catga, FailWith, Result, handlers};
use catga::{
    CatgaBuilder, DeadLetter, DeadLetterFilter, DeadLetterId, ErrorKind, MessageId, Name,
    ReasonKind,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::harness::{Bus, SOON, poll_then_drop, scenarios, wait_for_dead_letters};
use crate::journal::{Journal, Play, Step};
use crate::messages::{Other, Work, audit_work, on_other, on_work};
use crate::reliable::{Payment, drain, on_payment, pay};

scenarios! { Backend "redrive":
    Paused pages,
    Paused inspected,
    Paused purged,
    Paused all_of_them,
    Paused all_of_them_while_some_are_purged,
    Paused what_is_given_up_again_meanwhile,
    Paused killed_half_way [37],
    Paused killed_half_way_at_least_once,
    Paused twice_at_once,
    Paused unknown_letters,
    Paused after_the_end,
}

const MINUTE: Duration = Duration::from_secs(60);

/// How many generations fail. From 0 on, it can be changed while handlers run.
#[derive(Clone)]
pub(super) struct Broken(Arc<AtomicU32>);

/// A run as its handler was told: the node, the id in the message, the attempt, whether it may have run.
pub(super) type Run = (String, u32, u32, bool);

impl Broken {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicU32::new(1)))
    }

    pub(super) fn mend(&self) {
        self.0.store(0, Ordering::SeqCst);
    }

    /// A part that fails as long as it is broken.
    pub(super) fn play(&self, journal: &Journal) -> (Play, UnboundedReceiver<Run>) {
        let (tell, told) = unbounded_channel();
        let broken = self.clone();
        let play = journal.play(move |scene| {
            let (tell, fails) = (tell.clone(), broken.0.load(Ordering::SeqCst) > 0);
            async move {
                let attempt = scene.context.attempt();
                let node = scene.context.node().to_string();
                // Not every scenario listens.
                let _ = tell.send((node, scene.id, attempt.number(), attempt.may_have_run()));
                if fails {
                    Err("broken").retry()?;
                }
                Ok(())
            }
        });
        (play, told)
    }
}

pub(super) fn runs(told: &mut UnboundedReceiver<Run>) -> Vec<(u32, bool)> {
    let told = drain(told).into_iter();
    told.map(|(_, _, number, ran)| (number, ran)).collect()
}

pub(super) async fn letters(node: &Catga) -> Result<Vec<DeadLetter>> {
    let mut walk = node.dead_letters().walk(&DeadLetterFilter::all());
    let mut letters = Vec::new();
    while let Some(letter) = walk.next().await? {
        letters.push(letter);
    }
    Ok(letters)
}

/// Waits for letters, and returns them as the application shows them.
pub(super) async fn wait_for(bus: &Bus, node: &Catga, count: usize) -> Result<Vec<DeadLetter>> {
    wait_for_dead_letters(node.backend(), count).await?;
    bus.quiet(MINUTE).await;
    let letters = letters(node).await?;
    assert_eq!(letters.len(), count);
    Ok(letters)
}

pub(super) fn node(bus: &Bus, id: &str, play: Play) -> CatgaBuilder {
    bus.node(id).state(play).attempts(2)
}

/// Two kinds of letters, of two groups, and the node that has them.
async fn a_store_of_letters(bus: &Bus, count: u32) -> Result<(Catga, Broken, Journal)> {
    let (broken, journal) = (Broken::new(), Journal::default());
    let (play, _) = broken.play(&journal);
    let node = bus.node("a").state(play).attempts(1);
    let node = node.handlers(handlers![on_work, on_other, audit_work]);
    let node = node.start().await?;
    for id in 0..count {
        node.publish(Work { id }).await?;
        node.publish(Other { id }).await?;
    }
    wait_for_dead_letters(node.backend(), 3 * count as usize).await?;
    Ok((node, broken, journal))
}

fn of(message: &'static str, group: &'static str) -> DeadLetterFilter {
    let filter = DeadLetterFilter::all();
    let filter = filter.with_message(Name::from_static(message));
    filter.with_group(Name::from_static(group))
}

/// Letters come in pages, the oldest first, each letter once, and only those that are asked for.
async fn pages(bus: Bus) -> Result<()> {
    let (node, ..) = a_store_of_letters(&bus, 90).await?;
    let queue = node.dead_letters();
    for (filter, expected) in [
        (DeadLetterFilter::all(), 270),
        (
            DeadLetterFilter::all().with_message(Name::from_static("Work")),
            180,
        ),
        (
            DeadLetterFilter::all().with_group(Name::from_static("workers")),
            180,
        ),
        (of("Work", "audit"), 90),
        (of("Other", "audit"), 0),
    ] {
        let mut page = queue.list(&filter).await?;
        let mut seen = page.letters;
        while let Some(next) = page.next {
            page = queue.list_after(&filter, &next).await?;
            assert!(!page.letters.is_empty(), "a page of nothing");
            seen.extend(page.letters);
        }
        assert_eq!(seen.len(), expected);
        assert!(seen.iter().all(|letter| filter.matches(letter)));
        assert!(
            seen.is_sorted_by(|a, b| a.id < b.id),
            "not by age, or twice"
        );
        let mut walk = queue.walk(&filter);
        for letter in &seen {
            let next = walk.next().await?.expect("the walk ends too early");
            assert_eq!(next.id, letter.id);
        }
        assert!(walk.next().await?.is_none());
    }
    Ok(())
}

/// A letter shows everything of its message; looking at it changes nothing.
async fn inspected(bus: Bus) -> Result<()> {
    let (broken, journal) = (Broken::new(), Journal::default());
    let (play, _told) = broken.play(&journal);
    let a = node(&bus, "a", play).handlers(handlers![on_payment]);
    let a = a.start().await?;
    let payment = a.message(Payment { id: 7 }).header("tenant", "acme");
    payment.id(MessageId::from_key("one")).publish().await?;
    let listed = wait_for(&bus, &a, 1).await?;
    for _ in 0..2 {
        let letter = a.dead_letters().inspect(&listed[0].id).await?;
        let letter = letter.expect("it is there");
        assert_eq!(letter.envelope.id(), Some(MessageId::from_key("one")));
        assert_eq!(letter.envelope.name().as_str(), "Payment");
        assert_eq!(letter.envelope.headers().get("tenant"), Some("acme"));
        assert_eq!((letter.group.as_str(), letter.node), ("workers", None));
        assert_eq!(letter.reason.kind, ReasonKind::Exhausted);
        assert!(letter.reason.detail.contains("broken"), "{}", letter.reason);
        assert_eq!((letter.deliveries, letter.generation), (2, 0));
        assert!(letter.published_at <= letter.dead_at);
    }
    assert_eq!(journal.count(Step::Started), 2);
    Ok(())
}

/// A purge deletes what it is asked for, says how many, and nothing else.
async fn purged(bus: Bus) -> Result<()> {
    let (node, broken, journal) = a_store_of_letters(&bus, 10).await?;
    let queue = node.dead_letters();
    let gone = queue.list(&of("Work", "audit")).await?.letters;
    assert_eq!(queue.purge(&of("Work", "audit")).await?, 10);
    assert_eq!(queue.purge(&of("Work", "audit")).await?, 0);
    assert_eq!(letters(&node).await?.len(), 20);
    assert!(queue.inspect(&gone[0].id).await?.is_none());
    let error = queue.redrive(&gone[0].id).await.expect_err("it is gone");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    broken.mend();
    assert_eq!(queue.purge(&DeadLetterFilter::all()).await?, 20);
    bus.quiet(10 * MINUTE).await;
    assert_eq!(journal.count(Step::Done), 0, "purged, and run");
    Ok(())
}

/// All that are meant are redriven, and counted; others stay.
async fn all_of_them(bus: Bus) -> Result<()> {
    let (node, broken, journal) = a_store_of_letters(&bus, 90).await?;
    broken.mend();
    let queue = node.dead_letters();
    let workers = DeadLetterFilter::all().with_group(Name::from_static("workers"));
    assert_eq!(queue.redrive_all(&workers).await?, 180);
    journal.wait(Step::Done, 180, SOON).await;
    assert_eq!(queue.redrive_all(&workers).await?, 0);
    bus.quiet(MINUTE).await;
    let all: Vec<_> = (0..90).collect();
    assert_eq!(journal.handled_by("on_work"), all);
    assert_eq!(journal.handled_by("on_other"), all);
    assert!(journal.handled_by("audit_work").is_empty());
    assert_eq!(letters(&node).await?.len(), 90);
    Ok(())
}

/// Each letter is redriven or purged, never both, whoever is first.
async fn all_of_them_while_some_are_purged(bus: Bus) -> Result<()> {
    let (node, broken, journal) = a_store_of_letters(&bus, 40).await?;
    broken.mend();
    let queue = node.dead_letters();
    let all = DeadLetterFilter::all();
    let mut redrive = std::pin::pin!(queue.redrive_all(&all));
    // Some are redriven, then some are purged, then the rest is redriven.
    let begun = poll_then_drop(20, redrive.as_mut()).await;
    let purged = queue.purge(&of("Work", "workers")).await?;
    let redriven = match begun {
        Some(redriven) => redriven?,
        None => redrive.await?,
    };
    assert!(purged > 0, "it came too late to tell anything");
    assert_eq!(purged + redriven, 120);
    journal
        .wait(Step::Done, usize::try_from(redriven)?, SOON)
        .await;
    bus.quiet(MINUTE).await;
    assert_eq!(journal.count(Step::Done), usize::try_from(redriven)?);
    assert!(letters(&node).await?.is_empty());
    Ok(())
}

/// What is given up again while others are redriven stays: the call ends.
async fn what_is_given_up_again_meanwhile(bus: Bus) -> Result<()> {
    let (node, _broken, journal) = a_store_of_letters(&bus, 40).await?;
    let queue = node.dead_letters();
    assert_eq!(queue.redrive_all(&DeadLetterFilter::all()).await?, 120);
    wait_for_dead_letters(node.backend(), 120).await?;
    bus.quiet(10 * MINUTE).await;
    let letters = letters(&node).await?;
    assert_eq!(letters.len(), 120);
    assert!(letters.iter().all(|letter| letter.generation == 1));
    assert_eq!(journal.count(Step::Started), 240);
    Ok(())
}

/// Row 37: a redrive that is killed, wherever it stands, and asked for again, neither loses nor doubles.
async fn killed_half_way(bus: Bus) -> Result<()> {
    let (broken, journal) = (Broken::new(), Journal::default());
    let (play, mut told) = broken.play(&journal);
    let a = bus.node("a").state(play).attempts(1);
    let a = a.handlers(handlers![on_payment]).start().await?;
    for id in 0..20 {
        pay(&a, id, &id.to_string()).await?;
    }
    killed(&bus, &a, &broken, &journal).await?;
    let runs = runs(&mut told);
    assert!(runs.iter().all(|(number, _)| *number == 1), "{runs:?}");
    Ok(())
}

/// At QoS 1 nobody suppresses a double: there is none.
async fn killed_half_way_at_least_once(bus: Bus) -> Result<()> {
    let (broken, journal) = (Broken::new(), Journal::default());
    let (play, _told) = broken.play(&journal);
    let a = bus.node("a").state(play).attempts(1);
    let a = a.handlers(handlers![on_work]).start().await?;
    for id in 0..20 {
        a.publish(Work { id }).await?;
    }
    killed(&bus, &a, &broken, &journal).await
}

async fn killed(bus: &Bus, a: &Catga, broken: &Broken, journal: &Journal) -> Result<()> {
    let letters_of = wait_for(bus, a, 20).await?;
    broken.mend();
    let mut whole = None;
    for (polls, letter) in letters_of.iter().enumerate() {
        let queue = a.dead_letters();
        let done = poll_then_drop(polls, queue.redrive(&letter.id)).await;
        if done.transpose()?.is_some() && whole.is_none() {
            whole = Some(polls);
        }
        // Once more, as whoever was killed would.
        match queue.redrive(&letter.id).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => other?,
        }
    }
    let whole = whole.expect("20 polls are not enough");
    assert!(whole > 0, "nothing was cut off");
    journal.wait(Step::Done, 20, SOON).await;
    bus.quiet(10 * MINUTE).await;
    assert_eq!(journal.handled(), (0..20).collect::<Vec<_>>());
    assert!(letters(a).await?.is_empty());
    Ok(())
}

/// Two that redrive one letter at once redrive it once.
async fn twice_at_once(bus: Bus) -> Result<()> {
    let (node, broken, journal) = a_store_of_letters(&bus, 10).await?;
    let other = bus.observer().await?;
    broken.mend();
    let all = DeadLetterFilter::all();
    let (a, b) = (node.dead_letters(), other.dead_letters());
    let (one, two) = tokio::join!(a.redrive_all(&all), b.redrive_all(&all));
    assert_eq!(one? + two?, 30);
    journal.wait(Step::Done, 30, SOON).await;
    bus.quiet(MINUTE).await;
    assert_eq!(journal.count(Step::Done), 30);
    Ok(())
}

/// A letter that is not there, or an id that is none, is not found, and nothing happens.
async fn unknown_letters(bus: Bus) -> Result<()> {
    let (node, ..) = a_store_of_letters(&bus, 2).await?;
    let queue = node.dead_letters();
    let real = letters(&node).await?.remove(0).id;
    for id in [
        "",
        "x",
        "~",
        "0~",
        "ffffffffffffffff~Work",
        "0~Nothing",
        "0~Work~Work",
    ] {
        let id = DeadLetterId::new(id);
        assert_ne!(id, real);
        assert!(queue.inspect(&id).await?.is_none(), "{id}");
        let error = queue.redrive(&id).await.expect_err("there is none");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    assert_eq!(letters(&node).await?.len(), 6);
    Ok(())
}

/// A queue that outlives its application says so.
async fn after_the_end(bus: Bus) -> Result<()> {
    let (node, ..) = a_store_of_letters(&bus, 1).await?;
    let queue = node.dead_letters();
    let id = letters(&node).await?.remove(0).id;
    node.shutdown().await?;
    let all = DeadLetterFilter::all();
    let kinds = [
        queue.list(&all).await.map(drop),
        queue.inspect(&id).await.map(drop),
        queue.redrive(&id).await,
        queue.redrive_all(&all).await.map(drop),
        queue.purge(&all).await.map(drop),
    ];
    for outcome in kinds {
        assert_eq!(outcome.map_err(|e| e.kind()), Err(ErrorKind::Closed));
    }
    Ok(())
}
