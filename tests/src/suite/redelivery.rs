//! What fails is tried again: rows 23 to 26.

use std::future::pending;
use std::time::Duration;

use catga::prelude::{Result, handlers};
use catga::{ErrorKind, HandlerError, Name, QoS, Reason, ReasonKind};
use catga_core::{Consumers, Delivery, Settlement, Subscribe, Subscription};

use crate::harness::{Bus, PLANNED, SOON, dead_letters, scenarios};
use crate::journal::{Journal, Step};
use crate::messages::{Tick, Work, on_tick, on_work};

scenarios! { Backend "redelivery":
    Paused handler_error [23],
    Paused handler_names_the_delay [23],
    Paused handler_panic [24],
    Paused handler_panic_at_most_once [24],
    Paused slow_handler [25],
    Paused hung_handler [26],
    Paused hung_handler_at_most_once [26],
    Paused a_lease_that_ran_out_is_another_members,
}

const MINUTE: Duration = Duration::from_secs(60);

/// Row 23: two errors, then Ok: three deliveries, the second and third not before their back-off.
async fn handler_error(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.id == 7 && scene.attempt < 3 {
            return Err(HandlerError::retry("not yet"));
        }
        Ok(())
    });
    let (least, most) = (Duration::from_millis(200), Duration::from_secs(30));
    let node = bus
        .node("a")
        .state(play)
        .backoff(least, most)
        .handlers(handlers![on_work])
        .start()
        .await?;
    for id in 0..20 {
        node.publish(Work { id }).await?;
    }
    journal.wait(Step::Done, 20, MINUTE).await;
    bus.quiet(2 * MINUTE).await;
    assert_eq!(journal.handled(), (0..20).collect::<Vec<_>>());
    assert_eq!(journal.count(Step::Started), 22, "others were redelivered");
    let starts = journal.starts(7);
    let attempts: Vec<_> = starts.iter().map(|note| note.attempt).collect();
    assert_eq!(attempts, [1, 2, 3]);
    for (pair, ceiling) in starts.windows(2).zip([2 * least, 4 * least]) {
        let gap = pair[1].at - pair[0].at;
        assert!(gap >= least, "a hot loop: again after {gap:?}");
        assert!(
            gap <= ceiling + Duration::from_millis(50),
            "too late: again after {gap:?}"
        );
    }
    let counted = node.handlers()[0].stats;
    assert_eq!(
        (counted.handled, counted.failed, counted.retried),
        (20, 2, 2)
    );
    Ok(())
}

/// Row 23: an error that names a delay is tried again after it, and not before.
async fn handler_names_the_delay(bus: Bus) -> Result<()> {
    let delay = bus.span(Duration::from_secs(77));
    let journal = Journal::default();
    let play = journal.play(move |scene| async move {
        if scene.attempt == 1 {
            return Err(HandlerError::retry_after("busy", delay));
        }
        Ok(())
    });
    let node = bus.node("a").state(play).handlers(handlers![on_work]);
    let node = node.start().await?;
    node.publish(Work { id: 0 }).await?;
    journal.wait(Step::Done, 1, 2 * delay).await;
    let starts = journal.starts(0);
    let gap = starts[1].at - starts[0].at;
    assert!(
        (delay..delay + Duration::from_secs(1)).contains(&gap),
        "{gap:?}"
    );
    Ok(())
}

/// Row 24: a panic, at once or after an await, is an error of that message alone.
async fn handler_panic(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.id == 12 {
            tokio::task::yield_now().await;
        }
        assert!(
            scene.attempt > 1 || ![5, 12].contains(&scene.id),
            "{PLANNED}"
        );
        Ok(())
    });
    let node = bus.node("a").state(play).concurrency(4);
    let node = node.handlers(handlers![on_work]).start().await?;
    for id in 0..20 {
        node.publish(Work { id }).await?;
    }
    journal.wait(Step::Done, 20, MINUTE).await;
    bus.quiet(2 * MINUTE).await;
    assert_eq!(journal.handled(), (0..20).collect::<Vec<_>>());
    for id in 0..20 {
        let expected = if [5, 12].contains(&id) { 2 } else { 1 };
        assert_eq!(journal.starts(id).len(), expected, "message {id}");
    }
    let counted = node.handlers()[0].stats;
    assert_eq!((counted.failed, counted.in_flight), (2, 0));
    assert!(dead_letters(node.backend()).await?.is_empty());
    Ok(())
}

/// Row 24: at QoS 0 a panic loses its own message and no other.
async fn handler_panic_at_most_once(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        assert!(scene.id != 5, "{PLANNED}");
        Ok(())
    });
    let node = bus.node("a").state(play).handlers(handlers![on_tick]);
    let node = node.start().await?;
    for id in 0..20 {
        node.publish(Tick { id }).await?;
    }
    journal.wait(Step::Done, 19, SOON).await;
    assert_eq!(journal.starts(5).len(), 1);
    let counted = node.handlers()[0].stats;
    assert_eq!((counted.handled, counted.failed), (19, 1));
    Ok(())
}

/// Row 25: a handler that runs for five ack waits keeps its message: one delivery.
async fn slow_handler(bus: Bus) -> Result<()> {
    let ack_wait = Duration::from_secs(1);
    let journal = Journal::default();
    let play = journal.play(move |_| async move {
        tokio::time::sleep(5 * ack_wait).await;
        Ok(())
    });
    let mut nodes = Vec::new();
    // A second member would be handed what the first one lost.
    for id in ["a", "b"] {
        let node = bus.node(id).state(play.clone()).ack_wait(ack_wait);
        nodes.push(node.handlers(handlers![on_work]).start().await?);
    }
    nodes[0].publish(Work { id: 0 }).await?;
    journal.wait(Step::Done, 1, MINUTE).await;
    bus.quiet(20 * ack_wait).await;
    // Also by the clock on the wall an ack that was lost would have come to light.
    tokio::time::sleep(2 * ack_wait).await;
    assert_eq!(journal.starts(0).len(), 1);
    assert_eq!(journal.handled(), [0]);
    Ok(())
}

/// Row 26: a handler that never returns is given up, its place is freed, its message tried again.
async fn hung_handler(bus: Bus) -> Result<()> {
    let limit = Duration::from_secs(3);
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.id == 0 && scene.attempt == 1 {
            pending::<()>().await;
        }
        Ok(())
    });
    let node = bus.node("a").state(play).concurrency(1);
    let node = node.handler_timeout(limit).handlers(handlers![on_work]);
    let node = node.start().await?;
    for id in 0..10 {
        node.publish(Work { id }).await?;
    }
    journal.wait(Step::Done, 10, MINUTE).await;
    bus.quiet(2 * MINUTE).await;
    assert_eq!(journal.handled(), (0..10).collect::<Vec<_>>());
    let starts = journal.starts(0);
    assert_eq!(starts.len(), 2);
    let gap = starts[1].at - starts[0].at;
    // Long before the lease of 30 s would have brought it back.
    assert!((limit..2 * limit).contains(&gap), "{gap:?}");
    assert_eq!(journal.count(Step::Started), 11, "others were redelivered");
    let counted = node.handlers()[0].stats;
    assert_eq!(
        (counted.failed, counted.retried, counted.in_flight),
        (1, 1, 0)
    );
    Ok(())
}

/// Row 26: at QoS 0 a handler that never returns is given up too, and the others flow.
async fn hung_handler_at_most_once(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.id == 0 {
            pending::<()>().await;
        }
        Ok(())
    });
    let node = bus.node("a").state(play).concurrency(1);
    let node = node.handler_timeout(Duration::from_secs(3));
    let node = node.handlers(handlers![on_tick]).start().await?;
    for id in 0..10 {
        node.publish(Tick { id }).await?;
    }
    journal.wait(Step::Done, 9, MINUTE).await;
    assert_eq!(journal.handled(), (1..10).collect::<Vec<_>>());
    assert_eq!(journal.starts(0).len(), 1);
    Ok(())
}

/// A member whose lease ran out is told so whatever it does, and changes nothing: the message is another's.
async fn a_lease_that_ran_out_is_another_members(bus: Bus) -> Result<()> {
    let node = bus.observer().await?;
    let transport = &node.backend().transport;
    let group = Consumers::Group(Name::from_static("readers"));
    let member = Subscribe::new(Name::from_static("Work"), QoS::AtLeastOnce, group);
    let member = member
        .with_max_in_flight(1)
        .with_ack_wait(Duration::from_secs(1));
    let mut first = transport.subscribe(&member).await?;
    let mut second = transport.subscribe(&member).await?;
    let late: [fn() -> Settlement; 3] = [
        || Settlement::Nak {
            after: Duration::ZERO,
        },
        || Settlement::Release { began: true },
        || Settlement::DeadLetter {
            reason: Reason::new(ReasonKind::Terminal, "late"),
            claim: None,
        },
    ];
    for (id, settlement) in late.into_iter().enumerate() {
        let id = id.try_into()?;
        node.publish(Work { id }).await?;
        let mut lost = received(first.as_mut()).await?;
        let taken = received(second.as_mut()).await?;
        assert_eq!((taken.count(), taken.may_have_run()), (2, true));
        let error = lost.extend().await.expect_err("it is another's");
        assert_eq!(error.kind(), ErrorKind::LostOwnership);
        let error = lost.settle(settlement()).await.expect_err("so it is");
        assert_eq!(error.kind(), ErrorKind::LostOwnership, "{id}");
        taken.settle(Settlement::Ack).await?;
    }
    bus.quiet(MINUTE).await;
    let mut more = Vec::new();
    for member in [&mut first, &mut second] {
        let recv = member.recv(1, &mut more);
        drop(tokio::time::timeout(Duration::from_millis(50), recv).await);
    }
    assert!(more.is_empty(), "a late settlement brought it back");
    assert!(dead_letters(node.backend()).await?.is_empty());
    Ok(())
}

async fn received(from: &mut dyn Subscription) -> Result<Delivery> {
    let mut received = Vec::new();
    while received.is_empty() {
        tokio::time::timeout(SOON, from.recv(1, &mut received)).await??;
    }
    Ok(received.remove(0))
}
