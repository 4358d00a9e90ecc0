//! What becomes of messages while their inbox fails: row 43.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use catga::HandlerError;
use catga::prelude::{Catga, Result, handlers};
use catga_core::ClaimEnd;

use crate::flawed::{Asked, Mood, Moody};
use crate::harness::{Bus, SOON, dead_letters, scenarios, wait_until};
use crate::journal::{Journal, Play, Step};
use crate::reliable::{
    Claiming, assert_no_overlap, duplicates, inbox_of_another_bus, lost, on_payment, pay,
};

scenarios! { Runtime "inbox_faults":
    Paused out_of_reach [43],
    Paused a_claim_that_is_never_answered [43],
    Paused a_claim_whose_answer_is_lost [43],
    Paused a_claim_that_comes_after_the_end,
    Paused a_renewal_that_fails_for_a_while [43],
    Paused a_renewal_that_is_never_answered [43],
    Paused a_renewal_that_is_refused [43],
    Paused a_completion_whose_answer_is_lost,
    Paused a_completion_that_fails_for_a_while [43],
    Paused a_completion_that_is_never_answered [43],
    Paused a_completion_that_is_refused [43],
    Paused a_release_whose_answer_is_lost,
    Paused a_release_that_fails [43],
    Paused a_release_that_is_refused [43],
    Paused a_burial_that_is_refused [43],
}

const MINUTE: Duration = Duration::from_secs(60);
/// Longer than the duplicate window.
const AFTER_THE_WINDOW: Duration = Duration::from_secs(180);

/// Claims in an inbox of moods.
async fn moody(bus: Bus, mood: impl Fn(Asked) -> Mood + Send + Sync + 'static) -> Result<Claiming> {
    let inbox = Moody::around(inbox_of_another_bus().await?, mood);
    let inbox = Some(inbox);
    Ok(Claiming { bus, inbox })
}

/// An inbox that is in `mood` the first `times` that it is asked this.
async fn moody_at_first(bus: Bus, asked: Asked, times: u32, mood: Mood) -> Result<Claiming> {
    let left = AtomicU32::new(times);
    let take = move || left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
    let pick = move |now| {
        if now == asked && take().is_ok() {
            mood
        } else {
            Mood::Well
        }
    };
    moody(bus, pick).await
}

async fn member(claiming: &Claiming, id: &str, play: &Play) -> Result<Catga> {
    let node = claiming.node(id).state(play.clone()).attempts(3);
    let node = node.concurrency(1).handler_timeout(5 * MINUTE);
    Ok(node.handlers(handlers![on_payment]).start().await?)
}

/// Asserts what is to hold after all of these: one run of each of two messages that counts, and nothing
/// left over.
async fn all_done_once(nodes: &[&Catga], journal: &Journal) -> Result<()> {
    wait_until("both are handled", 10 * MINUTE, || {
        let handled = journal.handled();
        handled.contains(&0) && handled.contains(&1)
    })
    .await;
    tokio::time::sleep(AFTER_THE_WINDOW).await;
    assert!(dead_letters(nodes[0].backend()).await?.is_empty());
    // The inbox knows them: copies do not run.
    let (started, known) = (journal.count(Step::Started), duplicates(nodes));
    for id in 0..2 {
        assert!(!pay(nodes[0], id, &id.to_string()).await?);
    }
    wait_until("the copies are acked", 5 * MINUTE, || {
        duplicates(nodes) >= known + 2
    })
    .await;
    tokio::time::sleep(20 * MINUTE).await;
    assert_eq!(duplicates(nodes), known + 2, "something was never acked");
    assert_eq!(journal.count(Step::Started), started, "a copy ran");
    Ok(())
}

/// Row 43: while the inbox is out of reach nothing is handled, nothing is acked, and no attempt is used up.
async fn out_of_reach(bus: Bus) -> Result<()> {
    let reachable = Arc::new(AtomicBool::new(false));
    let reached = Arc::clone(&reachable);
    let claiming = moody(bus, move |_| {
        if reached.load(Ordering::SeqCst) {
            Mood::Well
        } else {
            Mood::Unavailable
        }
    })
    .await?;
    let journal = Journal::default();
    let node = member(&claiming, "a", &journal.plain()).await?;
    for id in 0..10 {
        pay(&node, id, &id.to_string()).await?;
    }
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(journal.count(Step::Started), 0, "handled without a claim");
    assert!(dead_letters(node.backend()).await?.is_empty());
    let stats = node.handlers()[0].stats;
    assert_eq!((stats.handled, stats.failed), (0, 0));
    reachable.store(true, Ordering::SeqCst);
    journal.wait(Step::Done, 10, 2 * MINUTE).await;
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(journal.handled(), (0..10).collect::<Vec<_>>());
    let begun = journal.all(Step::Started);
    assert!(begun.iter().all(|note| note.attempt == 1), "counted");
    Ok(())
}

/// Row 43: a claim that is never answered holds up neither its message nor its handler's only place for good.
async fn a_claim_that_is_never_answered(bus: Bus) -> Result<()> {
    let claiming = moody_at_first(bus, Asked::Claim, 1, Mood::Hangs).await?;
    let journal = Journal::default();
    let node = member(&claiming, "a", &journal.plain()).await?;
    for id in 0..2 {
        pay(&node, id, &id.to_string()).await?;
    }
    all_done_once(&[&node], &journal).await?;
    assert_eq!(journal.handled(), [0, 1]);
    Ok(())
}

/// Row 43: a claim that was granted, and nobody heard of it, ends with its lease; then the message runs.
async fn a_claim_whose_answer_is_lost(bus: Bus) -> Result<()> {
    let claiming = moody_at_first(bus, Asked::Claim, 1, Mood::AnswerLost).await?;
    let journal = Journal::default();
    let node = member(&claiming, "a", &journal.plain()).await?;
    for id in 0..2 {
        pay(&node, id, &id.to_string()).await?;
    }
    all_done_once(&[&node], &journal).await?;
    assert_eq!(journal.handled(), [0, 1]);
    Ok(())
}

/// I11: a claim that is granted only when the shutdown is over begins no handler.
async fn a_claim_that_comes_after_the_end(bus: Bus) -> Result<()> {
    let late = Mood::Late(Duration::from_secs(10));
    let claiming = moody_at_first(bus, Asked::Claim, 2, late).await?;
    let journal = Journal::default();
    let a = member(&claiming, "a", &journal.plain()).await?;
    let observer = claiming.bus.observer().await?;
    pay(&observer, 0, "0").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    a.shutdown_within(Duration::from_secs(1)).await?;
    tokio::time::sleep(MINUTE).await;
    assert_eq!(journal.count(Step::Started), 0, "begun after the end");
    let b = member(&claiming, "b", &journal.plain()).await?;
    pay(&observer, 1, "1").await?;
    all_done_once(&[&b], &journal).await?;
    assert_eq!(journal.handled(), [0, 1]);
    Ok(())
}

/// A handler of 100 s, with a lease of 30 s, on two nodes.
async fn slow_on_two_nodes(claiming: &Claiming) -> Result<([Catga; 2], Journal)> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.attempt == 1 && scene.id == 0 {
            tokio::time::sleep(Duration::from_secs(100)).await;
        }
        Ok(())
    });
    let a = member(claiming, "a", &play).await?;
    pay(&a, 0, "0").await?;
    journal.wait(Step::Started, 1, SOON).await;
    let b = member(claiming, "b", &play).await?;
    pay(&b, 1, "1").await?;
    Ok(([a, b], journal))
}

/// Row 43: a renewal that fails is tried again in time: the handler keeps its message.
async fn a_renewal_that_fails_for_a_while(bus: Bus) -> Result<()> {
    let claiming = moody_at_first(bus, Asked::Renew, 1, Mood::Unavailable).await?;
    let ([a, b], journal) = slow_on_two_nodes(&claiming).await?;
    all_done_once(&[&a, &b], &journal).await?;
    assert_eq!(journal.count(Step::Started), 2);
    assert_eq!(lost(&[&a, &b]), 0);
    Ok(())
}

/// Row 43: where no renewal is answered the lease is lost, another runs, and the first cannot complete.
async fn a_renewal_that_is_never_answered(bus: Bus) -> Result<()> {
    let claiming = moody_at_first(bus, Asked::Renew, 1, Mood::Hangs).await?;
    let ([a, b], journal) = slow_on_two_nodes(&claiming).await?;
    all_done_once(&[&a, &b], &journal).await?;
    let renewed = journal.starts(0).len() == 1;
    assert_eq!(lost(&[&a, &b]), u64::from(!renewed));
    Ok(())
}

/// Row 43: whoever is told that the claim is another's does not complete it, and does not hide that.
async fn a_renewal_that_is_refused(bus: Bus) -> Result<()> {
    let claiming = moody_at_first(bus, Asked::Renew, 100, Mood::NotYours).await?;
    let ([a, b], journal) = slow_on_two_nodes(&claiming).await?;
    all_done_once(&[&a, &b], &journal).await?;
    assert_eq!(journal.starts(0).len(), 2);
    assert_eq!(lost(&[&a, &b]), 1);
    Ok(())
}

/// Two payments, with an inbox that is in `mood` at some questions, and a handler that fails at first.
async fn with_mood(
    bus: Bus,
    asked: Asked,
    times: u32,
    mood: Mood,
    failures: u32,
) -> Result<(Journal, u64)> {
    let claiming = moody_at_first(bus, asked, times, mood).await?;
    let journal = Journal::default();
    let play = journal.play(move |scene| async move {
        if scene.id == 0 && scene.attempt <= failures {
            return Err(HandlerError::retry("not yet"));
        }
        Ok(())
    });
    let a = member(&claiming, "a", &play).await?;
    let b = member(&claiming, "b", &play).await?;
    for id in 0..2 {
        pay(&a, id, &id.to_string()).await?;
    }
    all_done_once(&[&a, &b], &journal).await?;
    assert_no_overlap(&journal);
    Ok((journal, lost(&[&a, &b])))
}

fn attempts(journal: &Journal) -> Vec<u32> {
    let starts = journal.starts(0).into_iter();
    starts.map(|note| note.attempt).collect()
}

/// A completion that was recorded, and nobody heard of it, is recorded again: one run, not lost.
async fn a_completion_whose_answer_is_lost(bus: Bus) -> Result<()> {
    let (journal, lost) = with_mood(bus, Asked::Complete, 2, Mood::AnswerLost, 0).await?;
    assert_eq!((journal.handled(), lost), (vec![0, 1], 0));
    Ok(())
}

/// Row 43: a completion that fails is tried again while the claim lasts: one run.
async fn a_completion_that_fails_for_a_while(bus: Bus) -> Result<()> {
    let (journal, lost) = with_mood(bus, Asked::Complete, 2, Mood::Unavailable, 0).await?;
    assert_eq!((journal.handled(), lost), (vec![0, 1], 0));
    Ok(())
}

/// Row 43: a completion that is never answered holds nothing up for good; what was not recorded runs again.
async fn a_completion_that_is_never_answered(bus: Bus) -> Result<()> {
    let claiming = moody_at_first(bus, Asked::Complete, 1, Mood::Hangs).await?;
    let journal = Journal::default();
    let node = member(&claiming, "a", &journal.plain()).await?;
    for id in 0..2 {
        pay(&node, id, &id.to_string()).await?;
    }
    all_done_once(&[&node], &journal).await
}

/// Row 43: a completion that is refused is not acked, and counted.
async fn a_completion_that_is_refused(bus: Bus) -> Result<()> {
    let (journal, lost) = with_mood(bus, Asked::Complete, 1, Mood::NotYours, 0).await?;
    assert_eq!(lost, 1);
    assert_eq!(journal.count(Step::Started), 3, "it was acked");
    Ok(())
}

/// A claim that was given up, and nobody heard of it, is given up again: attempts count once.
async fn a_release_whose_answer_is_lost(bus: Bus) -> Result<()> {
    let failed = Asked::Release(ClaimEnd::Failed);
    let (journal, lost) = with_mood(bus, failed, 2, Mood::AnswerLost, 2).await?;
    assert_eq!((attempts(&journal), lost), (vec![1, 2, 3], 0));
    Ok(())
}

/// Row 43: a claim that cannot be given up ends with its lease, and the next attempt runs then.
async fn a_release_that_fails(bus: Bus) -> Result<()> {
    let failed = Asked::Release(ClaimEnd::Failed);
    let (journal, lost) = with_mood(bus, failed, 10, Mood::Unavailable, 2).await?;
    assert_eq!((attempts(&journal), lost), (vec![1, 2, 3], 0));
    Ok(())
}

/// Row 43: one who failed and is told that the claim is another's leaves it to that one.
async fn a_release_that_is_refused(bus: Bus) -> Result<()> {
    let failed = Asked::Release(ClaimEnd::Failed);
    let (journal, lost) = with_mood(bus, failed, 1, Mood::NotYours, 2).await?;
    assert_eq!((attempts(&journal), lost), (vec![1, 2, 3], 1));
    Ok(())
}

/// Row 43: who is told at the last attempt that the claim is another's makes no dead letter.
async fn a_burial_that_is_refused(bus: Bus) -> Result<()> {
    let dead = Asked::Release(ClaimEnd::Dead);
    let claiming = moody_at_first(bus, dead, 1, Mood::NotYours).await?;
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        match scene.attempt {
            1 => Err(HandlerError::terminal("wrong")),
            _ => Ok(()),
        }
    });
    let node = member(&claiming, "a", &play).await?;
    for id in 0..2 {
        pay(&node, id, &id.to_string()).await?;
    }
    // Of the two one was not buried, and runs again when its lease is over.
    wait_until("one is handled", 5 * MINUTE, || {
        journal.count(Step::Done) == 1
    })
    .await;
    tokio::time::sleep(20 * MINUTE).await;
    assert_eq!(dead_letters(node.backend()).await?.len(), 1);
    assert_eq!((journal.count(Step::Started), lost(&[&node])), (3, 1));
    Ok(())
}
