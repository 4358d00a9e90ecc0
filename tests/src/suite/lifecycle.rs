//! The end of an application: rows 52, 53, 55 and 56.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use catga::prelude::{Result, handlers};
use catga::{Envelope, ErrorKind, ShutdownReport};
use catga_core::ConnectionState;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::harness::{Bus, SOON, dead_letters, scenarios, wait_until};
use crate::journal::{Journal, Note, Step};
use crate::messages::{Ask, Other, Tick, Work, on_ask, on_other, on_tick, on_work};

scenarios! { Backend "lifecycle":
    Paused drain [52],
    Paused drain_under_load [52],
    Real drain_races [52],
    Paused drain_gives_back_what_was_fetched [30, 52],
    Paused what_is_left_at_most_once_is_counted [52],
    Paused drain_deadline [53],
    Paused drop_without_shutdown [55],
    Paused shutdown_twice [56],
    Paused shutdown_in_a_handler [56],
    Paused shutdown_in_a_request [56],
}

/// Row 52: what runs is finished, and may publish; nothing new begins; the rest goes to others, uncounted.
async fn drain(bus: Bus) -> Result<()> {
    let (journal, others) = (Journal::default(), Journal::default());
    let b = bus.node("b").state(others.plain());
    let b = b.handlers(handlers![on_other]).start().await?;
    let play = journal.play(|scene| async move {
        tokio::time::sleep(Duration::from_secs(5)).await;
        scene.context.publish(Other { id: scene.id }).await?;
        Ok(())
    });
    let a = bus.node("a").state(play).concurrency(100);
    let a = a.handlers(handlers![on_work]).start().await?;
    for id in 0..150 {
        b.publish(Work { id }).await?;
    }
    journal.wait(Step::Started, 100, SOON).await;
    let began = Instant::now();
    let (report, refused) = tokio::join!(a.shutdown_within(Duration::from_secs(10)), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        (
            a.publish(Work { id: 999 }).await,
            a.send(Ask { id: 999 }).await,
        )
    });
    assert_eq!(report?.unfinished, 0);
    let limit = bus.bound(Duration::from_secs(6));
    assert!(began.elapsed() < limit, "waited for more");
    for error in [refused.0.err(), refused.1.err()] {
        let kind = error.as_ref().map(catga::Error::kind);
        assert_eq!(kind, Some(ErrorKind::Closed), "meanwhile: {error:?}");
    }
    assert_eq!((journal.count(Step::Done), journal.running()), (100, 0));
    assert_eq!(journal.count(Step::Started), 100, "something new was begun");
    let error = a.publish(Work { id: 999 }).await.expect_err("it is closed");
    assert_eq!(
        (error.kind(), error.may_be_stored()),
        (ErrorKind::Closed, false)
    );

    let c = bus.node("c").state(journal.plain());
    let _c = c.handlers(handlers![on_work]).start().await?;
    journal.wait(Step::Done, 150, SOON).await;
    others.wait(Step::Done, 100, SOON).await;
    bus.quiet(Duration::from_secs(100)).await;
    assert_eq!(journal.handled(), (0..150).collect::<Vec<_>>());
    let starts = journal.all(Step::Started);
    let redelivered = |note: &Note| !bus.allows_after_release(note.attempt, 1);
    assert!(!starts.iter().any(redelivered), "redelivered");
    let mut finished = others.handled();
    finished.dedup();
    assert_eq!(finished.len(), 100);
    Ok(())
}

/// Row 52: under load, of two nodes that leave one after the other, nothing is lost and nothing runs twice.
async fn drain_under_load(bus: Bus) -> Result<()> {
    handed_over(bus, Duration::from_millis(30)).await
}

/// Row 52: the same on two threads, where fetching, handling and leaving race.
async fn drain_races(bus: Bus) -> Result<()> {
    handed_over(bus, Duration::from_millis(1)).await
}

async fn handed_over(bus: Bus, step: Duration) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(move |_| async move {
        tokio::time::sleep(step).await;
        Ok(())
    });
    let observer = bus.observer().await?;
    let mut nodes = Vec::new();
    for id in ["a", "b", "c"] {
        let node = bus.node(id).state(play.clone()).concurrency(4);
        nodes.push(node.handlers(handlers![on_work]).start().await?);
    }
    let mut id = 0;
    for node in nodes.drain(..2) {
        for _ in 0..200 {
            observer.publish(Work { id }).await?;
            id += 1;
        }
        assert_eq!(node.shutdown().await?.unfinished, 0);
        let name = node.node().to_string();
        let of_it = journal.notes().into_iter().filter(|note| note.node == name);
        let running: i32 = of_it
            .map(|note| if note.step == Step::Started { 1 } else { -1 })
            .sum();
        assert_eq!(running, 0, "handlers of {name} still run");
    }
    journal.wait(Step::Done, id as usize, SOON).await;
    assert_eq!(journal.handled(), (0..id).collect::<Vec<_>>());
    let starts = journal.all(Step::Started);
    // Two nodes gave back what they had not begun.
    let redelivered = |note: &Note| !bus.allows_after_release(note.attempt, 2);
    assert!(!starts.iter().any(redelivered), "redelivered");
    Ok(())
}

/// Rows 30 and 52: what was fetched and not begun goes to others at once, uncounted.
async fn drain_gives_back_what_was_fetched(bus: Bus) -> Result<()> {
    let observer = bus.observer().await?;
    for id in 0..10 {
        observer.publish(Work { id }).await?;
    }
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        // The others of its batch are behind it.
        scene.context.shutdown().await?;
        Ok(())
    });
    let a = bus.node("a").state(play).concurrency(64);
    let a = a.handlers(handlers![on_work]).start().await?;
    journal.wait(Step::Done, 1, SOON).await;
    a.shutdown().await?;
    let began = Instant::now();
    let b = bus.node("b").state(journal.plain());
    let _b = b.handlers(handlers![on_work]).start().await?;
    journal.wait(Step::Done, 10, SOON).await;
    assert!(
        began.elapsed() < bus.bound(Duration::from_secs(1)),
        "only the lease brought them back"
    );
    assert_eq!(journal.handled(), (0..10).collect::<Vec<_>>());
    let starts = journal.all(Step::Started);
    let counted = |note: &Note| !bus.allows_after_release(note.attempt, 1);
    assert!(!starts.iter().any(counted), "counted");
    Ok(())
}

/// Row 52: what waits at QoS 0 when its only handler stops is lost, and every loss is counted.
async fn what_is_left_at_most_once_is_counted(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|_| async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(())
    });
    let node = bus.node("a").state(play).concurrency(1);
    let node = node.handlers(handlers![on_tick]).start().await?;
    for id in 0..50 {
        node.publish(Tick { id }).await?;
    }
    journal.wait(Step::Started, 2, SOON).await;
    node.shutdown().await?;
    let counted = node.handlers()[0].stats;
    assert!(counted.dropped > 0, "nothing was left");
    assert_eq!(counted.handled + counted.dropped, 50, "{counted:?}");
    assert_eq!(journal.count(Step::Done), usize::try_from(counted.handled)?);
    Ok(())
}

/// Row 53: at its deadline shutdown reports what is unfinished and gives it back, as if never delivered.
async fn drain_deadline(bus: Bus) -> Result<()> {
    let limit = Duration::from_secs(2);
    let observer = bus.observer().await?;
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.id == 0 {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        Ok(())
    });
    let a = bus.node("a").state(play).handlers(handlers![on_work]);
    let a = a.start().await?;
    for id in 0..10 {
        observer.publish(Work { id }).await?;
    }
    journal.wait(Step::Done, 9, SOON).await;
    let began = Instant::now();
    let report = a.shutdown_within(limit).await?;
    let took = began.elapsed();
    assert_eq!(report.unfinished, 1);
    assert!(
        (limit..bus.bound(limit + Duration::from_millis(250))).contains(&took),
        "after {took:?}"
    );
    assert_eq!(journal.running(), 0, "it still runs");

    let b = bus.node("b").state(journal.plain());
    let _b = b.handlers(handlers![on_work]).start().await?;
    journal.wait(Step::Done, 10, SOON).await;
    let starts = journal.starts(0);
    assert_eq!(starts.len(), 2);
    assert_eq!(starts[1].node, "b");
    assert!(bus.allows_after_release(starts[1].attempt, 1), "counted");
    assert!(dead_letters(observer.backend()).await?.is_empty());
    Ok(())
}

/// Row 55: when the last handle is dropped every task ends, and what was not acked goes to others.
async fn drop_without_shutdown(bus: Bus) -> Result<()> {
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let observer = bus.observer().await?;
    // Streams live with the bus: made now, so that they do not count as left over.
    observer.publish(Work { id: 0 }).await?;
    let with_observer = tasks();
    let journal = Journal::default();
    let held = Arc::new(());
    let kept = Arc::downgrade(&held);
    let play = journal.play(move |_| {
        let held = Arc::clone(&held);
        async move {
            pending::<()>().await;
            drop(held);
            Ok(())
        }
    });
    let a = bus.node("a").state(play).concurrency(5);
    let a = a.handlers(handlers![on_work, on_tick]).start().await?;
    for id in 1..20 {
        observer.publish(Work { id }).await?;
    }
    observer.publish(Tick { id: 100 }).await?;
    journal.wait(Step::Started, 6, SOON).await;
    drop(a.clone());
    assert_eq!(journal.running(), 6, "one handle is left");
    drop(a);
    wait_until("nothing of the application is left", SOON, || {
        kept.strong_count() == 0 && tasks() == with_observer
    })
    .await;
    assert_eq!(journal.running(), 0);

    let began = Instant::now();
    let b = bus.node("b").state(journal.plain());
    let b = b.handlers(handlers![on_work]).start().await?;
    journal.wait(Step::Done, 20, SOON).await;
    assert!(
        began.elapsed() < bus.bound(Duration::from_secs(1)),
        "only the lease brought them back"
    );
    assert_eq!(journal.handled(), (0..20).collect::<Vec<_>>());
    let starts = journal.all(Step::Started);
    let counted = |note: &Note| !bus.allows_after_release(note.attempt, 1);
    assert!(!starts.iter().any(counted), "counted as deliveries");
    drop((b, observer));
    wait_until("nothing of the bus is left", SOON, || tasks() == before).await;
    Ok(())
}

/// Row 56: shutdowns at the same time and afterwards all end, with one report.
async fn shutdown_twice(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|_| pending());
    let observer = bus.observer().await?;
    let a = bus.node("a").state(play).handlers(handlers![on_work]);
    let a = a.start().await?;
    for id in 0..3 {
        observer.publish(Work { id }).await?;
    }
    journal.wait(Step::Started, 3, SOON).await;
    let again = a.clone();
    let began = Instant::now();
    let (one, two, three) = tokio::join!(
        a.shutdown_within(Duration::from_secs(2)),
        again.shutdown_within(Duration::from_secs(2)),
        again.shutdown(),
    );
    let one = one?;
    assert_eq!(one.unfinished, 3);
    assert_eq!((two?, three?, a.shutdown().await?), (one, one, one));
    assert!(began.elapsed() < bus.bound(Duration::from_secs(3)));
    let transport = &a.backend().transport;
    assert_eq!(transport.state(), ConnectionState::Closed);
    let late = transport
        .publish(&mut Envelope::new(Work { id: 3 }), SOON)
        .await;
    let late = late.expect_err("the connection is closed");
    assert_eq!(
        (late.kind(), late.may_be_stored()),
        (ErrorKind::Closed, false)
    );
    Ok(())
}

/// Row 56: a handler that shuts down is not waited for, gets the report, and its message is acked.
async fn shutdown_in_a_handler(bus: Bus) -> Result<()> {
    let (reports, mut reported) = mpsc::unbounded_channel::<ShutdownReport>();
    let journal = Journal::default();
    let play = journal.play(move |scene| {
        let reports = reports.clone();
        async move {
            if scene.id == 0 {
                // Once the others have begun.
                tokio::time::sleep(Duration::from_millis(10)).await;
                reports.send(scene.context.shutdown().await?)?;
                // It still has what it takes to come to its end.
                tokio::time::sleep(Duration::from_millis(10)).await;
                scene.context.publish(Other { id: 0 }).await?;
            } else {
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            Ok(())
        }
    });
    let observer = bus.observer().await?;
    let a = bus.node("a").state(play).handlers(handlers![on_work]);
    let a = a.start().await?;
    let began = Instant::now();
    for id in 0..5 {
        observer.publish(Work { id }).await?;
    }
    journal.wait(Step::Started, 5, SOON).await;
    let outside = a.shutdown().await?;
    assert_eq!(a.backend().transport.state(), ConnectionState::Closed);
    assert_eq!(journal.running(), 0, "it returned before the handlers did");
    let inside = reported.recv().await.expect("the handler was not told");
    assert_eq!((outside, inside.unfinished), (inside, 0));
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "it waited for itself"
    );
    assert_eq!(journal.handled(), (0..5).collect::<Vec<_>>());

    let b = bus.node("b").state(journal.plain());
    let _b = b.handlers(handlers![on_work]).start().await?;
    observer.publish(Work { id: 5 }).await?;
    journal.wait(Step::Done, 6, SOON).await;
    bus.quiet(Duration::from_secs(100)).await;
    assert_eq!(
        journal.handled(),
        (0..6).collect::<Vec<_>>(),
        "redelivered after a shutdown"
    );
    Ok(())
}

/// Row 56: the handler of a request may shut down too, and its caller gets the answer.
async fn shutdown_in_a_request(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        assert_eq!(scene.context.shutdown().await?.unfinished, 0);
        Ok(())
    });
    let (a, b) = (bus.node("a").state(play.clone()), bus.node("b").state(play));
    let a = a.handlers(handlers![on_ask]).start().await?;
    let b = b.handlers(handlers![on_ask]).start().await?;
    let observer = bus.observer().await?;
    let began = Instant::now();
    assert_eq!(observer.send_to("b", Ask { id: 1 }).await?.node, "b");
    assert_eq!(a.send_to("a", Ask { id: 2 }).await?.node, "a");
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "it waited for itself"
    );
    let (one, two) = (a.shutdown().await?, b.shutdown().await?);
    assert_eq!((one.unfinished, two.unfinished), (0, 0));
    assert_eq!(journal.handled(), [1, 2]);
    Ok(())
}
