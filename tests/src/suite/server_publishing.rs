//! What a publish says of the server, and what the server says of it: rows 9, 10, 11, 14, 16 and 19.

use std::time::Duration;

use catga::prelude::{Catga, Result, handlers};
use catga::{Bytes, Envelope, Error, ErrorKind, HandlerError, MessageId, Name, Published, QoS};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::crew::Crew;
use crate::evidence::{Outcome, What};
use crate::harness::{Bus, SOON, scenarios};
use crate::journal::{Journal, Step};
use crate::messages::{Tick, Work, on_tick, on_work};
use crate::outcome::Lacking;
use crate::proxy::{Direction, Fault};
use crate::reliable::{Payment, on_payment};
use crate::site::{OwnServer, SiteOptions, SmallDisk};

scenarios! { Backend "server_publishing":
    Real ok_means_stored [9],
    Real ok_means_stored_exactly_once [9],
    Real nobody_keeps_it [10],
    Real nobody_listens_at_most_once [10],
    Real the_answer_is_cut_off [11],
    Real the_answer_is_cut_off_exactly_once [11],
    Real a_full_stream_rejects [14],
    Real a_full_server_rejects [16],
    Real a_full_disk_rejects [16],
    Real an_outage [19],
    Real an_outage_exactly_once [19],
    Real an_outage_at_most_once [19],
}

const SECOND: Duration = Duration::from_secs(1);
/// What a call may take above its deadline, on a busy machine.
const SLACK: Duration = Duration::from_millis(250);
const WORK: Name = Name::from_static("Work");
const PAYMENT: Name = Name::from_static("Payment");

/// The name and level of what is published.
fn kind(once: bool) -> (Name, QoS) {
    if once {
        (PAYMENT, QoS::ExactlyOnce)
    } else {
        (WORK, QoS::AtLeastOnce)
    }
}

fn message(once: bool, id: u32, key: &str) -> Envelope {
    let (name, qos) = kind(once);
    let json = format!("{{\"id\":{id}}}");
    Envelope::received(name, qos, Bytes::from(json)).with_id(MessageId::from_key(key))
}

async fn publish(
    node: &Catga,
    envelope: &mut Envelope,
    deadline: Duration,
) -> std::result::Result<Published, Error> {
    node.backend().transport.publish(envelope, deadline).await
}

/// How often an id is stored.
async fn copies(server: &OwnServer, name: &Name, key: &str) -> Result<usize> {
    let id = MessageId::from_key(key).to_string();
    let stored = server.site().stored(name).await?;
    Ok(stored.iter().filter(|stored| **stored == id).count())
}

/// Row 9: when a publish returns Ok, the server has the message.
async fn ok_means_stored(bus: Bus) -> Result<()> {
    stored_when_ok(bus, false).await
}

/// Row 9 at QoS 2.
async fn ok_means_stored_exactly_once(bus: Bus) -> Result<()> {
    stored_when_ok(bus, true).await
}

async fn stored_when_ok(bus: Bus, once: bool) -> Result<()> {
    let server = bus.own_server()?;
    let node = server.bus().observer().await?;
    for id in 0..20 {
        let key = format!("message {id}");
        if once {
            let payment = node.message(Payment { id });
            payment.id(MessageId::from_key(&key)).publish().await?;
        } else {
            let work = node.message(Work { id });
            work.id(MessageId::from_key(&key)).publish().await?;
        }
        let (name, _) = kind(once);
        assert_eq!(copies(&server, &name, &key).await?, 1, "message {id}");
    }
    Ok(())
}

/// Row 10: what nobody keeps is rejected at once, and not waited for.
async fn nobody_keeps_it(bus: Bus) -> Result<()> {
    let server = bus.own_server()?;
    // What is kept of the nodes is there before.
    server.bus().observer().await?.shutdown().await?;
    let node = server.bus().limited("manage=false")?.observer().await?;
    let began = Instant::now();
    let error = node.publish(Work { id: 0 }).await;
    let error = error.expect_err("there is no place for it");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    assert!(!error.may_be_stored(), "{error:?}");
    assert!(
        began.elapsed() < 2 * SECOND,
        "it waited {:?}",
        began.elapsed()
    );
    Ok(())
}

/// Row 10 at QoS 0: nobody has to listen.
async fn nobody_listens_at_most_once(bus: Bus) -> Result<()> {
    let server = bus.own_server()?;
    let node = server.bus().observer().await?;
    node.publish(Tick { id: 0 }).await?;
    // The connection takes no harm from it.
    let journal = Journal::default();
    let there = server.bus().node("there").state(journal.plain());
    let there = there.handlers(handlers![on_tick]).start().await?;
    node.publish(Tick { id: 1 }).await?;
    journal.wait(Step::Done, 1, SOON).await;
    assert_eq!(journal.handled(), [1]);
    there.shutdown().await?;
    Ok(())
}

/// Row 11: the link ends between the publish and its answer: nobody knows, and the same id again finds out.
async fn the_answer_is_cut_off(bus: Bus) -> Result<()> {
    cut_off(bus, false).await
}

/// Row 11 at QoS 2: handled once.
async fn the_answer_is_cut_off_exactly_once(bus: Bus) -> Result<()> {
    cut_off(bus, true).await
}

async fn cut_off(bus: Bus, once: bool) -> Result<()> {
    let server = bus.own_server()?;
    let proxy = server.proxy().await?;
    let journal = Journal::default();
    let there = server.bus().node("there").state(journal.plain());
    let there = there.handlers(handlers![on_work, on_payment]);
    let there = there.start().await?;
    let node = server.bus_through(&proxy).observer().await?;
    publish(&node, &mut message(once, 0, "0"), SOON).await?;
    let (name, _) = kind(once);
    proxy.set(Direction::ToClient, Fault::BlackHole);
    let mut envelope = message(once, 1, "1");
    let began = Instant::now();
    let cut = async {
        let stored = async {
            while copies(&server, &name, "1").await? == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Result::<()>::Ok(())
        };
        // It never is where the bug is that nothing is sent.
        let stored = tokio::time::timeout(SECOND, stored).await;
        proxy.reset();
        stored.map_or(Ok(()), |stored| stored)
    };
    let (published, cut) = tokio::join!(publish(&node, &mut envelope, SECOND), cut);
    cut?;
    let error = published.expect_err("nobody can know that it is stored");
    assert!(error.may_be_stored(), "it is stored: {error:?}");
    assert!(began.elapsed() < SECOND + SLACK, "{:?}", began.elapsed());
    proxy.heal();
    let again = publish(&node, &mut envelope, SOON).await?;
    let copies = copies(&server, &name, "1").await?;
    assert_eq!(again.duplicate, copies == 1, "{copies} copies: {again:?}");
    journal.wait(Step::Done, 2, SOON).await;
    if once {
        bus.quiet(SOON).await;
        assert_eq!(journal.handled(), [0, 1]);
    }
    there.shutdown().await?;
    Ok(())
}

/// Publishes at QoS 1 until that is rejected; the ids that went in.
async fn fill(node: &Catga, text: &str) -> Result<(Vec<String>, Error)> {
    fill_with(node, false, text).await
}

/// Publishes until that is rejected; the ids that went in.
pub(super) async fn fill_with(
    node: &Catga,
    once: bool,
    text: &str,
) -> Result<(Vec<String>, Error)> {
    let (name, qos) = kind(once);
    let mut stored = Vec::new();
    for id in 0..10_000 {
        let key = format!("{text} {id}");
        let padded = format!("{{\"id\":{id},\"padding\":\"{}\"}}", "x".repeat(1_000));
        let mut envelope = Envelope::received(name.clone(), qos, Bytes::from(padded))
            .with_id(MessageId::from_key(&key));
        match publish(node, &mut envelope, 2 * SECOND).await {
            Ok(_) => stored.push(MessageId::from_key(&key).to_string()),
            Err(error) => return Ok((stored, error)),
        }
    }
    panic!("it takes everything");
}

/// Rows 14 and 16: it is said what is full, what was stored stays and is handled, and there is room again when there is.
async fn full(server: &OwnServer, bus: Bus) -> Result<()> {
    let node = bus.observer().await?;
    // It is there before: a server that is full takes no nodes either.
    let journal = Journal::default();
    let there = bus.node("there").state(journal.plain());
    let there = there.handlers(handlers![on_work]).start().await?;
    there.handler("on_work")?.pause();
    let (stored, error) = fill(&node, "first").await?;
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error:?}");
    assert!(!error.may_be_stored(), "{error:?}");
    assert!(!stored.is_empty());
    assert_eq!(server.site().stored(&WORK).await?, stored);
    there.handler("on_work")?.resume();
    journal.wait(Step::Done, stored.len(), SOON).await;
    let ids: Vec<_> = (0..u32::try_from(stored.len())?).collect();
    assert_eq!(journal.handled(), ids);
    server.site().empty(&WORK).await?;
    let (again, _) = fill(&node, "second").await?;
    assert!(!again.is_empty(), "there is room, and nothing goes in");
    journal
        .wait(Step::Done, stored.len() + again.len(), SOON)
        .await;
    there.shutdown().await?;
    Ok(())
}

/// Row 14: a stream that is full.
async fn a_full_stream_rejects(bus: Bus) -> Result<()> {
    let server = bus.own_server()?;
    let bus = server.bus().limited("max_bytes=30000")?;
    full(&server, bus).await
}

/// Row 16: a server with a limit to what it stores.
async fn a_full_server_rejects(bus: Bus) -> Result<()> {
    let server = bus.own_server_with(&SiteOptions {
        room: Some(100_000),
        ..SiteOptions::default()
    })?;
    full(&server, server.bus()).await
}

/// Row 16: a full disk, where a file system may be mounted: each publish ends in time and says what is known, and when there is
/// room again, at the latest after a restart, the server takes more, and has all that was stored.
async fn a_full_disk_rejects(bus: Bus) -> Result<()> {
    let Some(disk) = SmallDisk::mount(4 << 20)? else {
        let lacking = Lacking("no file system may be mounted here".to_owned());
        return Err(HandlerError::terminal(lacking));
    };
    let mut server = bus.own_server_with(&SiteOptions {
        folder: Some(disk.path().to_owned()),
        // Else the server itself stops short of the end of the disk.
        room: Some(1 << 30),
        ..SiteOptions::default()
    })?;
    let node = server.bus().observer().await?;
    let (stored, error) = fill(&node, "first").await?;
    let rejected = error.kind() == ErrorKind::LimitReached && !error.may_be_stored();
    // A server that stands still before a full disk says nothing: then nobody knows.
    let unknown = error.kind() == ErrorKind::Timeout && error.may_be_stored();
    assert!(rejected || unknown, "{error:?}");
    assert!(!stored.is_empty());
    disk.grow(64 << 20)?;
    let by = Instant::now() + 3 * SECOND;
    while let Err(error) = publish(&node, &mut message(false, 0, "again"), 2 * SECOND).await {
        if Instant::now() > by {
            tracing::info!(%error, "it is restarted");
            server.kill()?;
            server.restart()?;
            publish(&node, &mut message(false, 0, "again"), SOON).await?;
            break;
        }
        tokio::time::sleep(SECOND / 10).await;
    }
    let there = server.site().stored(&WORK).await?;
    let lost = stored.iter().filter(|id| !there.contains(id)).count();
    assert_eq!(lost, 0, "of {} that were stored", stored.len());
    assert!(
        copies(&server, &WORK, "again").await? > 0,
        "it was told to be stored"
    );
    Ok(())
}

/// Row 19: the server is gone for 5 s: each publish ends by its deadline, and what was Ok is handled.
async fn an_outage(bus: Bus) -> Result<()> {
    outage(bus, false).await
}

/// Row 19 at QoS 2.
async fn an_outage_exactly_once(bus: Bus) -> Result<()> {
    outage(bus, true).await
}

async fn outage(bus: Bus, once: bool) -> Result<()> {
    let mut server = bus.own_server()?;
    let mut crew = Crew::new(&server.bus(), once).await?;
    crew.start_here("there", |_| {}).await?;
    let mut load = crew.load(0, 50);
    load.more(20).await?;
    let fault = || "server".to_owned();
    crew.note(What::FaultBegun { fault: fault() })?;
    server.kill()?;
    crew.note(What::Killed { process: fault() })?;
    tokio::time::sleep(5 * SECOND + SECOND / 2).await;
    crew.note(What::Restarted { process: fault() })?;
    server.restart()?;
    crew.note(What::FaultHealed { fault: fault() })?;
    load.more(50).await?;
    let end = load.stop().await?.end;
    crew.wait_until_done(0..end).await?;
    let (verdict, events) = crew.judge(0..end).await?;
    assert_eq!(verdict.published_ok, usize::try_from(end)?, "{verdict}");
    let failed = |what: &What| match what {
        What::Published { outcome, .. } => *outcome != Outcome::Ok,
        _ => false,
    };
    assert!(
        events.iter().any(|event| failed(&event.what)),
        "no publish waited longer than it may: {verdict}"
    );
    Ok(())
}

/// Row 19 at QoS 0: what waits for the server is bounded, each call ends by its deadline, and then it goes on.
async fn an_outage_at_most_once(bus: Bus) -> Result<()> {
    let mut server = bus.own_server()?;
    let journal = Journal::default();
    let there = server.bus().node("there").state(journal.plain());
    let there = there.handlers(handlers![on_tick]).start().await?;
    let node = server.bus().node("here").publish_deadline(SECOND / 2);
    let node = node.handlers(handlers![]).start().await?;
    node.publish(Tick { id: 0 }).await?;
    journal.wait(Step::Done, 1, SOON).await;
    server.kill()?;
    let mut calls = JoinSet::new();
    for id in 1..10_000 {
        let node = node.clone();
        calls.spawn(async move {
            let began = Instant::now();
            let published = node.publish(Tick { id }).await;
            (id, published, began.elapsed())
        });
    }
    let (mut taken, mut refused) = (vec![0], 0);
    while let Some(ended) = calls.join_next().await {
        let (id, published, took) = ended?;
        // So many at once take their time to be polled.
        assert!(took < SECOND / 2 + 8 * SLACK, "it took {took:?}");
        match published {
            Ok(()) => taken.push(id),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
                refused += 1;
            }
        }
    }
    assert!(
        refused > 0,
        "10,000 messages wait for a server that is gone"
    );
    server.restart()?;
    let mut id = 10_000;
    let by = Instant::now() + SOON;
    while journal.handled().last().is_none_or(|last| *last < 10_000) {
        assert!(Instant::now() < by, "nothing arrives any more");
        if node.publish(Tick { id }).await.is_ok() {
            taken.push(id);
            id += 1;
        }
        tokio::time::sleep(SECOND / 50).await;
    }
    let handled = journal.handled();
    assert!(handled.windows(2).all(|pair| pair[0] < pair[1]), "twice");
    assert!(handled.iter().all(|id| taken.contains(id)), "invented");
    there.shutdown().await?;
    Ok(())
}
