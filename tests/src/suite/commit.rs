//! Effects that are committed with the claim: all of them when the message completes, once, or none.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use catga::memory::Memory;
use catga::prelude::{Catga, FailWith, Result, handlers};
use catga::{CatgaBuilder, DeadLetterFilter, ErrorKind};
use tokio::sync::mpsc::unbounded_channel;

use super::exactly_once_faults::zombie;
use crate::flawed::{Asked, Mood, Moody};
use crate::harness::{
    Bus, PLANNED, SOON, dead_letters, scenarios, wait_for_dead_letters, wait_until,
};
use crate::journal::{Journal, Step};
use crate::reliable::{
    Claiming, Deposit, inbox_of_another_bus, lost, on_deposit, pay, write_payment,
};

scenarios! { Runtime "commit":
    Paused seen_exactly_when_it_completed,
    Paused seen_exactly_when_it_completed_in_a_given_inbox,
    Paused runs_that_fail_leave_nothing,
    Paused runs_that_fail_leave_nothing_in_a_given_inbox,
    Paused given_up_leaves_nothing,
    Paused killed_before_the_completion,
    Paused killed_before_the_completion_in_a_given_inbox,
    Paused killed_after_the_completion,
    Paused killed_after_the_completion_in_a_given_inbox,
    Paused a_zombie_leaves_nothing,
    Paused a_zombie_leaves_nothing_in_a_given_inbox,
    Paused an_unknown_outcome_is_applied_once,
    Paused a_request_that_commits,
    Paused a_request_that_is_answered_by_its_sender,
}

const MINUTE: Duration = Duration::from_secs(60);
/// Longer than the duplicate window.
const AFTER_THE_WINDOW: Duration = Duration::from_secs(180);

/// How many runs have left their effect.
pub(super) async fn written(node: &Catga) -> Result<usize> {
    let store = node.commit_store::<Memory>().expect("it was checked");
    Ok(store.len().await?)
}

fn writer(claiming: &Claiming, id: &str) -> CatgaBuilder {
    let node = claiming.node(id).attempts(3).handler_timeout(2 * MINUTE);
    node.handlers(handlers![write_payment])
}

/// An effect is not seen while its handler runs, and is when it has completed.
async fn seen_exactly_when_it_completed(bus: Bus) -> Result<()> {
    seen_when_completed(&Claiming::own(bus)).await
}

/// The same in a given inbox: the store is that inbox's.
async fn seen_exactly_when_it_completed_in_a_given_inbox(bus: Bus) -> Result<()> {
    seen_when_completed(&Claiming::given(bus).await?).await
}

async fn seen_when_completed(claiming: &Claiming) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        tokio::time::sleep(MINUTE).await;
        let store = scene.context.commit_store::<Memory>();
        assert!(
            store.expect("it was checked").is_empty().await?,
            "too early"
        );
        Ok(())
    });
    let node = writer(claiming, "a").state(play).start().await?;
    pay(&node, 7, "one").await?;
    journal.wait(Step::Started, 1, SOON).await;
    assert_eq!(written(&node).await?, 0, "before it completed");
    journal.wait(Step::Done, 1, 2 * MINUTE).await;
    wait_until("it is acked", SOON, || {
        node.handlers()[0].stats.in_flight == 0
    })
    .await;
    assert_eq!(written(&node).await?, 1);
    tokio::time::sleep(AFTER_THE_WINDOW).await;
    // A copy is not handled, and writes nothing.
    assert!(!pay(&node, 7, "one").await?);
    tokio::time::sleep(MINUTE).await;
    assert_eq!(
        (written(&node).await?, journal.count(Step::Started)),
        (1, 1)
    );
    Ok(())
}

/// A run that errs, panics or hangs leaves nothing: what is there is of the one that completed.
async fn runs_that_fail_leave_nothing(bus: Bus) -> Result<()> {
    failed_runs(&Claiming::own(bus)).await
}

/// The same in a given inbox.
async fn runs_that_fail_leave_nothing_in_a_given_inbox(bus: Bus) -> Result<()> {
    failed_runs(&Claiming::given(bus).await?).await
}

async fn failed_runs(claiming: &Claiming) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        match scene.attempt {
            1 => Err("not yet").retry()?,
            2 => panic!("{PLANNED}"),
            3 => pending().await,
            _ => {}
        }
        Ok(())
    });
    let node = writer(claiming, "a")
        .attempts(4)
        .state(play)
        .start()
        .await?;
    pay(&node, 7, "one").await?;
    for attempt in 2..=4 {
        journal.wait(Step::Started, attempt, 5 * MINUTE).await;
        let done = journal.count(Step::Done);
        assert!(written(&node).await? <= done, "of attempt {attempt}");
    }
    journal.wait(Step::Done, 1, 5 * MINUTE).await;
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(
        (written(&node).await?, journal.count(Step::Started)),
        (1, 4)
    );
    Ok(())
}

/// What was given up, after its attempts or at once, leaves nothing; when it is redriven, and completes, its effect is there.
async fn given_up_leaves_nothing(bus: Bus) -> Result<()> {
    let mended = Arc::new(AtomicBool::new(false));
    let is_mended = Arc::clone(&mended);
    let journal = Journal::default();
    let play = journal.play(move |scene| {
        let mended = is_mended.load(Ordering::SeqCst);
        async move {
            match scene.id {
                _ if mended => {}
                0 => Err("never").terminal()?,
                _ => Err("never").retry()?,
            }
            Ok(())
        }
    });
    let node = writer(&Claiming::own(bus), "a").state(play).start().await?;
    for id in 0..2 {
        pay(&node, id, &id.to_string()).await?;
    }
    wait_for_dead_letters(node.backend(), 2).await?;
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(
        (written(&node).await?, journal.count(Step::Started)),
        (0, 4)
    );
    mended.store(true, Ordering::SeqCst);
    let redriven = node
        .dead_letters()
        .redrive_all(&DeadLetterFilter::all())
        .await?;
    journal.wait(Step::Done, 2, SOON).await;
    tokio::time::sleep(MINUTE).await;
    assert_eq!((redriven, written(&node).await?), (2, 2));
    Ok(())
}

/// A node that is killed while its handler runs leaves neither claim nor effect: the next node writes it, once.
async fn killed_before_the_completion(bus: Bus) -> Result<()> {
    killed_before(&Claiming::own(bus)).await
}

/// The same in a given inbox.
async fn killed_before_the_completion_in_a_given_inbox(bus: Bus) -> Result<()> {
    killed_before(&Claiming::given(bus).await?).await
}

async fn killed_before(claiming: &Claiming) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.context.node().as_str() != "last" {
            pending::<()>().await;
        }
        Ok(())
    });
    let observer = claiming.node("observer").handlers(handlers![]);
    let observer = observer.start().await?;
    pay(&observer, 7, "one").await?;
    for (i, id) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let node = writer(claiming, id).state(play.clone()).start().await?;
        journal.wait(Step::Started, i + 1, SOON).await;
        if i % 2 == 0 {
            drop(node);
        } else {
            node.shutdown_within(Duration::ZERO).await?;
        }
        wait_until("it is dropped", SOON, || journal.running() == 0).await;
        assert_eq!(written(&observer).await?, 0);
    }
    let _last = writer(claiming, "last").state(play).start().await?;
    journal.wait(Step::Done, 1, SOON).await;
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(
        (written(&observer).await?, journal.count(Step::Started)),
        (1, 5)
    );
    Ok(())
}

/// A node that is killed right after its handler returned leaves both claim and effect, or neither: at
/// the end the effect is there, once.
async fn killed_after_the_completion(bus: Bus) -> Result<()> {
    killed_after(&Claiming::own(bus)).await
}

/// The same in a given inbox.
async fn killed_after_the_completion_in_a_given_inbox(bus: Bus) -> Result<()> {
    killed_after(&Claiming::given(bus).await?).await
}

async fn killed_after(claiming: &Claiming) -> Result<()> {
    let (tell, mut told) = unbounded_channel();
    let journal = Journal::default();
    let play = journal.play(move |_| {
        let tell = tell.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(tell.send(())?)
        }
    });
    let observer = claiming.node("observer").handlers(handlers![]);
    let observer = observer.start().await?;
    for round in 0..10 {
        let node = writer(claiming, &format!("a{round}")).state(play.clone());
        let node = node.start().await?;
        pay(&observer, round, &round.to_string()).await?;
        told.recv().await;
        // Some later than others.
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        drop(node);
        let node = writer(claiming, &format!("b{round}")).state(play.clone());
        let node = node.start().await?;
        tokio::time::sleep(AFTER_THE_WINDOW).await;
        assert_eq!(written(&observer).await?, usize::try_from(round)? + 1);
        node.shutdown().await?;
        while told.try_recv().is_ok() {}
    }
    Ok(())
}

/// What a zombie wrote is not applied: what is there is of the one that took over.
async fn a_zombie_leaves_nothing(bus: Bus) -> Result<()> {
    zombie_writes(&Claiming::own(bus)).await
}

/// The same in a given inbox.
async fn a_zombie_leaves_nothing_in_a_given_inbox(bus: Bus) -> Result<()> {
    zombie_writes(&Claiming::given(bus).await?).await
}

async fn zombie_writes(claiming: &Claiming) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        let zombie = scene.context.node().as_str() == "zombie";
        let seconds = if zombie { 50 } else { 100 };
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        Ok(())
    });
    let zombie = zombie(claiming).await?.state(play.clone());
    let zombie = zombie.handler_timeout(5 * MINUTE).concurrency(1);
    let zombie = zombie.handlers(handlers![write_payment]).start().await?;
    pay(&zombie, 7, "one").await?;
    journal.wait(Step::Started, 1, SOON).await;
    let healthy = writer(claiming, "healthy").state(play).start().await?;
    wait_until("the zombie is found out", 3 * MINUTE, || {
        lost(&[&zombie]) == 1
    })
    .await;
    assert_eq!(written(&healthy).await?, 0, "the zombie's, or too early");
    journal.wait(Step::Done, 2, 5 * MINUTE).await;
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!((written(&healthy).await?, lost(&[&healthy])), (1, 0));
    assert_eq!(journal.count(Step::Started), 2);
    Ok(())
}

/// A completion whose answer is lost is repeated, and its effects are not.
async fn an_unknown_outcome_is_applied_once(bus: Bus) -> Result<()> {
    let store = inbox_of_another_bus().await?;
    let inbox = Moody::around(store, |asked| match asked {
        // The last of five tries gets through on the average: some never do.
        Asked::Complete if fastrand::u32(..3) > 0 => Mood::AnswerLost,
        _ => Mood::Well,
    });
    let claiming = Claiming {
        bus,
        inbox: Some(inbox),
    };
    let journal = Journal::default();
    let node = writer(&claiming, "a")
        .state(journal.plain())
        .start()
        .await?;
    for id in 0..30 {
        pay(&node, id, &id.to_string()).await?;
    }
    tokio::time::sleep(20 * MINUTE).await;
    assert_eq!(journal.handled(), (0..30).collect::<Vec<_>>());
    assert_eq!((written(&node).await?, lost(&[&node])), (30, 0));
    Ok(())
}

/// An idempotent request commits with its response: its effect is there when the caller has the answer, once.
async fn a_request_that_commits(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.attempt == 1 && scene.id == 1 {
            Err("not yet").retry()?;
        }
        Ok(())
    });
    let node = bus.node("a").state(play).handlers(handlers![on_deposit]);
    let _node = node.start().await?;
    let caller = bus.observer().await?;
    for id in 0..2 {
        assert_eq!(caller.send(Deposit { id }).await?.id, id);
        assert_eq!(written(&caller).await?, usize::try_from(id)? + 1);
    }
    assert_eq!(journal.count(Step::Started), 3);
    let error = caller.send_to("b", Deposit { id: 3 }).await;
    assert_eq!(
        error.map_err(|e| e.kind()).err(),
        Some(ErrorKind::UnknownNode)
    );
    Ok(())
}

/// So does one that is answered by the node that sends it, directly named or not, and one that fails leaves nothing.
async fn a_request_that_is_answered_by_its_sender(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.id == 9 {
            Err("never").terminal()?;
        }
        Ok(())
    });
    let node = bus.node("a").state(play).handlers(handlers![on_deposit]);
    let node = node.start().await?;
    assert_eq!(node.send(Deposit { id: 0 }).await?.node, "a");
    assert_eq!(written(&node).await?, 1);
    assert_eq!(node.send_to("a", Deposit { id: 1 }).await?.node, "a");
    assert_eq!(written(&node).await?, 2);
    let outcomes = node.broadcast(Deposit { id: 2 }).await?;
    assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()));
    assert_eq!(written(&node).await?, 3);
    let error = node.send(Deposit { id: 9 }).await.expect_err("it fails");
    assert_eq!(error.kind(), ErrorKind::Handler);
    assert_eq!(
        (written(&node).await?, journal.count(Step::Started)),
        (3, 4)
    );
    assert!(dead_letters(node.backend()).await?.is_empty());
    Ok(())
}
