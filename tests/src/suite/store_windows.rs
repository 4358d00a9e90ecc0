//! A shutdown while a store is asked: of dead letters, and of what was handled.

use std::sync::Arc;
use std::time::Duration;

use catga::prelude::{FailWith, Result};
use catga::{DeadLetterFilter, ErrorKind, QoS};
use tokio::time::{Instant, sleep};

use crate::flawed::{Asked, Mood, Moody};
use crate::harness::{Bus, SOON, dead_letters, scenarios, wait_until};
use crate::journal::{Journal, Step};
use crate::messages::Ask;

use super::windows::{LEVELS, MINUTE, SECOND, publish, worker};

scenarios! { Runtime "store_windows":
    Paused while_dead_lettering,
    Paused while_the_dead_letters_are_full,
    Paused while_claiming,
    Paused while_completing,
    Paused before_the_handlers_task_began,
}

/// What is being given up is a dead letter once, and handled by nobody.
async fn while_dead_lettering(bus: Bus) -> Result<()> {
    let observer = bus.observer().await?;
    for (n, qos) in LEVELS.into_iter().enumerate() {
        let journal = Journal::default();
        let play = journal.play(|_| async { Err("never").terminal() });
        let a = worker(&bus, "a", play).start().await?;
        for id in 0..20 {
            publish(&observer, qos, id).await?;
        }
        journal.wait(Step::Started, 1, SOON).await;
        let leaving = a.clone();
        assert_eq!(leaving.shutdown().await?.unfinished, 0);
        let given_up = u32::try_from(journal.count(Step::Failed))?;
        let letters = dead_letters(observer.backend()).await?;
        let letters = letters.len() - 20 * n;
        assert_eq!(u32::try_from(letters)?, given_up, "lost, or given up twice");
        let b = worker(
            &bus,
            "b",
            journal.play(|_| async { Err("never").terminal() }),
        );
        let b = b.start().await?;
        wait_until("all are given up", SOON, || {
            journal.count(Step::Failed) == 20
        })
        .await;
        sleep(10 * MINUTE).await;
        assert_eq!(journal.count(Step::Started), 20);
        assert_eq!(dead_letters(b.backend()).await?.len(), 20 * (n + 1));
        b.shutdown().await?;
    }
    Ok(())
}

/// What cannot be given up because the store is full stays, and does not hold up the end.
async fn while_the_dead_letters_are_full(bus: Bus) -> Result<()> {
    let bus = bus.with_option("dead_letters=1");
    let observer = bus.observer().await?;
    for qos in LEVELS {
        let journal = Journal::default();
        let play = journal.play(|_| async { Err("never").terminal() });
        let a = worker(&bus, "a", play.clone()).start().await?;
        for id in 0..2 {
            publish(&observer, qos, id).await?;
        }
        journal.wait(Step::Failed, 2, SOON).await;
        sleep(SECOND).await;
        let began = Instant::now();
        assert_eq!(a.shutdown().await?.unfinished, 0);
        assert!(began.elapsed() < 5 * SECOND, "after {:?}", began.elapsed());
        assert_eq!(journal.running(), 0);
        let store = observer.dead_letters();
        assert_eq!(store.purge(&DeadLetterFilter::all()).await?, 1);
        let b = worker(&bus, "b", play).start().await?;
        wait_until("the other is given up", 10 * MINUTE, || {
            b.handlers()
                .iter()
                .map(|h| h.stats.dead_lettered)
                .sum::<u64>()
                == 1
        })
        .await;
        assert_eq!(store.purge(&DeadLetterFilter::all()).await?, 1);
        b.shutdown().await?;
    }
    Ok(())
}

/// An inbox that takes its time: what it grants after the end is not begun any more.
async fn while_claiming(bus: Bus) -> Result<()> {
    let lender = bus.observer().await?;
    let store = lender.backend().inbox.clone().expect("memory has one");
    for (n, late) in [SECOND, 5 * SECOND, MINUTE].into_iter().enumerate() {
        let mood = move |asked| {
            if asked == Asked::Claim {
                Mood::Late(late)
            } else {
                Mood::Well
            }
        };
        let slow = Moody::around(Arc::clone(&store), mood);
        let journal = Journal::default();
        let a = worker(&bus, "a", journal.plain())
            .inbox(slow)
            .start()
            .await?;
        publish(&lender, QoS::ExactlyOnce, 0).await?;
        // It is asked, and has not answered.
        sleep(SECOND / 2).await;
        let began = Instant::now();
        let report = a.shutdown_within(2 * SECOND).await?;
        let took = began.elapsed();
        assert!(
            took <= 3 * SECOND + Duration::from_millis(250),
            "after {took:?}"
        );
        if n == 0 {
            assert_eq!(
                (report.unfinished, journal.handled().as_slice()),
                (0, [0].as_slice())
            );
        }
        let started = journal.count(Step::Started);
        sleep(10 * MINUTE).await;
        assert_eq!(
            journal.count(Step::Started),
            started,
            "begun after the end: {late:?}"
        );
        let b = worker(&bus, "b", journal.plain()).inbox(Arc::clone(&store));
        let b = b.start().await?;
        journal.wait(Step::Done, 1, 2 * MINUTE).await;
        sleep(10 * MINUTE).await;
        assert_eq!(journal.handled(), [0]);
        assert!(dead_letters(b.backend()).await?.is_empty());
        b.shutdown().await?;
    }
    Ok(())
}

/// A completion on its way is waited for: what was finished is not done again.
async fn while_completing(bus: Bus) -> Result<()> {
    let lender = bus.observer().await?;
    let store = lender.backend().inbox.clone().expect("memory has one");
    let mood = |asked| {
        if asked == Asked::Complete {
            Mood::Late(SECOND)
        } else {
            Mood::Well
        }
    };
    let slow = Moody::around(Arc::clone(&store), mood);
    let journal = Journal::default();
    let a = worker(&bus, "a", journal.plain())
        .inbox(slow)
        .start()
        .await?;
    publish(&lender, QoS::ExactlyOnce, 0).await?;
    journal.wait(Step::Done, 1, SOON).await;
    let began = Instant::now();
    assert_eq!(a.shutdown().await?.unfinished, 0);
    assert!(began.elapsed() < 3 * SECOND, "after {:?}", began.elapsed());
    let b = worker(&bus, "b", journal.plain())
        .inbox(store)
        .start()
        .await?;
    sleep(10 * MINUTE).await;
    assert_eq!(journal.handled(), [0], "done twice");
    b.shutdown().await?;
    Ok(())
}

/// A shutdown that finds handlers whose tasks were not polled yet: they are finished, or never begun.
async fn before_the_handlers_task_began(bus: Bus) -> Result<()> {
    let lender = bus.observer().await?;
    let store = lender.backend().inbox.clone().expect("memory has one");
    for yields in 0..20 {
        let journal = Journal::default();
        // With an inbox of its own a message is claimed in a task before it is begun.
        let a = worker(&bus, "a", journal.plain()).inbox(Arc::clone(&store));
        let a = a.start().await?;
        for id in 0..10 {
            publish(&lender, QoS::ExactlyOnce, id).await?;
        }
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
        let report = a.shutdown_within(Duration::ZERO).await?;
        assert_eq!(journal.running(), 0, "{report:?}");
        let started = journal.count(Step::Started);
        sleep(MINUTE).await;
        assert_eq!(journal.count(Step::Started), started, "begun after the end");
        let b = worker(&bus, "b", journal.plain()).inbox(Arc::clone(&store));
        let b = b.start().await?;
        journal.wait(Step::Done, 10, 2 * MINUTE).await;
        sleep(10 * MINUTE).await;
        assert_eq!(journal.handled(), (0..10).collect::<Vec<_>>());
        b.shutdown().await?;
    }
    let error = lender
        .send(Ask { id: 0 })
        .await
        .expect_err("nobody answers");
    assert_eq!(error.kind(), ErrorKind::NoHandler);
    Ok(())
}
