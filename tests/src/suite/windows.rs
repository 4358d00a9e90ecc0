//! A shutdown at the worst moment, at QoS 1 and 2: rows 52, 53, 55 and 56. Afterwards no handler runs, what was
//! finished is acked, and what was not is handled by another node and not dead-lettered.

use std::future::pending;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use catga::prelude::{Catga, Result, handlers};
use catga::{CatgaBuilder, HandlerError, QoS};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use crate::harness::{Bus, SOON, dead_letters, poll_then_drop, scenarios, wait_until};
use crate::journal::{Journal, Play, Step};
use crate::messages::{Ask, Other, Work, on_ask, on_other, on_work};
use crate::parts::{Invoice, Order, on_invoice, on_order};

scenarios! { Runtime "windows":
    Paused while_connecting,
    Paused while_receiving,
    Real while_receiving_on_two_threads,
    Paused while_it_runs [52],
    Paused at_the_deadline [53],
    Paused while_a_retry_is_delayed,
    Paused while_a_delayed_retry_comes_back,
    Paused in_a_handler_that_publishes_and_requests [52],
    Paused in_a_handler_that_paused,
    Paused in_a_handler [56],
    Paused without_shutdown [55],
}

pub(super) const LEVELS: [QoS; 2] = [QoS::AtLeastOnce, QoS::ExactlyOnce];
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
/// More polls than any of our futures takes.
const MANY: usize = 200;

pub(super) fn worker(bus: &Bus, id: &str, play: Play) -> CatgaBuilder {
    let node = bus.node(id).state(play);
    node.handlers(handlers![on_work, on_invoice])
}

pub(super) async fn publish(node: &Catga, qos: QoS, id: u32) -> Result<()> {
    match qos {
        QoS::ExactlyOnce => node.publish(Invoice { id }).await?,
        _ => node.publish(Work { id }).await?,
    }
    Ok(())
}

/// The end of a window: another node handles what is left of so many, at once or within `limit`; each is done
/// once, and nothing is dead.
async fn rest(bus: &Bus, journal: &Journal, count: u32, limit: Duration) -> Result<()> {
    assert_eq!(journal.running(), 0, "a handler still runs");
    let started = journal.count(Step::Started);
    let b = worker(bus, "b", journal.plain()).start().await?;
    journal
        .wait(Step::Done, usize::try_from(count)?, limit)
        .await;
    sleep(10 * MINUTE).await;
    assert_eq!(journal.handled(), (0..count).collect::<Vec<_>>());
    let later = &journal.all(Step::Started)[started..];
    assert!(
        later.iter().all(|note| note.node == "b"),
        "begun after the shutdown"
    );
    assert!(dead_letters(b.backend()).await?.is_empty());
    b.shutdown().await?;
    Ok(())
}

/// A start that is dropped at any point leaves no ghost behind that gets a message.
async fn while_connecting(bus: Bus) -> Result<()> {
    let observer = bus.observer().await?;
    let (journal, ghost) = (Journal::default(), Journal::default());
    for polls in 0.. {
        let id = 2 * u32::try_from(polls)?;
        // The registry may list it until its time-out.
        let name = format!("ghost{polls}");
        let dropped = poll_then_drop(polls, worker(&bus, &name, ghost.plain()).start()).await;
        let completed = dropped.transpose()?.is_some();
        observer.publish(Work { id }).await?;
        observer.publish(Invoice { id: id + 1 }).await?;
        let a = worker(&bus, "a", journal.plain()).start().await?;
        let all = usize::try_from(id)? + 2;
        journal.wait(Step::Done, all, SOON).await;
        a.shutdown().await?;
        assert!(polls < MANY, "it does not end");
        if completed {
            break;
        }
    }
    assert_eq!(ghost.notes(), []);
    assert!(
        journal
            .all(Step::Started)
            .iter()
            .all(|note| note.attempt == 1)
    );
    Ok(())
}

/// While messages come in: what was fetched and not begun goes to others, uncounted, at once.
async fn while_receiving(bus: Bus) -> Result<()> {
    received(bus, 40).await
}

/// The same on two threads.
async fn while_receiving_on_two_threads(bus: Bus) -> Result<()> {
    received(bus, 40).await
}

async fn received(bus: Bus, rounds: u32) -> Result<()> {
    let observer = bus.observer().await?;
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.id % 3 == 0 {
            tokio::task::yield_now().await;
        }
        if scene.id % 7 == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    });
    let b = worker(&bus, "b", play.clone())
        .concurrency(1)
        .start()
        .await?;
    let mut chance = bus.chance();
    let mut id = 0;
    for round in 0..rounds {
        let a = worker(&bus, &format!("a{round}"), play.clone())
            .start()
            .await?;
        let stop = chance.u32(0..20);
        for nth in 0..20 {
            publish(&observer, LEVELS[chance.usize(..2)], id).await?;
            id += 1;
            if nth == stop {
                let a = a.clone();
                drop(tokio::spawn(async move { a.shutdown().await }));
            }
            if chance.bool() {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(a.shutdown().await?.unfinished, 0);
    }
    journal.wait(Step::Done, usize::try_from(id)?, SOON).await;
    assert_eq!(journal.handled(), (0..id).collect::<Vec<_>>());
    assert!(
        journal
            .all(Step::Started)
            .iter()
            .all(|note| note.attempt == 1),
        "counted"
    );
    assert!(dead_letters(b.backend()).await?.is_empty());
    Ok(())
}

/// Row 52: what runs is finished and acked, and what does not run yet goes to another.
async fn while_it_runs(bus: Bus) -> Result<()> {
    for qos in LEVELS {
        let observer = bus.observer().await?;
        let journal = Journal::default();
        let play = journal.play(|_| async {
            sleep(5 * SECOND).await;
            Ok(())
        });
        let a = worker(&bus, "a", play).concurrency(10).start().await?;
        for id in 0..15 {
            publish(&observer, qos, id).await?;
        }
        journal.wait(Step::Started, 10, SOON).await;
        let began = Instant::now();
        assert_eq!(a.shutdown_within(10 * SECOND).await?.unfinished, 0);
        assert!(began.elapsed() < 6 * SECOND, "waited for more");
        assert_eq!(journal.count(Step::Done), 10);
        rest(&bus, &journal, 15, SECOND).await?;
        assert_eq!(journal.count(Step::Started), 15, "something ran twice");
        observer.shutdown().await?;
    }
    Ok(())
}

/// Row 53: at its deadline it reports what is unfinished, which goes to another, uncounted, and is told.
async fn at_the_deadline(bus: Bus) -> Result<()> {
    for qos in LEVELS {
        let observer = bus.observer().await?;
        let journal = Journal::default();
        let (told, mut tells) = tokio::sync::mpsc::unbounded_channel();
        let play = journal.play(move |scene| {
            let told = told.clone();
            async move {
                let node = scene.context.node().to_string();
                told.send((node.clone(), scene.context.attempt().may_have_run()))?;
                if scene.id == 0 && node == "a" {
                    sleep(MINUTE).await;
                }
                Ok(())
            }
        });
        let a = worker(&bus, "a", play.clone()).start().await?;
        publish(&observer, qos, 0).await?;
        journal.wait(Step::Started, 1, SOON).await;
        let began = Instant::now();
        let report = a.shutdown_within(2 * SECOND).await?;
        let took = began.elapsed();
        assert_eq!(report.unfinished, 1);
        assert!(
            took >= 2 * SECOND && took <= Duration::from_millis(2250),
            "{took:?}"
        );
        assert_eq!(journal.running(), 0);
        let b = worker(&bus, "b", play).start().await?;
        journal.wait(Step::Done, 1, SECOND).await;
        assert_eq!(journal.starts(0)[1].attempt, 1, "counted as an attempt");
        assert_eq!(tells.recv().await, Some(("a".to_owned(), false)));
        assert_eq!(tells.recv().await, Some(("b".to_owned(), true)), "{qos}");
        b.shutdown().await?;
        rest(&bus, &journal, 1, SECOND).await?;
        observer.shutdown().await?;
    }
    Ok(())
}

/// A retry that is delayed does not hold it up; the delay goes on, and another node makes the second attempt.
async fn while_a_retry_is_delayed(bus: Bus) -> Result<()> {
    for qos in LEVELS {
        let observer = bus.observer().await?;
        let journal = Journal::default();
        let play = journal.play(|_| async { Err(HandlerError::retry_after("busy", MINUTE)) });
        let a = worker(&bus, "a", play).start().await?;
        publish(&observer, qos, 0).await?;
        journal.wait(Step::Failed, 1, SOON).await;
        let failed = Instant::now();
        sleep(SECOND).await;
        let began = Instant::now();
        assert_eq!(a.shutdown().await?.unfinished, 0);
        assert!(began.elapsed() < SECOND, "it waited for the delay");
        rest(&bus, &journal, 1, 2 * MINUTE).await?;
        let starts = journal.starts(0);
        assert_eq!((starts.len(), starts[1].attempt), (2, 2));
        let gap = starts[1].at - failed;
        assert!(gap + SECOND >= MINUTE && gap <= MINUTE + SECOND, "{gap:?}");
        observer.shutdown().await?;
    }
    Ok(())
}

/// The delay of a retry ends just then, or a little before or after.
async fn while_a_delayed_retry_comes_back(bus: Bus) -> Result<()> {
    for early in 0..10 {
        for qos in LEVELS {
            let observer = bus.observer().await?;
            let journal = Journal::default();
            let play = journal.play(|scene| async move {
                if scene.attempt == 1 {
                    return Err(HandlerError::retry_after("busy", SECOND));
                }
                Ok(())
            });
            let a = worker(&bus, "a", play).start().await?;
            publish(&observer, qos, 0).await?;
            journal.wait(Step::Failed, 1, SOON).await;
            sleep(Duration::from_millis(993 + early)).await;
            assert_eq!(a.shutdown().await?.unfinished, 0);
            rest(&bus, &journal, 1, SOON).await?;
            assert_eq!(journal.count(Step::Started), 2, "something ran twice");
            observer.shutdown().await?;
        }
    }
    Ok(())
}

/// Row 52: a handler that is running may publish and request on, until its end.
async fn in_a_handler_that_publishes_and_requests(bus: Bus) -> Result<()> {
    for qos in LEVELS {
        let (journal, others) = (Journal::default(), Journal::default());
        let c = bus.node("c").state(others.plain());
        let c = c
            .handlers(handlers![on_other, on_ask, on_order])
            .start()
            .await?;
        let play = journal.play(|scene| async move {
            sleep(SECOND).await;
            scene.context.publish(Other { id: scene.id }).await?;
            assert_eq!(
                scene.context.send(Ask { id: 100 + scene.id }).await?.node,
                "c"
            );
            let order = Order { id: 200 + scene.id };
            assert_eq!(scene.context.send(order).await?.node, "c");
            Ok(())
        });
        let a = worker(&bus, "a", play).start().await?;
        wait_until("they know each other", SOON, || a.nodes().len() == 2).await;
        for id in 0..10 {
            publish(&c, qos, id).await?;
        }
        journal.wait(Step::Started, 10, SOON).await;
        assert_eq!(a.shutdown().await?.unfinished, 0);
        assert_eq!(journal.count(Step::Done), 10, "{:?}", journal.notes());
        others.wait(Step::Done, 30, SOON).await;
        rest(&bus, &journal, 10, SECOND).await?;
        assert_eq!(others.count(Step::Done), 30);
        c.shutdown().await?;
    }
    Ok(())
}

/// A handler that paused itself ends, and what it kept from beginning goes to another.
async fn in_a_handler_that_paused(bus: Bus) -> Result<()> {
    for (qos, name) in LEVELS.into_iter().zip(["on_work", "on_invoice"]) {
        let observer = bus.observer().await?;
        let journal = Journal::default();
        let node = Arc::new(OnceLock::<Catga>::new());
        let own = Arc::clone(&node);
        let play = journal.play(move |_| {
            let own = Arc::clone(&own);
            async move {
                own.get().expect("it was started").handler(name)?.pause();
                sleep(SECOND).await;
                Ok(())
            }
        });
        let a = worker(&bus, "a", play).concurrency(1).start().await?;
        node.set(a.clone()).expect("the first time");
        for id in 0..10 {
            publish(&observer, qos, id).await?;
        }
        journal.wait(Step::Started, 1, SOON).await;
        assert_eq!(a.shutdown().await?.unfinished, 0);
        assert_eq!(journal.handled(), [0]);
        rest(&bus, &journal, 10, SECOND).await?;
        assert_eq!(journal.count(Step::Started), 10);
        observer.shutdown().await?;
    }
    Ok(())
}

/// Row 56: a handler that shuts down itself is acked, also where it is told of it twice.
async fn in_a_handler(bus: Bus) -> Result<()> {
    for qos in LEVELS {
        let observer = bus.observer().await?;
        let journal = Journal::default();
        let play = journal.play(|scene| async move {
            if scene.id == 0 {
                sleep(Duration::from_millis(10)).await;
                let (one, two) = tokio::join!(scene.context.shutdown(), scene.context.shutdown());
                assert_eq!(one?, two?);
            } else {
                sleep(2 * SECOND).await;
            }
            Ok(())
        });
        let a = worker(&bus, "a", play).start().await?;
        for id in 0..5 {
            publish(&observer, qos, id).await?;
        }
        journal.wait(Step::Started, 5, SOON).await;
        let began = Instant::now();
        let (one, two) = tokio::join!(a.shutdown(), a.shutdown_within(SECOND));
        assert_eq!(one?.unfinished, two?.unfinished);
        assert!(began.elapsed() < 5 * SECOND, "it waited for itself");
        assert!(a.publish(Work { id: 99 }).await.is_err());
        assert_eq!(journal.running(), 0);
        assert!(journal.handled().contains(&0), "it was not finished");
        rest(&bus, &journal, 5, SECOND).await?;
        observer.shutdown().await?;
    }
    Ok(())
}

/// Row 55: when the last handle is dropped no task is left, and what was not acked goes to others at once.
async fn without_shutdown(bus: Bus) -> Result<()> {
    let tasks = || Handle::current().metrics().num_alive_tasks();
    for qos in LEVELS {
        let observer = bus.observer().await?;
        let journal = Journal::default();
        // Streams live with the bus: made now, so that they do not count as left over.
        let first = worker(&bus, "first", journal.plain()).start().await?;
        publish(&observer, qos, 0).await?;
        journal.wait(Step::Done, 1, SOON).await;
        first.shutdown().await?;
        drop(first);
        sleep(SECOND).await;
        let before = tasks();
        let play = journal.play(|_| pending());
        let a = worker(&bus, "a", play).concurrency(5).start().await?;
        for id in 1..20 {
            publish(&observer, qos, id).await?;
        }
        journal.wait(Step::Started, 6, SOON).await;
        drop(a);
        wait_until("nothing of it is left", SOON, || tasks() == before).await;
        rest(&bus, &journal, 20, SECOND).await?;
        let starts = journal.all(Step::Started);
        assert!(starts.iter().all(|note| note.attempt == 1), "counted");
        observer.shutdown().await?;
    }
    Ok(())
}
