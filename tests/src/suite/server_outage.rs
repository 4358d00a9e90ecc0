//! The server or the link to it goes, and comes back: rows 8, 29, 47, 54 and 58.

use std::collections::BTreeSet;
use std::future::pending;
use std::time::Duration;

use catga::prelude::{Catga, Result, handlers};
use catga::{ErrorKind, Handlers, Name};
use catga_core::ConnectionState;
use tokio::time::{Instant, sleep, timeout};

use crate::crew::{Crew, effects};
use crate::evidence::{Event, What};
use crate::harness::{Bus, SOON, dead_letters, scenarios, wait_until};
use crate::journal::{Journal, Step};
use crate::messages::{Tick, Work, on_tick, on_work};
use crate::parts::{Move, on_move};
use crate::proxy::{Direction, Fault};
use crate::site::Backlog;
use crate::worker::CREW;

scenarios! { Backend "server_outage":
    Real a_cold_start [8],
    Real a_server_that_does_not_greet [8],
    Real restarts_under_load [58],
    Real restarts_under_load_exactly_once [58],
    Real restarts_at_most_once [58],
    Real order_across_cuts [47],
    Real order_across_cuts_at_most_once [47],
    Real acks_are_lost [29],
    Real acks_are_lost_exactly_once [29],
    Real shutdown_while_it_is_down [54],
    Real shutdown_while_it_is_down_at_most_once [54],
}

const SECOND: Duration = Duration::from_secs(1);

async fn start(bus: &Bus, journal: &Journal, handlers: Handlers) -> Result<Catga> {
    let node = bus.node("there").state(journal.plain()).ack_wait(SECOND);
    Ok(node.handlers(handlers).start().await?)
}

/// Row 8: a start without a server fails at once and says so; with one it works.
async fn a_cold_start(bus: Bus) -> Result<()> {
    let mut server = bus.own_server()?;
    server.kill()?;
    let journal = Journal::default();
    let bus = server.bus();
    let refused = timeout(
        3 * SECOND,
        start(&bus, &journal, handlers![on_tick, on_work]),
    )
    .await;
    let error = refused
        .expect("it hangs, and says nothing")
        .expect_err("there is nobody");
    let error = error.as_catga().expect("it is ours");
    assert_eq!(error.kind(), ErrorKind::Connect, "{error:?}");
    let port = server.address().port().to_string();
    assert!(error.to_string().contains(&port), "where? {error}");
    server.restart()?;
    let node = start(&bus, &journal, handlers![on_tick, on_work]).await?;
    node.publish(Tick { id: 0 }).await?;
    node.publish(Work { id: 1 }).await?;
    journal.wait(Step::Done, 2, SOON).await;
    node.shutdown().await?;
    Ok(())
}

/// Row 8: a server that takes connections and says nothing is given up.
async fn a_server_that_does_not_greet(bus: Bus) -> Result<()> {
    let mut server = bus.own_server()?;
    server.pause()?;
    let bus = server.bus().limited("connect_timeout=500ms")?;
    let journal = Journal::default();
    let refused = timeout(SOON / 2, start(&bus, &journal, handlers![on_work])).await;
    let error = refused
        .expect("it hangs, and says nothing")
        .expect_err("nobody answers");
    let error = error.as_catga().expect("it is ours");
    assert_eq!(error.kind(), ErrorKind::Connect, "{error:?}");
    server.resume()?;
    let node = start(&bus, &journal, handlers![on_work]).await?;
    node.publish(Work { id: 1 }).await?;
    journal.wait(Step::Done, 1, SOON).await;
    node.shutdown().await?;
    Ok(())
}

/// Row 58: the server is restarted five times, cleanly and killed, while messages are published and handled.
async fn restarts_under_load(bus: Bus) -> Result<()> {
    restarts(bus, false).await
}

/// Row 58 at QoS 2.
async fn restarts_under_load_exactly_once(bus: Bus) -> Result<()> {
    restarts(bus, true).await
}

async fn restarts(bus: Bus, once: bool) -> Result<()> {
    let mut server = bus.own_server()?;
    let mut crew = Crew::new(&server.bus(), once).await?;
    for member in ["a", "b"] {
        crew.start_here(member, |_| {}).await?;
    }
    let mut load = crew.load(0, 200);
    for round in 0..5 {
        load.more(100).await?;
        if round % 2 == 0 {
            crew.kill_server(&mut server)?;
        } else {
            crew.restart_server(&mut server)?;
        }
    }
    load.more(100).await?;
    let end = load.stop().await?.end;
    crew.wait_until_done(0..end).await?;
    let (verdict, _) = crew.judge(0..end).await?;
    assert_eq!(verdict.published_ok, usize::try_from(end)?, "{verdict}");
    assert_eq!(verdict.kills.len(), 3);
    Ok(())
}

/// Row 58 at QoS 0: those who listen do so again, and get nothing twice.
async fn restarts_at_most_once(bus: Bus) -> Result<()> {
    let mut server = bus.own_server()?;
    let journal = Journal::default();
    let there = start(&server.bus(), &journal, handlers![on_tick]).await?;
    let node = server.bus().observer().await?;
    let mut id = 0;
    for round in 0..5 {
        if round % 2 == 0 {
            server.kill()?;
        }
        server.restart()?;
        let (first, by) = (id, Instant::now() + SOON);
        while journal.handled().last().is_none_or(|last| *last < first) {
            assert!(Instant::now() < by, "nothing arrives any more");
            if node.publish(Tick { id }).await.is_ok() {
                id += 1;
            }
            sleep(SECOND / 50).await;
        }
    }
    bus.quiet(SOON).await;
    let handled = journal.handled();
    assert!(handled.windows(2).all(|pair| pair[0] < pair[1]), "twice");
    there.shutdown().await?;
    Ok(())
}

/// The messages in the order in which they came for the first time.
fn first_deliveries(journal: &Journal) -> Vec<u32> {
    let mut seen = BTreeSet::new();
    let started = journal.all(Step::Started).into_iter().map(|note| note.id);
    started.filter(|id| seen.insert(*id)).collect()
}

/// Row 47: the link is cut three times: messages of one key come in the order in which they were published, and all of them.
async fn order_across_cuts(bus: Bus) -> Result<()> {
    let server = bus.own_server()?;
    let proxy = server.proxy().await?;
    let bus = server.bus_through(&proxy);
    let journal = Journal::default();
    let there = start(&bus, &journal, handlers![on_move]).await?;
    let node = bus.observer().await?;
    for id in 0..200 {
        node.publish(Move { key: 0, id }).await?;
        if [50, 100, 150].contains(&id) {
            proxy.reset();
        }
    }
    journal.wait(Step::Done, 200, SOON).await;
    wait_until("all are handled", SOON, || {
        first_deliveries(&journal).len() == 200
    })
    .await;
    let came = first_deliveries(&journal);
    assert!(came.is_sorted(), "out of order: {came:?}");
    there.shutdown().await?;
    Ok(())
}

/// Row 47 at QoS 0: some may be missing, none is out of order.
async fn order_across_cuts_at_most_once(bus: Bus) -> Result<()> {
    let server = bus.own_server()?;
    let proxy = server.proxy().await?;
    let bus = server.bus_through(&proxy);
    let journal = Journal::default();
    let there = bus.node("there").state(journal.plain()).concurrency(1);
    let there = there.handlers(handlers![on_tick]).start().await?;
    let node = bus.observer().await?;
    for id in 0..200 {
        node.publish(Tick { id }).await?;
        sleep(SECOND / 200).await;
        if [50, 100, 150].contains(&id) {
            proxy.reset();
        }
    }
    let (mut id, by) = (200, Instant::now() + SOON);
    while journal.handled().last().is_none_or(|last| *last < 200) {
        assert!(Instant::now() < by, "nothing arrives any more");
        if node.publish(Tick { id }).await.is_ok() {
            id += 1;
        }
        sleep(SECOND / 50).await;
    }
    let came: Vec<_> = journal
        .all(Step::Started)
        .iter()
        .map(|note| note.id)
        .collect();
    let in_order = came.windows(2).all(|pair| pair[0] < pair[1]);
    assert!(in_order, "out of order, or twice: {came:?}");
    there.shutdown().await?;
    Ok(())
}

/// Row 29: acks are lost for 3 s: what they were for comes again, or they are told again, and nothing is lost.
async fn acks_are_lost(bus: Bus) -> Result<()> {
    lost_acks(bus, false).await
}

/// Row 29 at QoS 2: keyed effects happen once.
async fn acks_are_lost_exactly_once(bus: Bus) -> Result<()> {
    lost_acks(bus, true).await
}

async fn lost_acks(bus: Bus, once: bool) -> Result<()> {
    const MESSAGES: u64 = 20;
    let server = bus.own_server()?;
    let proxy = server.proxy().await?;
    let mut crew = Crew::new(&server.bus_through(&proxy), once).await?;
    crew.start_here("there", |part| {
        part.takes = SECOND / 4;
        part.concurrency = 20;
    })
    .await?;
    crew.publish(0..MESSAGES).await?;
    let mut began = 0;
    crew.wait_for("all of them run", |event| {
        began += u64::from(matches!(event.what, What::Started { .. }));
        began == MESSAGES
    })
    .await?;
    let (message, group) = (crew.message(), Name::from_static(CREW));
    let backlog = async || -> Result<Backlog> {
        let backlog = server.site().backlog(&message, &group).await?;
        Ok(backlog.expect("there is the group"))
    };
    let pending = backlog().await?.pending;
    let done = crew.done()?;
    assert!(
        pending + done >= MESSAGES,
        "{pending} are pending, and {done} are handled"
    );
    let fault = || "acks".to_owned();
    crew.note(What::FaultBegun { fault: fault() })?;
    proxy.set(Direction::ToServer, Fault::BlackHole);
    let text = "from here on acks are swallowed".to_owned();
    crew.note(What::Text { text: text.clone() })?;
    sleep(3 * SECOND).await;
    // What was swallowed is not sent again.
    proxy.reset();
    proxy.heal();
    crew.note(What::FaultHealed { fault: fault() })?;
    crew.wait_until_done(0..MESSAGES).await?;
    sleep(2 * SECOND).await;
    let drained = async {
        while backlog().await?.pending > 0 {
            sleep(SECOND / 50).await;
        }
        Result::<()>::Ok(())
    };
    timeout(SOON, drained)
        .await
        .expect("what was not acked stays so")?;
    let (_, events) = crew.judge(0..MESSAGES).await?;
    let swallowed =
        |event: &Event| matches!(&event.what, What::Text { text: noted } if *noted == text);
    let from = events.iter().position(swallowed).expect("it was noted");
    let mut lost = 0;
    for id in 0..MESSAGES {
        assert_eq!(effects(&events, id).1, 1, "message {id}");
        let of_it = |event: &&Event| event.id == Some(id);
        let done = |event: &Event| matches!(event.what, What::Done { .. });
        let first_done = events.iter().position(|event| of_it(&event) && done(event));
        if first_done.is_some_and(|done| done > from) {
            lost += 1;
        }
    }
    assert!(lost > 0, "all were acked before");
    Ok(())
}

/// Row 54: a shutdown without a server ends in time, says what did not finish, and leaves that to others.
async fn shutdown_while_it_is_down(bus: Bus) -> Result<()> {
    let mut server = bus.own_server()?;
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.context.node().as_str() == "first" && scene.id == 0 {
            pending::<()>().await;
        }
        Ok(())
    });
    let first = server.bus().node("first").state(play.clone());
    let first = first.ack_wait(SECOND).concurrency(4);
    let first = first.handlers(handlers![on_work]).start().await?;
    first.publish(Work { id: 1 }).await?;
    journal.wait(Step::Done, 1, SOON).await;
    first.publish(Work { id: 0 }).await?;
    journal.wait(Step::Started, 2, SOON).await;
    server.kill()?;
    let transport = &first.backend().transport;
    wait_until("it is noticed", SOON, || {
        transport.state() != ConnectionState::Connected
    })
    .await;
    let publishing = tokio::spawn({
        let first = first.clone();
        async move { first.publish(Work { id: 2 }).await }
    });
    let began = Instant::now();
    let report = first.shutdown_within(SECOND).await?;
    // The last words to a server may take two seconds more.
    assert!(began.elapsed() < 4 * SECOND, "{:?}", began.elapsed());
    assert_eq!(report.unfinished, 1);
    assert!(report.unflushed, "nobody was there to be told");
    let error = timeout(5 * SECOND, publishing).await??;
    let error = error.expect_err("nobody can have stored it");
    assert!(
        [
            ErrorKind::Closed,
            ErrorKind::Unavailable,
            ErrorKind::Timeout
        ]
        .contains(&error.kind()),
        "{error:?}"
    );
    server.restart()?;
    let second = server.bus().node("second").state(play).ack_wait(SECOND);
    let second = second.handlers(handlers![on_work]).start().await?;
    let others = || {
        journal
            .notes()
            .iter()
            .any(|note| note.id == 0 && note.step == Step::Done)
    };
    wait_until("another handles it", SOON, others).await;
    assert!(dead_letters(second.backend()).await?.is_empty());
    assert!(!second.shutdown().await?.unflushed);
    Ok(())
}

/// Row 54 at QoS 0.
async fn shutdown_while_it_is_down_at_most_once(bus: Bus) -> Result<()> {
    let mut server = bus.own_server()?;
    let journal = Journal::default();
    let node = start(&server.bus(), &journal, handlers![on_tick]).await?;
    node.publish(Tick { id: 0 }).await?;
    journal.wait(Step::Done, 1, SOON).await;
    server.kill()?;
    for id in 1..100 {
        node.publish(Tick { id }).await?;
    }
    let began = Instant::now();
    let report = node.shutdown_within(SECOND).await?;
    assert!(began.elapsed() < 4 * SECOND, "{:?}", began.elapsed());
    assert_eq!(report.unfinished, 0);
    assert!(report.unflushed, "99 messages went nowhere");
    let state = node.backend().transport.state();
    assert_eq!(state, ConnectionState::Closed, "it stays open");
    server.restart()?;
    bus.quiet(SOON).await;
    assert_eq!(journal.handled(), [0], "it listens on");
    Ok(())
}
