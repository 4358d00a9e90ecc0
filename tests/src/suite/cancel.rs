//! Futures are dropped at every await point: nothing acknowledged is lost, nobody else is disturbed.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use catga::prelude::{Catga, Result, handlers};
use catga::{ErrorKind, Name, QoS, Reason, ReasonKind};
use catga_core::{Codecs, Consumers, Delivery, Settlement, Subscribe, Subscription};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::harness::{
    Bus, SOON, dead_letters, poll_then_drop, scenarios, wait_for_nodes, wait_until,
};
use crate::journal::{Journal, Step};
use crate::messages::{Ask, Tick, Work, on_ask, on_tick, on_work};

scenarios! { Backend "cancel":
    Paused publish [18],
    Paused publish_at_most_once [18],
    Paused publish_to_a_full_queue [18],
    Paused send_here,
    Paused send_to_another_node,
    Paused broadcast,
    Paused start,
    Paused recv,
    Paused settle,
    Paused shutdown,
}

/// More polls than any of our futures takes.
const MANY: usize = 200;

/// Whether the future came to its end; one that takes so many polls never does.
fn ended(completed: bool, polls: usize) -> bool {
    assert!(polls < MANY, "it does not end");
    completed
}

/// Row 18: a dropped `publish` leaves its own outcome open; what was published is handled once.
async fn publish(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = bus.node("a").state(journal.plain());
    let node = node.handlers(handlers![on_work]).start().await?;
    let mut acknowledged = Vec::new();
    for polls in 0.. {
        // A stream of its own is made by the first publish; both ways are tried.
        let id = u32::try_from(polls)?;
        let outcome = poll_then_drop(polls, node.publish(Work { id })).await;
        let completed = outcome.transpose()?.is_some();
        if completed {
            acknowledged.push(id);
        }
        node.publish(Work { id: 1000 + id }).await?;
        acknowledged.push(1000 + id);
        if ended(completed, polls) {
            break;
        }
    }
    journal.wait(Step::Done, acknowledged.len(), SOON).await;
    bus.quiet(Duration::from_secs(100)).await;
    let mut handled = journal.handled();
    let count = handled.len();
    handled.dedup();
    assert_eq!(handled.len(), count, "handled twice");
    assert!(acknowledged.iter().all(|id| handled.contains(id)), "lost");
    Ok(())
}

/// Row 18: a dropped `publish` at QoS 0 disturbs nobody.
async fn publish_at_most_once(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = bus.node("a").state(journal.plain());
    let node = node.handlers(handlers![on_tick]).start().await?;
    for polls in 0.. {
        let id = u32::try_from(polls)?;
        let outcome = poll_then_drop(polls, node.publish(Tick { id })).await;
        node.publish(Tick { id: 1000 + id }).await?;
        wait_until("the next is handled", SOON, || {
            journal.handled().contains(&(1000 + id))
        })
        .await;
        if ended(outcome.transpose()?.is_some(), polls) {
            assert!(journal.handled().contains(&id), "lost");
            break;
        }
    }
    Ok(())
}

/// Row 18: a dropped `publish` that waited for room takes no room, and those behind it move up.
async fn publish_to_a_full_queue(bus: Bus) -> Result<()> {
    let (open, gate) = watch::channel(false);
    let journal = Journal::default();
    let play = journal.play(move |_| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|open| *open).await?;
            Ok(())
        }
    });
    let bus = bus.limited("capacity=3")?;
    let node = bus.node("a").state(play).concurrency(1);
    let node = node.handlers(handlers![on_work]).start().await?;
    for id in 0..3 {
        node.publish(Work { id }).await?;
    }
    for polls in 0..20 {
        let publish = node.publish(Work { id: 100 });
        assert!(
            tokio::time::timeout(Duration::from_millis(100), poll_then_drop(polls, publish))
                .await
                .ok()
                .flatten()
                .is_none(),
            "there was room"
        );
    }
    let behind = node.clone();
    let behind = tokio::spawn(async move {
        for id in 3..20 {
            behind.publish(Work { id }).await?;
        }
        Ok::<_, catga::Error>(())
    });
    tokio::task::yield_now().await;
    open.send(true)?;
    behind.await??;
    wait_until("all are handled", SOON, || {
        let mut handled = journal.handled();
        handled.retain(|id| *id != 100);
        handled == (0..20).collect::<Vec<_>>()
    })
    .await;
    Ok(())
}

/// A play whose handlers take several polls and some time.
fn slow(journal: &Journal) -> crate::journal::Play {
    journal.play(|_| async {
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        tokio::task::yield_now().await;
        Ok(())
    })
}

/// A dropped `send` to this node: a handler that was begun runs to its end.
async fn send_here(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = bus.node("a").state(slow(&journal)).concurrency(2);
    let node = node.handlers(handlers![on_ask]).start().await?;
    asked_and_dropped(&node, &journal).await?;
    assert_eq!(node.handlers()[0].stats.in_flight, 0, "a place is lost");
    Ok(())
}

/// A dropped `send` to another node: a handler that was begun runs to its end.
async fn send_to_another_node(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = bus.node("a").state(slow(&journal)).concurrency(2);
    let node = node.handlers(handlers![on_ask]).start().await?;
    let caller = bus.observer().await?;
    asked_and_dropped(&caller, &journal).await?;
    wait_until("every place is free", SOON, || {
        node.handlers()[0].stats.in_flight == 0
    })
    .await;
    Ok(())
}

async fn asked_and_dropped(node: &Catga, journal: &Journal) -> Result<()> {
    for polls in 0.. {
        let id = u32::try_from(polls)?;
        let outcome = poll_then_drop(polls, node.send(Ask { id })).await;
        assert_eq!(node.send(Ask { id: 1000 + id }).await?.id, 1000 + id);
        wait_until("what was begun is done", SOON, || journal.running() == 0).await;
        if ended(outcome.transpose()?.is_some(), polls) {
            break;
        }
    }
    assert_eq!(
        journal.count(Step::Done),
        journal.count(Step::Started),
        "stopped half-way"
    );
    Ok(())
}

/// A dropped `broadcast`: handlers that were begun run to their end, on each node.
async fn broadcast(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let mut nodes = Vec::new();
    for id in ["a", "b"] {
        let node = bus.node(id).state(slow(&journal));
        nodes.push(node.handlers(handlers![on_ask]).start().await?);
    }
    wait_for_nodes(&nodes[0], 2).await;
    for polls in 0.. {
        let id = u32::try_from(polls)?;
        let outcome = poll_then_drop(polls, nodes[0].broadcast(Ask { id })).await;
        let outcomes = nodes[0].broadcast(Ask { id: 1000 + id }).await?;
        assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()));
        wait_until("what was begun is done", SOON, || journal.running() == 0).await;
        if ended(outcome.transpose()?.is_some(), polls) {
            break;
        }
    }
    assert_eq!(journal.count(Step::Done), journal.count(Step::Started));
    Ok(())
}

/// A dropped `start` undoes what it did: no message goes to a ghost, and the id is free after the node time-out.
async fn start(bus: Bus) -> Result<()> {
    let observer = bus.observer().await?;
    let (journal, ghost) = (Journal::default(), Journal::default());
    let node = |journal: &Journal| {
        let node = bus.node("a").state(journal.plain());
        node.handlers(handlers![on_work, on_tick, on_ask])
    };
    // A backend that cannot have such a node says so.
    node(&ghost).start().await?.shutdown().await?;
    for polls in 0.. {
        let id = u32::try_from(polls)?;
        let dropped = poll_then_drop(polls, node(&ghost).start()).await;
        let completed = dropped.transpose()?.is_some();
        // At worst the registry lists the node for as long as one may be silent: 30 s.
        let again = started_within(Duration::from_secs(31), || node(&journal)).await;
        let again = again.unwrap_or_else(|error| panic!("after {polls} polls: {error:?}"));
        observer.publish(Work { id }).await?;
        observer.publish(Tick { id }).await?;
        wait_until("the messages arrive", SOON, || {
            journal.handled().iter().filter(|done| **done == id).count() == 2
        })
        .await;
        wait_for_nodes(&observer, 2).await;
        // A ghost would be asked in its place, and never answer.
        for id in [3 * id, 3 * id + 1, 3 * id + 2] {
            assert_eq!(
                observer.send_to("a", Ask { id: 1000 + id }).await?.node,
                "a"
            );
        }
        again.shutdown().await?;
        if ended(completed, polls) {
            break;
        }
    }
    assert_eq!(ghost.notes(), []);
    Ok(())
}

async fn started_within(
    limit: Duration,
    builder: impl Fn() -> catga::CatgaBuilder,
) -> std::result::Result<Catga, catga::Error> {
    let deadline = Instant::now() + limit;
    loop {
        match builder().start().await {
            Err(error) if error.kind() == ErrorKind::DuplicateNode && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            outcome => return outcome,
        }
    }
}

/// How long a delivery may stay unsettled.
fn lease(bus: &Bus) -> Duration {
    bus.span(Duration::from_secs(30))
}

async fn subscribed(
    bus: &Bus,
    node: &Catga,
    name: &str,
    qos: QoS,
) -> Result<Box<dyn Subscription>> {
    let group = Consumers::Group(Name::new("readers")?);
    let subscribe = Subscribe::new(Name::new(name)?, qos, group)
        .with_max_in_flight(4)
        .with_ack_wait(lease(bus));
    Ok(node.backend().transport.subscribe(&subscribe).await?)
}

async fn next(subscription: &mut dyn Subscription) -> Result<Delivery> {
    let mut batch = Vec::new();
    tokio::time::timeout(Duration::from_secs(200), subscription.recv(1, &mut batch)).await??;
    Ok(batch.pop().expect("recv gives at least one"))
}

fn number(delivery: &Delivery) -> Option<u32> {
    let envelope = delivery.envelope();
    let bytes = envelope.payload().as_bytes()?;
    let work = Codecs::default().decode::<Work>(envelope.content_type(), bytes);
    work.ok().map(|work| work.id)
}

/// A dropped `recv` loses nothing: what it had fetched comes with the next one, once, uncounted.
async fn recv(bus: Bus) -> Result<()> {
    let node = bus.observer().await?;
    let mut subscription = subscribed(&bus, &node, "Work", QoS::AtLeastOnce).await?;
    let mut seen = Vec::new();
    for round in 0..20_u32 {
        for polls in 0..4 {
            // Dropped while it waits, then with messages coming in, then with messages there.
            let mut batch = Vec::new();
            let dropped = poll_then_drop(polls, subscription.recv(3, &mut batch));
            let early = tokio::time::timeout(Duration::from_millis(10), dropped).await;
            let early = early.ok().flatten().transpose()?;
            assert!(batch.is_empty() || early.is_some(), "filled and not ended");
            for delivery in batch {
                seen.extend(number(&delivery));
                delivery.settle(Settlement::Ack).await?;
            }
            if polls == usize::try_from(round % 4)? {
                for id in 0..3 {
                    node.publish(Work { id: 3 * round + id }).await?;
                }
            }
        }
        while seen.len() < 3 * (round as usize + 1) {
            let delivery = next(&mut *subscription).await?;
            assert_eq!(delivery.count(), 1, "counted as a delivery");
            seen.extend(number(&delivery));
            delivery.settle(Settlement::Ack).await?;
        }
    }
    // Dropped when what it waited for is on its way to it: once with a next one, once without.
    for id in [60, 61] {
        let mut batch = Vec::new();
        {
            let mut waiting = pin!(subscription.recv(1, &mut batch));
            let pending = poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_pending()));
            assert!(pending.await, "there was nothing to receive");
            node.publish(Work { id }).await?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if id == 61 {
            subscription = subscribed(&bus, &node, "Work", QoS::AtLeastOnce).await?;
        }
        let began = Instant::now();
        let delivery = next(&mut *subscription).await?;
        assert_eq!(number(&delivery), Some(id));
        let given_back = u32::from(id == 61);
        let count = delivery.count();
        assert!(bus.allows_after_release(count, given_back), "{count}");
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "only the lease brought it back"
        );
        delivery.settle(Settlement::Ack).await?;
        seen.push(id);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..=61).collect::<Vec<_>>());
    Ok(())
}

/// A dropped `settle` settles as it says or not at all; then the message comes back.
async fn settle(bus: Bus) -> Result<()> {
    let node = bus.observer().await?;
    let mut subscription = subscribed(&bus, &node, "Work", QoS::AtLeastOnce).await?;
    let settlements: [fn() -> Settlement; 5] = [
        || Settlement::Ack,
        || Settlement::Release { began: false },
        || Settlement::Nak {
            after: Duration::from_secs(1),
        },
        || Settlement::DeadLetter {
            reason: Reason::new(ReasonKind::Terminal, "enough"),
            claim: None,
        },
        || Settlement::Term,
    ];
    let mut id = 0;
    for (kind, settlement) in settlements.into_iter().enumerate() {
        for polls in 0.. {
            id += 1;
            let dead = dead_letters(node.backend()).await?.len();
            node.publish(Work { id }).await?;
            let delivery = next(&mut *subscription).await?;
            assert_eq!(number(&delivery), Some(id));
            let outcome = poll_then_drop(polls, delivery.settle(settlement())).await;
            let completed = outcome.transpose()?.is_some();
            // Whatever comes back has come after two leases.
            let back = tokio::time::timeout(2 * lease(&bus), next(&mut *subscription));
            let back = back.await.ok().transpose()?;
            let died = dead_letters(node.backend()).await?.len() - dead;
            match (kind, completed) {
                (0 | 4, true) => assert!(back.is_none() && died == 0, "{kind}: not settled"),
                (1 | 2, _) => assert!(back.is_some() && died == 0, "{kind}: lost"),
                (3, true) => assert!(back.is_none() && died == 1, "not in the dead letters"),
                (3, false) => assert!(back.is_some() != (died == 1), "lost or doubled"),
                _ => {}
            }
            if polls == 0 {
                assert!(back.is_some(), "{kind}: settled by a future that never ran");
            }
            if let Some(delivery) = back {
                assert_eq!(number(&delivery), Some(id));
                delivery.settle(Settlement::Ack).await?;
            }
            if ended(completed, polls) {
                break;
            }
        }
    }
    Ok(())
}

/// A dropped `shutdown` that was begun goes on; one that was not leaves the application as it was.
async fn shutdown(bus: Bus) -> Result<()> {
    let observer = bus.observer().await?;
    let journal = Journal::default();
    for polls in 0.. {
        let id = u32::try_from(polls)?;
        let node = bus.node("a").state(slow(&journal));
        let node = node.handlers(handlers![on_work]).start().await?;
        observer.publish(Work { id }).await?;
        wait_until("it is begun", SOON, || !journal.starts(id).is_empty()).await;
        let outcome = poll_then_drop(polls, node.shutdown()).await;
        let completed = outcome.transpose()?.is_some();
        if polls == 0 {
            node.publish(Work { id: 1000 }).await?;
            wait_until("it still works", SOON, || journal.handled().contains(&1000)).await;
        }
        assert_eq!(node.shutdown().await?.unfinished, 0);
        assert!(journal.handled().contains(&id), "stopped half-way");
        if ended(completed, polls) {
            break;
        }
    }
    bus.quiet(Duration::from_secs(100)).await;
    assert_eq!(journal.count(Step::Done), journal.count(Step::Started));
    Ok(())
}
