//! What is published arrives: rows 2 to 6.

use std::time::Duration;

use catga::prelude::{Catga, Result, handlers};
use catga::{ErrorKind, Name, QoS};
use catga_core::{Consumers, Settlement, Start, Subscribe};
use tokio::sync::watch;

use crate::harness::{Bus, SOON, scenarios, wait_until};
use crate::journal::{Journal, Step};
use crate::messages::{
    Other, Tick, Work, audit_tick, audit_work, late_work, on_other, on_tick, on_work,
};
use crate::subject::Time;

scenarios! { Backend "delivery":
    Paused subscribe_before_and_after [2],
    Paused subscribe_before_and_after_stored [2],
    Real fan_out_and_groups [3],
    Real fan_out_and_groups_stored [3],
    Paused members_share [4],
    Paused types_are_apart [5],
    Real churn [6],
}

async fn publish_ticks(node: &Catga, ids: std::ops::Range<u32>) -> Result<()> {
    for id in ids {
        node.publish(Tick { id }).await?;
    }
    Ok(())
}

async fn publish_works(node: &Catga, ids: std::ops::Range<u32>) -> Result<()> {
    for id in ids {
        node.publish(Work { id }).await?;
    }
    Ok(())
}

/// Row 2: at QoS 0 a subscriber gets what is published from now on, and nothing from before.
async fn subscribe_before_and_after(bus: Bus) -> Result<()> {
    let observer = bus.observer().await?;
    publish_ticks(&observer, 0..10).await?;
    let journal = Journal::default();
    let node = bus
        .node("a")
        .state(journal.plain())
        .handlers(handlers![on_tick])
        .start()
        .await?;
    publish_ticks(&observer, 10..20).await?;
    journal.wait(Step::Done, 10, SOON).await;
    node.shutdown().await?;
    assert_eq!(journal.handled(), (10..20).collect::<Vec<_>>());
    Ok(())
}

/// Row 2: at QoS 1 a group misses nothing while nobody is there; a new one begins where it says.
async fn subscribe_before_and_after_stored(bus: Bus) -> Result<()> {
    let observer = bus.observer().await?;
    let old = Journal::default();
    let start = async |id: &str, journal: &Journal| {
        let node = bus.node(id).state(journal.plain());
        node.handlers(handlers![on_work]).start().await
    };
    start("a", &old).await?.shutdown().await?;
    publish_works(&observer, 0..10).await?;
    let first = start("a", &old).await?;
    old.wait(Step::Done, 10, SOON).await;
    first.shutdown().await?;
    publish_works(&observer, 10..20).await?;

    let (oldest, new) = (Journal::default(), Journal::default());
    let _b = bus
        .node("b")
        .state(oldest.plain())
        .handlers(handlers![audit_work])
        .start()
        .await?;
    let _c = bus
        .node("c")
        .state(new.plain())
        .handlers(handlers![late_work])
        .start()
        .await?;
    let _a = start("a", &old).await?;
    publish_works(&observer, 20..30).await?;
    old.wait(Step::Done, 30, SOON).await;
    // What every group had acknowledged is gone on some backends, and kept on others until it is old.
    let from = |oldest: u32| (oldest..30).collect::<Vec<_>>();
    let retained = || {
        let handled = oldest.handled();
        handled == from(10) || handled == from(0) && !bus.subject().is_embedded()
    };
    wait_until("all that was kept is handled", SOON, retained).await;
    new.wait(Step::Done, 10, SOON).await;
    bus.quiet(Duration::from_secs(100)).await;
    assert_eq!(old.handled(), (0..30).collect::<Vec<_>>());
    assert!(retained(), "{:?}", oldest.handled());
    assert_eq!(new.handled(), (20..30).collect::<Vec<_>>());
    Ok(())
}

/// Row 3: at QoS 0 each of 2 groups of 3 members gets each of 300 messages once.
async fn fan_out_and_groups(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let mut nodes = Vec::new();
    for id in ["a", "b", "c"] {
        let node = bus.node(id).state(journal.plain());
        nodes.push(
            node.handlers(handlers![on_tick, audit_tick])
                .start()
                .await?,
        );
    }
    publish_ticks(&nodes[0], 0..300).await?;
    check_fan_out(&journal, ["on_tick", "audit_tick"]).await;
    Ok(())
}

/// Row 3: at QoS 1 each of 2 groups of 3 members gets each of 300 messages once.
async fn fan_out_and_groups_stored(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let mut nodes = Vec::new();
    for id in ["a", "b", "c"] {
        let node = bus.node(id).state(journal.plain());
        nodes.push(
            node.handlers(handlers![on_work, audit_work])
                .start()
                .await?,
        );
    }
    publish_works(&nodes[0], 0..300).await?;
    check_fan_out(&journal, ["on_work", "audit_work"]).await;
    Ok(())
}

async fn check_fan_out(journal: &Journal, handlers: [&str; 2]) {
    journal.wait(Step::Done, 600, SOON).await;
    for handler in handlers {
        assert_eq!(journal.handled_by(handler), (0..300).collect::<Vec<_>>());
    }
    let notes = journal.all(Step::Started);
    assert!(notes.iter().all(|note| note.attempt == 1), "redelivered");
}

/// Row 4: 4 members share 400 slow messages; none goes to two.
async fn members_share(bus: Bus) -> Result<()> {
    let observer = bus.observer().await?;
    let journal = Journal::default();
    let slow = journal.play(|_| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(())
    });
    let mut nodes = Vec::new();
    for id in ["a", "b", "c", "d"] {
        let node = bus.node(id).state(slow.clone()).concurrency(8);
        nodes.push(node.handlers(handlers![on_work]).start().await?);
    }
    publish_works(&observer, 0..400).await?;
    journal.wait(Step::Done, 400, SOON).await;
    assert_eq!(journal.handled(), (0..400).collect::<Vec<_>>());
    let shares = journal.shares();
    assert_eq!(shares.len(), 4, "{shares:?}");
    assert!(shares.values().all(|share| *share >= 40), "{shares:?}");
    Ok(())
}

/// Row 5: a handler gets its own type, and a stuck one holds up no other type.
async fn types_are_apart(bus: Bus) -> Result<()> {
    let (open, gate) = watch::channel(false);
    let journal = Journal::default();
    let play = journal.play(move |scene| {
        let mut gate = gate.clone();
        async move {
            if scene.id >= 1000 {
                gate.wait_for(|open| *open).await?;
            }
            Ok(())
        }
    });
    let node = bus
        .node("a")
        .state(play)
        .concurrency(2)
        .handlers(handlers![on_work, on_other])
        .start()
        .await?;
    for id in 0..100 {
        node.publish(Other { id: 1000 + id }).await?;
        node.publish(Work { id }).await?;
    }
    journal.wait(Step::Done, 100, SOON).await;
    assert_eq!(journal.handled_by("on_work"), (0..100).collect::<Vec<_>>());
    assert_eq!(journal.handled_by("on_other"), [0; 0]);
    open.send(true)?;
    journal.wait(Step::Done, 200, SOON).await;
    assert_eq!(
        journal.handled_by("on_other"),
        (1000..1100).collect::<Vec<_>>()
    );
    Ok(())
}

/// Row 6: while 50 tasks join and leave, a steady group gets each of 5,000 messages; all tasks end.
async fn churn(bus: Bus) -> Result<()> {
    const MESSAGES: u32 = 5_000;
    let before = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    // What was on its way to somebody who left comes again when it ends.
    let lease = bus.by_clock(Duration::from_secs(30), Duration::from_secs(2));
    let journal = Journal::default();
    let node = bus
        .node("steady")
        .state(journal.plain())
        .ack_wait(lease)
        .handlers(handlers![on_work, on_tick])
        .start()
        .await?;
    // A server and its clients on one machine are to have time for the messages too.
    let pause = bus.by_clock(Duration::ZERO, Duration::from_millis(50));
    let (stop, stopped) = watch::channel(false);
    let mut chance = bus.chance();
    let churners: Vec<_> = (0..50)
        .map(|i| {
            let (node, stopped) = (node.clone(), stopped.clone());
            tokio::spawn(come_and_go(node, i, (lease, pause), chance.fork(), stopped))
        })
        .collect();
    for first in (0..MESSAGES).step_by(10) {
        node.publish(Tick { id: first }).await?;
        let ten = (first..first + 10).map(|id| Work { id });
        for outcome in node.publish_many(ten).await {
            outcome?;
        }
        tokio::task::yield_now().await;
    }
    stop.send(true)?;
    let mut turns = 0;
    for churner in churners {
        turns += churner.await??;
    }
    assert!(turns >= 50, "{turns} turns: nothing was tried");
    let handled = || {
        let mut handled = journal.handled_by("on_work");
        if bus.subject().time() == Time::Wall {
            // Those who leave may be sent what others are handling.
            handled.dedup();
        }
        handled
    };
    wait_until("every message is handled", SOON, || {
        handled().len() >= MESSAGES as usize
    })
    .await;
    assert_eq!(handled(), (0..MESSAGES).collect::<Vec<_>>());
    let ticks = journal.handled_by("on_tick");
    assert!(
        ticks.windows(2).all(|pair| pair[0] < pair[1]),
        "a tick was handled twice"
    );
    node.shutdown().await?;
    drop(node);
    wait_until("every task of the bus ends", SOON, || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
            <= before
    })
    .await;
    Ok(())
}

/// Joins, takes a few messages, gives them back, and goes: in the steady group, and at QoS 0.
async fn come_and_go(
    node: Catga,
    number: u32,
    (lease, pause): (Duration, Duration),
    mut chance: fastrand::Rng,
    stopped: watch::Receiver<bool>,
) -> Result<usize> {
    let transport = &node.backend().transport;
    let mut turns = 0;
    while !*stopped.borrow() {
        turns += 1;
        let stored = number.is_multiple_of(2);
        let subscribe = if stored {
            let group = Consumers::Group(Name::new("workers")?);
            Subscribe::new(Name::new("Work")?, QoS::AtLeastOnce, group)
        } else {
            let group = Consumers::Group(Name::new(format!("passing.{}", number % 5))?);
            Subscribe::new(Name::new("Tick")?, QoS::AtMostOnce, group)
        };
        let subscribe = subscribe
            .with_max_in_flight(4)
            .with_start(Start::New)
            .with_ack_wait(lease);
        let mut subscription = transport.subscribe(&subscribe).await?;
        let mut batch = Vec::new();
        let wait = Duration::from_millis(chance.u64(0..3));
        let received = tokio::time::timeout(wait, subscription.recv(4, &mut batch)).await;
        if let Ok(Err(error)) = received
            && error.kind() != ErrorKind::Closed
        {
            return Err(error.into());
        }
        if chance.bool() {
            subscription.close().await?;
        }
        for delivery in batch {
            delivery
                .settle(Settlement::Release { began: false })
                .await?;
        }
        tokio::time::sleep(pause).await;
    }
    Ok(turns)
}
