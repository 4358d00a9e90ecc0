//! What others do to the resources of a server, and what we leave there: rows 32 and 68 to 71.

use std::time::Duration;

use catga::prelude::{Catga, Result, handlers};
use catga::{Bytes, Envelope, ErrorKind, MessageId, Name, NodeId, QoS, Retry};
use catga_core::{
    ConnectionState, Consumers, Delivery, Settlement, Subscribe, Subscription, Transport,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::Level;

use crate::captured::Captured;
use crate::harness::{Bus, SOON, scenarios, wait_until};
use crate::journal::{Journal, Step};
use crate::messages::{Tick, Work, on_tick, on_work};
use crate::proxy::Gate;
use crate::site::OwnServer;

scenarios! { Backend "server_resources":
    Real another_ack_wait_is_used [32],
    Real a_group_that_was_changed_is_refused [32],
    Real a_store_that_differs_is_refused [32],
    Real a_group_that_is_deleted [68],
    Real a_stream_that_is_deleted [69],
    Paused data_that_is_wiped [70],
    Real subscriptions_leave_nothing [71],
    Real subscriptions_leave_nothing_at_most_once [71],
    Real reconnects_leave_nothing [71],
}

const SECOND: Duration = Duration::from_secs(1);
const WORK: Name = Name::from_static("Work");
const WORKERS: Name = Name::from_static("workers");

fn worker(ack_wait: Duration) -> Subscribe {
    let group = Consumers::Group(WORKERS);
    Subscribe::new(WORK, QoS::AtLeastOnce, group).with_ack_wait(ack_wait)
}

async fn working(bus: &Bus, journal: &Journal) -> Result<Catga> {
    let node = bus.node("there").state(journal.plain()).ack_wait(SECOND);
    let node = node.concurrency(4).handlers(handlers![on_work]);
    Ok(node.start().await?)
}

async fn receive(from: &mut dyn Subscription, limit: Duration) -> Result<Delivery> {
    let mut received = Vec::new();
    while received.is_empty() {
        timeout(limit, from.recv(1, &mut received)).await??;
    }
    Ok(received.remove(0))
}

/// Row 32: who joins a group with another ack wait gets it, or is refused.
async fn another_ack_wait_is_used(bus: Bus) -> Result<()> {
    let server = bus.own_server()?;
    let node = server.bus().observer().await?;
    let transport = &node.backend().transport;
    let mut first = transport.subscribe(&worker(SECOND / 4)).await?;
    first.close().await?;
    drop(first);
    let longer = 3 * SECOND;
    let mut second = match transport.subscribe(&worker(longer)).await {
        Ok(second) => second,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
            return Ok(());
        }
    };
    node.publish(Work { id: 0 }).await?;
    let began = Instant::now();
    let held = receive(&mut *second, SOON).await?;
    let again = receive(&mut *second, SOON).await?;
    let took = began.elapsed();
    assert!(took > 2 * SECOND, "it came again after {took:?}");
    assert_eq!(again.count(), 2);
    again.settle(Settlement::Ack).await?;
    drop(held);
    Ok(())
}

/// Row 32: a group that somebody changed so that it would lose messages is refused in words.
async fn a_group_that_was_changed_is_refused(bus: Bus) -> Result<()> {
    let server = bus.own_server()?;
    let journal = Journal::default();
    working(&server.bus(), &journal).await?.shutdown().await?;
    server.site().spoil_group(&WORK, &WORKERS).await?;
    let refused = working(&server.bus(), &journal).await;
    let error = refused.expect_err("it is not what was asked for");
    let error = error.as_catga().expect("it is ours");
    let (kind, retry) = (error.kind(), error.retry());
    assert_eq!(
        (kind, retry),
        (ErrorKind::Conflict, Retry::Never),
        "{error:?}"
    );
    Ok(())
}

/// Row 32: what stores the messages is set otherwise than asked for.
async fn a_store_that_differs_is_refused(bus: Bus) -> Result<()> {
    let server = bus.own_server()?;
    let journal = Journal::default();
    working(&server.bus(), &journal).await?.shutdown().await?;
    let differs = server.bus().limited("max_age=1h")?;
    let refused = working(&differs, &journal).await;
    let error = refused.expect_err("it is not what was asked for");
    let error = error.as_catga().expect("it is ours");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    Ok(())
}

/// Row 68: a group is deleted while it is idle, while it works, and while its member is cut off: it goes on, and skips nothing.
async fn a_group_that_is_deleted(bus: Bus) -> Result<()> {
    let server = bus.own_server()?;
    let proxy = server.proxy().await?;
    let journal = Journal::default();
    let play = journal.play(|_| async {
        sleep(Duration::from_millis(20)).await;
        Ok(())
    });
    let node = server.bus_through(&proxy).node("there").state(play);
    let node = node.ack_wait(SECOND).concurrency(4);
    let there = node.handlers(handlers![on_work]).start().await?;
    let here = server.bus().observer().await?;
    let all = |to: u32| {
        let journal = journal.clone();
        let handled = move || (0..to).all(|id| journal.handled().contains(&id));
        wait_until(format!("all {to} are handled"), SOON, handled)
    };
    let publish = async |from: u32| {
        for id in from..from + 10 {
            here.publish(Work { id }).await?;
        }
        Result::<()>::Ok(())
    };
    publish(0).await?;
    all(10).await;
    // While it waits for messages.
    server.site().delete_group(&WORK, &WORKERS).await?;
    publish(10).await?;
    all(20).await;
    // While it works.
    publish(20).await?;
    journal.wait(Step::Started, 23, SOON).await;
    server.site().delete_group(&WORK, &WORKERS).await?;
    publish(30).await?;
    all(40).await;
    // While it is cut off.
    proxy.gate(Gate::Refuse);
    proxy.reset();
    let transport = &there.backend().transport;
    wait_until("it is noticed", SOON, || {
        transport.state() != ConnectionState::Connected
    })
    .await;
    server.site().delete_group(&WORK, &WORKERS).await?;
    publish(40).await?;
    proxy.heal();
    all(50).await;
    let drained = async {
        loop {
            let backlog = server.site().backlog(&WORK, &WORKERS).await?;
            if backlog.is_some_and(|left| left.pending == 0 && left.waiting == 0) {
                return Result::<()>::Ok(());
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, drained).await??;
    there.shutdown().await?;
    Ok(())
}

/// What a publish came to at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Stored,
    /// For want of a place.
    Rejected,
    Unknown,
}

/// Publishes until it is stored; what it came to at first.
async fn publish_again(node: &Catga, id: u32) -> Result<First> {
    let mut envelope = work(id);
    let by = Instant::now() + SOON;
    let mut first = None;
    loop {
        let transport = &node.backend().transport;
        match transport.publish(&mut envelope, SECOND).await {
            Ok(_) => return Ok(first.unwrap_or(First::Stored)),
            Err(error) => {
                assert!(Instant::now() < by, "{error:?}");
                let rejected = error.kind() == ErrorKind::NotFound && !error.may_be_stored();
                first.get_or_insert(if rejected {
                    First::Rejected
                } else {
                    First::Unknown
                });
            }
        }
        sleep(Duration::from_millis(5)).await;
    }
}

fn work(id: u32) -> Envelope {
    let json = Bytes::from(format!("{{\"id\":{id}}}"));
    Envelope::received(WORK, QoS::AtLeastOnce, json).with_id(MessageId::new())
}

/// Row 69: what stores the messages is deleted while its group is cut off: publishes are rejected, by those who make no place
/// for it; then they go on, and so does the group.
async fn a_stream_that_is_deleted(bus: Bus) -> Result<()> {
    let server = bus.own_server()?;
    let proxy = server.proxy().await?;
    let journal = Journal::default();
    let there = working(&server.bus_through(&proxy), &journal).await?;
    let here = server.bus().observer().await?;
    for id in 0..20 {
        publish_again(&here, id).await?;
    }
    journal.wait(Step::Done, 20, SOON).await;
    let only_using = server.bus().limited("manage=false")?.node("user");
    let only_using = only_using.handlers(handlers![]).start().await?;
    proxy.gate(Gate::Refuse);
    proxy.reset();
    let transport = &there.backend().transport;
    wait_until("it is noticed", SOON, || {
        transport.state() != ConnectionState::Connected
    })
    .await;
    server.site().delete(&WORK).await?;
    let transport = &only_using.backend().transport;
    let rejected = transport.publish(&mut work(1000), SECOND).await;
    let error = rejected.expect_err("there is no place for it");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    assert!(!error.may_be_stored(), "{error:?}");
    // Or it makes the place at once.
    let first = publish_again(&here, 20).await?;
    assert_ne!(
        first,
        First::Unknown,
        "nobody was told that there was no place"
    );
    assert_eq!(server.site().stored(&WORK).await?.len(), 1);
    for id in 21..40 {
        publish_again(&here, id).await?;
    }
    proxy.heal();
    for id in 40..60 {
        publish_again(&here, id).await?;
    }
    let all = || (0..60).all(|id| journal.handled().contains(&id));
    wait_until("the group goes on", SOON, all).await;
    assert!(!journal.handled().contains(&1000), "it was rejected");
    there.shutdown().await?;
    Ok(())
}

/// Row 70: the server comes back empty: the group begins at the start of what is there, and the loss is told.
async fn data_that_is_wiped(bus: Bus) -> Result<()> {
    let captured = Captured::start();
    let mut server = bus.own_server()?;
    let journal = Journal::default();
    let proxy = server.proxy().await?;
    let there = working(&server.bus_through(&proxy), &journal).await?;
    let here = server.bus().observer().await?;
    for id in 0..10 {
        here.publish(Work { id }).await?;
    }
    journal.wait(Step::Done, 10, SOON).await;
    // The group comes back to a server that knows nothing of it, and has its messages.
    proxy.gate(Gate::Refuse);
    server.kill()?;
    server.wipe()?;
    server.restart()?;
    let before = captured.lines().len();
    for id in 10..20 {
        publish_again(&here, id).await?;
    }
    let early = (10..20).find(|id| journal.handled().contains(id));
    assert_eq!(early, None, "the group is back before its messages");
    proxy.heal();
    let all = || (10..20).all(|id| journal.handled().contains(&id));
    wait_until("all that is there is handled", SOON, all).await;
    let lines = captured.lines();
    let told = lines[before..]
        .iter()
        .any(|(level, text)| *level <= Level::WARN && text.contains("Work"));
    assert!(told, "nobody tells of the loss");
    there.shutdown().await?;
    Ok(())
}

/// Waits until there is no more than before.
async fn until_as_before(server: &OwnServer, before: crate::site::Counts) -> Result<()> {
    let by = Instant::now() + SOON / 2;
    loop {
        let now = server.site().counts()?;
        let fewer =
            now.connections <= before.connections && now.subscriptions <= before.subscriptions;
        if fewer && now.consumers <= before.consumers {
            return Ok(());
        }
        assert!(Instant::now() < by, "{now:?} instead of {before:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Subscribes and leaves 200 times, by every way to leave.
async fn come_and_go(server: &OwnServer, of: impl Fn(u32) -> Subscribe) -> Result<()> {
    let node = server.bus().observer().await?;
    let transport = &node.backend().transport;
    for number in 0..8 {
        transport.subscribe(&of(number)).await?.close().await?;
    }
    sleep(SECOND / 4).await;
    let before = server.site().counts()?;
    let mut rounds = JoinSet::new();
    for lane in 0..8 {
        let transport: std::sync::Arc<dyn Transport> = std::sync::Arc::clone(transport);
        let asked: Vec<_> = (0..25).map(|step| of(step * 8 + lane)).collect();
        rounds.spawn(async move {
            for (number, subscribe) in asked.iter().enumerate() {
                let mut subscription = transport.subscribe(subscribe).await?;
                if number % 4 != 0 {
                    subscription.close().await?;
                }
            }
            Result::<()>::Ok(())
        });
    }
    while let Some(ended) = rounds.join_next().await {
        ended??;
    }
    until_as_before(server, before).await
}

/// Row 71: 200 subscriptions that came and went leave nothing at the server.
async fn subscriptions_leave_nothing(bus: Bus) -> Result<()> {
    let server = bus.own_server()?;
    let of = |number: u32| {
        if number.is_multiple_of(2) {
            return worker(SECOND);
        }
        let (group, node) = (WORKERS, NodeId::from_static("there"));
        let each = Consumers::EachNode { group, node };
        Subscribe::new(WORK, QoS::AtLeastOnce, each).with_ack_wait(SECOND)
    };
    come_and_go(&server, of).await
}

/// Row 71 at QoS 0.
async fn subscriptions_leave_nothing_at_most_once(bus: Bus) -> Result<()> {
    let server = bus.own_server()?;
    let of = |number: u32| {
        let (group, node) = (WORKERS, NodeId::from_static("there"));
        let consumers = if number.is_multiple_of(2) {
            Consumers::Group(group)
        } else {
            Consumers::EachNode { group, node }
        };
        Subscribe::new(Name::from_static("Tick"), QoS::AtMostOnce, consumers)
    };
    come_and_go(&server, of).await
}

/// Row 71: nodes that come and go, and a link that is cut 50 times, leave no connection, subscription or consumer.
async fn reconnects_leave_nothing(bus: Bus) -> Result<()> {
    let server = bus.own_server()?;
    let proxy = server.proxy().await?;
    let journal = Journal::default();
    let bus = server.bus_through(&proxy);
    let start = async |id: &str| {
        let node = bus.node(id).state(journal.plain());
        let node = node.handlers(handlers![on_work, on_tick]).start().await?;
        Result::<Catga>::Ok(node)
    };
    let node = start("there").await?;
    node.publish(Work { id: 0 }).await?;
    journal.wait(Step::Done, 1, SOON).await;
    let before = server.site().counts()?;
    for _ in 0..50 {
        let connected = proxy.connections();
        proxy.reset();
        wait_until("it comes back", SOON, || proxy.connections() > connected).await;
        let transport = &node.backend().transport;
        let is_back = || transport.state() == ConnectionState::Connected;
        wait_until("it is back", SOON, is_back).await;
    }
    for _ in 0..10 {
        start("again").await?.shutdown().await?;
    }
    node.publish(Work { id: 1 }).await?;
    node.publish(Tick { id: 2 }).await?;
    journal.wait(Step::Done, 3, SOON).await;
    until_as_before(&server, before).await?;
    node.shutdown().await?;
    Ok(())
}
