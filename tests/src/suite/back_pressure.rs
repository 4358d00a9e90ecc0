//! A slow consumer slows its publisher or loses what may be lost; nobody else notices: rows 49 to 51.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use catga::prelude::{Catga, Result, handlers};
use catga::{ErrorKind, Handlers, Name, NodeEvent, NodeInfo, QoS};
use catga_core::{Consumers, Settlement, Subscribe};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::harness::{Bus, SOON, scenarios, wait_until};
use crate::journal::{Journal, Step};
use crate::messages::{Tick, Work, each_tick, each_work, on_tick, on_work};
use crate::suite::membership::registry;

scenarios! { Backend "back_pressure":
    Paused slow_subscriber [49],
    Paused in_flight_limit [49],
    Paused slow_subscriber_at_most_once [49],
    Paused full_queue [49],
    Paused one_stuck_of_ten [50],
    Paused one_stuck_of_ten_at_most_once [50],
    Paused unread_watch [51, 79],
}

/// Row 49: at QoS 1 no more than the limit run at once, the publisher is held back, nothing is lost.
async fn slow_subscriber(bus: Bus) -> Result<()> {
    const CAPACITY: usize = 8;
    const LIMIT: usize = 4;
    let step = Duration::from_millis(100);
    let bus = bus.limited("capacity=8")?;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let journal = Journal::default();
    let (running, highest) = (Arc::clone(&now), Arc::clone(&most));
    let play = journal.play(move |_| {
        let (running, highest) = (Arc::clone(&running), Arc::clone(&highest));
        async move {
            highest.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(step).await;
            running.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        }
    });
    let node = bus.node("a").state(play).concurrency(4);
    let node = node.handlers(handlers![on_work]).start().await?;
    let began = Instant::now();
    for id in 0..200 {
        node.publish(Work { id }).await?;
        let waiting = (id as usize + 1).saturating_sub(journal.count(Step::Done));
        assert!(waiting <= CAPACITY, "{waiting} messages are kept");
    }
    // A publisher who is not held back needs no time at all.
    assert!(
        began.elapsed() >= step * 40,
        "published within {:?}",
        began.elapsed()
    );
    journal.wait(Step::Done, 200, SOON).await;
    assert_eq!(journal.handled(), (0..200).collect::<Vec<_>>());
    assert_eq!(most.load(Ordering::SeqCst), LIMIT);
    Ok(())
}

/// Row 49: a member holds no more unsettled deliveries than it asked for, whatever it receives at once.
async fn in_flight_limit(bus: Bus) -> Result<()> {
    let node = bus.observer().await?;
    let group = Consumers::Group(Name::new("readers")?);
    let subscribe = Subscribe::new(Name::new("Work")?, QoS::AtLeastOnce, group);
    let transport = &node.backend().transport;
    let mut subscription = transport
        .subscribe(&subscribe.with_max_in_flight(4))
        .await?;
    for id in 0..20 {
        node.publish(Work { id }).await?;
    }
    let mut held = Vec::new();
    for _ in 0..10 {
        // Gives up where nothing more may come.
        let receive = subscription.recv(100, &mut held);
        drop(tokio::time::timeout(Duration::from_secs(1), receive).await);
    }
    assert_eq!(held.len(), 4);
    let mut settled = 0;
    while settled < 20 {
        for delivery in held.drain(..) {
            delivery.settle(Settlement::Ack).await?;
            settled += 1;
        }
        let receive = subscription.recv(100, &mut held);
        drop(tokio::time::timeout(Duration::from_secs(1), receive).await);
        assert!(held.len() <= 4, "{} at once", held.len());
    }
    assert_eq!((settled, held.len()), (20, 0));
    Ok(())
}

/// Row 49: at QoS 0 what a slow subscriber cannot take is dropped, and every drop is counted.
async fn slow_subscriber_at_most_once(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|_| async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok(())
    });
    let node = bus
        .limited("ring=16")?
        .node("a")
        .state(play)
        .concurrency(2)
        .handlers(handlers![on_tick])
        .start()
        .await?;
    for id in 0..1000 {
        node.publish(Tick { id }).await?;
        if id % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let stats = || node.handlers()[0].stats;
    wait_until("each is handled or counted as dropped", SOON, || {
        stats().handled + stats().dropped == 1000
    })
    .await;
    assert!(stats().dropped > 500, "{:?}", stats());
    let handled = journal.handled();
    assert_eq!(handled.len() as u64, stats().handled);
    assert_eq!(
        handled.last(),
        Some(&999),
        "the oldest are dropped, not the newest"
    );
    Ok(())
}

/// Row 49: a queue that stays full rejects a publish at its deadline, for certain; then it recovers.
async fn full_queue(bus: Bus) -> Result<()> {
    let deadline = Duration::from_secs(2);
    let (open, gate) = watch::channel(false);
    let journal = Journal::default();
    let play = journal.play(move |_| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|open| *open).await?;
            Ok(())
        }
    });
    let bus = bus.limited("capacity=5")?;
    let node = bus
        .node("a")
        .state(play)
        .concurrency(1)
        .handler_timeout(Duration::from_secs(600))
        .publish_deadline(deadline)
        .handlers(handlers![on_work, on_tick])
        .start()
        .await?;
    for id in 0..5 {
        node.publish(Work { id }).await?;
    }
    let mut rejected = Vec::new();
    for id in 100..110 {
        let began = Instant::now();
        let error = node
            .publish(Work { id })
            .await
            .expect_err("there is no room");
        assert_eq!(error.kind(), ErrorKind::LimitReached, "{error:?}");
        assert!(!error.may_be_stored(), "{error:?}");
        let late = deadline + Duration::from_millis(250);
        assert!(began.elapsed() <= late, "after {:?}", began.elapsed());
        rejected.push(error.into_envelope().expect("the message is given back"));
    }
    // Other messages have room of their own.
    node.publish(Tick { id: 0 }).await?;
    open.send(true)?;
    journal.wait(Step::Done, 6, SOON).await;
    for envelope in rejected.into_iter().take(3) {
        node.republish(envelope).await?;
    }
    journal.wait(Step::Done, 9, SOON).await;
    bus.quiet(Duration::from_secs(100)).await;
    assert_eq!(
        journal.handled_by("on_work"),
        [0, 1, 2, 3, 4, 100, 101, 102]
    );
    Ok(())
}

/// Row 50: at QoS 1 nine of ten nodes are not slowed by one that is stuck.
async fn one_stuck_of_ten(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let nodes = ten_nodes(&bus, &journal, &handlers![each_work]).await?;
    let began = Instant::now();
    for id in 0..200 {
        nodes[1].publish(Work { id }).await?;
    }
    nine_are_done(&bus, &journal, began).await;
    Ok(())
}

/// Row 50: at QoS 0 nine of ten nodes are not slowed by one that is stuck.
async fn one_stuck_of_ten_at_most_once(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let nodes = ten_nodes(&bus, &journal, &handlers![each_tick]).await?;
    let began = Instant::now();
    for id in 0..200 {
        nodes[1].publish(Tick { id }).await?;
    }
    nine_are_done(&bus, &journal, began).await;
    Ok(())
}

/// Ten nodes, the first of which is stuck.
async fn ten_nodes(bus: &Bus, journal: &Journal, handlers: &Handlers) -> Result<Vec<Catga>> {
    let mut nodes = Vec::new();
    for i in 0..10 {
        let node = bus.node(&format!("n{i}")).state(stuck(journal));
        let node = node.concurrency(4).handlers(handlers.clone());
        nodes.push(node.start().await?);
    }
    Ok(nodes)
}

/// Node `n0` is stuck; the others are quick.
fn stuck(journal: &Journal) -> crate::journal::Play {
    journal.play(|scene| async move {
        if scene.context.node().as_str() == "n0" {
            std::future::pending::<()>().await;
        }
        Ok(())
    })
}

async fn nine_are_done(bus: &Bus, journal: &Journal, began: Instant) {
    let limit = bus.bound(Duration::from_secs(1));
    journal.wait(Step::Done, 1800, SOON).await;
    assert!(began.elapsed() < limit, "slowed: {:?}", began.elapsed());
    let shares = journal.shares();
    assert_eq!(shares.len(), 9, "{shares:?}");
    assert!(shares.values().all(|share| *share == 200), "{shares:?}");
    assert_eq!(journal.running(), 4, "the stuck one keeps to its limit");
}

/// Rows 51 and 79: a watch that nobody reads keeps a bounded number of events, and ends up right.
async fn unread_watch(bus: Bus) -> Result<()> {
    let node = bus.observer().await?;
    let registry = registry(&bus, &node).await?;
    let mut watch = registry.watch().await?;
    let service = Name::new("suite")?;
    let ids = (0..50).map(|number| Name::new(format!("node-{number}")));
    let ids = ids.collect::<std::result::Result<Vec<_>, _>>()?;
    let mut others: Vec<_> = ids
        .into_iter()
        .map(|id| NodeInfo::new(id, service.clone()))
        .collect();
    let joining = others.iter().map(|other| registry.register(other));
    for joined in futures_util::future::join_all(joining).await {
        joined?;
    }
    for _ in 0..10_000 / others.len() {
        for other in &mut others {
            other.draining = !other.draining;
        }
        let changing = others.iter().map(|other| registry.heartbeat(other));
        for changed in futures_util::future::join_all(changing).await {
            changed?;
        }
    }
    for other in &others {
        registry.unregister(other).await?;
    }
    let last = NodeInfo::new(Name::new("last")?, service);
    registry.register(&last).await?;

    let mut view = BTreeMap::new();
    let (mut events, mut lagged) = (0, 0);
    while let Ok(event) = tokio::time::timeout(Duration::from_secs(1), watch.next()).await {
        events += 1;
        match event.expect("the registry is there") {
            NodeEvent::Joined(node) | NodeEvent::Updated(node) => {
                view.insert(node.id.clone(), node.incarnation);
            }
            NodeEvent::Left(node) => drop(view.remove(&node.id)),
            NodeEvent::Lagged => {
                lagged += 1;
                view.clear();
            }
            other => panic!("an event that this suite does not know: {other:?}"),
        }
    }
    assert!(events < 2_000, "{events} events were kept");
    assert!(lagged > 0, "10,000 changes fitted into {events} events");
    let live: BTreeMap<_, _> = registry
        .nodes()
        .await?
        .into_iter()
        .map(|node| (node.id, node.incarnation))
        .collect();
    assert_eq!(view, live);
    assert_eq!(live.len(), 2, "{live:?}");
    wait_until("the node itself follows", SOON, || {
        node.nodes().len() == live.len()
    })
    .await;
    Ok(())
}
