//! Handlers are slowed down, sped up and paused while they run: row 7.

use std::time::Duration;

use catga::prelude::{Catga, Result, handlers};
use catga::{ErrorKind, HandlerControl, Handlers};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::harness::{Bus, SOON, dead_letters, scenarios, wait_for_nodes, wait_until};
use crate::journal::{Journal, Note, Play, Step};
use crate::messages::{Ask, Tick, Work, on_ask, on_tick, on_work};
use crate::parts::{Invoice, Move, on_invoice, on_move};
use crate::subject::Time;

scenarios! { Backend "control":
    Paused concurrency_under_load [7],
    Paused concurrency_under_load_exactly_once [7],
    Real concurrency_races [7],
    Paused concurrency_of_requests [7],
    Paused concurrency_above_the_partitions [7],
    Paused pause_and_resume,
    Paused pause_at_most_once,
    Paused a_paused_member_leaves_it_to_others,
    Paused a_paused_request,
    Paused shutdown_while_paused,
    Paused unknown_names,
}

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
const TENTH: Duration = Duration::from_millis(100);

async fn running(
    bus: &Bus,
    id: &str,
    play: Play,
    concurrency: u32,
    handlers: Handlers,
) -> Result<Catga> {
    let node = bus.node(id).state(play).concurrency(concurrency);
    // What a paused member holds others get when its lease ends.
    let node = node.ack_wait(bus.by_clock(Duration::from_secs(30), 2 * SECOND));
    Ok(node.handlers(handlers).start().await?)
}

fn slow(journal: &Journal, time: Duration) -> Play {
    journal.play(move |_| async move {
        sleep(time).await;
        Ok(())
    })
}

/// Looks at it for a second, and says how many ran at once: the least, or in the middle where messages have a way to go
/// between two handlers; and the most.
async fn observed(bus: &Bus, journal: &Journal) -> (usize, usize) {
    let mut seen = Vec::new();
    let end = Instant::now() + SECOND;
    while Instant::now() < end {
        seen.push(journal.running());
        sleep(Duration::from_millis(7)).await;
    }
    seen.sort_unstable();
    let usual = match bus.subject().time() {
        Time::Timers => 0,
        Time::Wall => seen.len() / 2,
    };
    (seen[usual], seen[seen.len() - 1])
}

/// Row 7: from 1 to 16 to 2, what runs follows; nothing is lost, stuck or run twice.
async fn concurrency_under_load(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = running(&bus, "a", slow(&journal, TENTH), 1, handlers![on_work]).await?;
    for id in 0..400 {
        node.publish(Work { id }).await?;
    }
    follows(&bus, &node.handler("on_work")?, &journal).await?;
    journal.wait(Step::Done, 400, MINUTE).await;
    settled(&bus, &node, &journal, 400).await
}

/// Row 7: the same at QoS 2.
async fn concurrency_under_load_exactly_once(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = running(&bus, "a", slow(&journal, TENTH), 1, handlers![on_invoice]).await?;
    for id in 0..400 {
        node.publish(Invoice { id }).await?;
    }
    follows(&bus, &node.handler("on_invoice")?, &journal).await?;
    journal.wait(Step::Done, 400, MINUTE).await;
    settled(&bus, &node, &journal, 400).await
}

async fn follows(bus: &Bus, handler: &HandlerControl, journal: &Journal) -> Result<()> {
    journal.wait(Step::Started, 1, SOON).await;
    for (calls, at_once) in [(1, 1), (16, 16), (2, 2), (5, 5)] {
        handler.concurrency(calls)?;
        // What ran goes on.
        sleep(bus.by_clock(2 * TENTH, 5 * TENTH)).await;
        assert_eq!(handler.info().concurrency, at_once);
        let (least, most) = observed(bus, journal).await;
        // Between two handlers there may be a moment.
        assert!(
            most == at_once && 2 * least >= at_once,
            "{least} to {most} at {calls}"
        );
    }
    assert_eq!(
        handler.concurrency(0).expect_err("pause says that").kind(),
        ErrorKind::Config
    );
    handler.concurrency(64)?;
    Ok(())
}

async fn settled(bus: &Bus, node: &Catga, journal: &Journal, count: u32) -> Result<()> {
    bus.quiet(10 * MINUTE).await;
    assert_eq!(journal.handled(), (0..count).collect::<Vec<_>>());
    assert!(
        journal
            .all(Step::Started)
            .iter()
            .all(|note| note.attempt == 1),
        "redelivered"
    );
    assert!(dead_letters(node.backend()).await?.is_empty());
    assert!(node.handlers().iter().all(|h| h.stats.in_flight == 0));
    Ok(())
}

/// Row 7: on two threads, with limits and pauses at random: nothing is lost, stuck or run twice.
async fn concurrency_races(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let short = Duration::from_millis(1);
    let a = running(
        &bus,
        "a",
        slow(&journal, short),
        1,
        handlers![on_work, on_invoice],
    )
    .await?;
    let b = running(
        &bus,
        "b",
        slow(&journal, short),
        1,
        handlers![on_work, on_invoice],
    )
    .await?;
    let mut chance = bus.chance();
    let handlers = [
        a.handler("on_work")?,
        a.handler("on_invoice")?,
        b.handler("on_work")?,
        b.handler("on_invoice")?,
    ];
    for id in 0..1000 {
        a.publish(Work { id }).await?;
        a.publish(Invoice { id: 1000 + id }).await?;
        let handler = &handlers[chance.usize(..4)];
        match chance.u32(..4) {
            0 => handler.pause(),
            1 => handler.resume(),
            _ => handler.concurrency(chance.u32(1..20))?,
        }
    }
    for handler in &handlers {
        handler.resume();
    }
    // The ack wait is 30 s, longer than a scenario may take.
    journal.wait(Step::Done, 2000, SOON).await;
    assert_eq!(journal.handled(), (0..2000).collect::<Vec<_>>());
    Ok(())
}

/// Row 7: requests from here and from elsewhere follow too.
async fn concurrency_of_requests(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = running(&bus, "a", slow(&journal, TENTH), 1, handlers![on_ask]).await?;
    let caller = bus
        .node("caller")
        .request_deadline(MINUTE)
        .handlers(handlers![]);
    let caller = caller.start().await?;
    wait_for_nodes(&caller, 2).await;
    let mut calls = JoinSet::new();
    for id in 0..300 {
        let from = if id % 2 == 0 { &node } else { &caller }.clone();
        let context = from.context();
        calls.spawn(async move {
            let _keeps = from;
            tokio::time::timeout(MINUTE, context.send(Ask { id })).await
        });
    }
    let handler = node.handler("on_ask")?;
    handler.concurrency(16)?;
    sleep(bus.by_clock(TENTH, 3 * TENTH)).await;
    let (_, most) = observed(&bus, &journal).await;
    assert_eq!(most, 16);
    handler.concurrency(2)?;
    sleep(bus.by_clock(2 * TENTH, 5 * TENTH)).await;
    let (_, most) = observed(&bus, &journal).await;
    assert_eq!(most, 2);
    handler.concurrency(64)?;
    for answer in calls.join_all().await {
        answer??;
    }
    assert_eq!(journal.handled(), (0..300).collect::<Vec<_>>());
    Ok(())
}

/// Row 7: of an ordered handler no more run than there are partitions, whatever is set.
async fn concurrency_above_the_partitions(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = running(&bus, "a", slow(&journal, TENTH), 1, handlers![on_move]).await?;
    for id in 0..400 {
        node.publish(Move { key: id % 40, id }).await?;
    }
    let handler = node.handler("on_move")?;
    for (calls, most) in [(1, 1), (4, 4), (100, 16), (2, 2)] {
        handler.concurrency(calls)?;
        sleep(bus.by_clock(2 * TENTH, 5 * TENTH)).await;
        let (_, seen) = observed(&bus, &journal).await;
        assert!(seen <= most && 2 * seen >= most, "{seen} at {calls}");
    }
    handler.concurrency(64)?;
    journal.wait(Step::Done, 400, MINUTE).await;
    settled(&bus, &node, &journal, 400).await
}

/// A paused handler begins nothing, and what runs ends; resumed, it handles all, each once.
async fn pause_and_resume(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = running(
        &bus,
        "a",
        slow(&journal, SECOND),
        4,
        handlers![on_work, on_invoice],
    )
    .await?;
    for id in 0..20 {
        node.publish(Work { id }).await?;
        node.publish(Invoice { id: 20 + id }).await?;
    }
    journal.wait(Step::Started, 8, SOON).await;
    let handlers = [node.handler("on_work")?, node.handler("on_invoice")?];
    for handler in &handlers {
        handler.pause();
        handler.pause();
        assert!(handler.is_paused() && handler.info().paused);
    }
    let health = format!("{:?}", node.health());
    assert!(
        health.contains("paused") && health.contains("on_work"),
        "{health}"
    );
    wait_until("what ran ended", SOON, || journal.running() == 0).await;
    // Longer than the leases.
    bus.quiet(10 * MINUTE).await;
    assert_eq!(
        (journal.count(Step::Started), journal.count(Step::Done)),
        (8, 8)
    );
    for handler in &handlers {
        // Set meanwhile, it counts from then on.
        handler.concurrency(2)?;
        handler.resume();
        assert!(!handler.is_paused());
    }
    bus.quiet(SECOND / 2).await;
    assert_eq!(journal.running(), 4);
    journal.wait(Step::Done, 40, MINUTE).await;
    settled(&bus, &node, &journal, 40).await
}

/// At QoS 0 the buffer fills meanwhile, and what it drops is counted.
async fn pause_at_most_once(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let bus = bus.limited("ring=16")?;
    let node = running(&bus, "a", journal.plain(), 4, handlers![on_tick]).await?;
    let handler = node.handler("on_tick")?;
    handler.pause();
    for id in 0..100 {
        node.publish(Tick { id }).await?;
    }
    bus.quiet(MINUTE).await;
    assert_eq!(journal.notes(), []);
    handler.resume();
    wait_until("all are accounted for", SOON, || {
        let stats = handler.info().stats;
        stats.handled + stats.dropped == 100
    })
    .await;
    let seen = journal.handled();
    assert!(seen.contains(&99), "not the newest");
    // The buffer, and what was fetched before the pause was seen.
    assert!((16..=24).contains(&seen.len()), "{}", seen.len());
    Ok(())
}

/// What a paused member does not take, another handles: at once, or when a lease that was out ends.
async fn a_paused_member_leaves_it_to_others(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let a = running(
        &bus,
        "a",
        journal.plain(),
        4,
        handlers![on_work, on_invoice],
    )
    .await?;
    let b = running(
        &bus,
        "b",
        journal.plain(),
        4,
        handlers![on_work, on_invoice],
    )
    .await?;
    for name in ["on_work", "on_invoice"] {
        a.handler(name)?.pause();
    }
    for id in 0..100 {
        b.publish(Work { id }).await?;
        b.publish(Invoice { id: 100 + id }).await?;
    }
    bus.quiet(SECOND).await;
    // No more than it had places for.
    let early = journal.count(Step::Done);
    assert!(early >= 192, "{early} of 200");
    journal.wait(Step::Done, 200, MINUTE).await;
    assert_eq!(
        journal.shares().into_iter().collect::<Vec<_>>(),
        [("b".to_owned(), 200)]
    );
    for name in ["on_work", "on_invoice"] {
        a.handler(name)?.resume();
    }
    for id in 200..210 {
        b.publish(Work { id }).await?;
    }
    journal.wait(Step::Done, 210, SOON).await;
    bus.quiet(10 * MINUTE).await;
    assert_eq!(journal.handled(), (0..210).collect::<Vec<_>>());
    Ok(())
}

/// Requests to a paused handler wait for it, up to their deadlines; what is too late is never begun.
async fn a_paused_request(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = bus
        .node("a")
        .state(journal.plain())
        .request_deadline(5 * SECOND);
    let node = node.handlers(handlers![on_ask]).start().await?;
    let caller = bus.node("caller").request_deadline(5 * SECOND);
    let caller = caller.handlers(handlers![]).start().await?;
    wait_for_nodes(&caller, 2).await;
    let handler = node.handler("on_ask")?;
    handler.pause();
    let began = Instant::now();
    let (here, there) = tokio::join!(node.send(Ask { id: 0 }), caller.send(Ask { id: 1 }));
    for outcome in [here, there] {
        let error = outcome.expect_err("it is paused");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    }
    assert!(began.elapsed() <= bus.bound(5 * SECOND + Duration::from_millis(250)));
    let both = async { tokio::join!(node.send(Ask { id: 2 }), caller.send(Ask { id: 3 })) };
    let ((here, there), ()) = tokio::join!(both, async {
        sleep(SECOND).await;
        assert_eq!(journal.notes(), []);
        handler.resume();
    });
    assert_eq!((here?.id, there?.id), (2, 3));
    bus.quiet(MINUTE).await;
    assert_eq!(journal.handled(), [2, 3], "begun too late");
    Ok(())
}

/// A paused node shuts down at once, and what waits for it goes to others, uncounted.
async fn shutdown_while_paused(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let a = running(
        &bus,
        "a",
        journal.plain(),
        4,
        handlers![on_work, on_invoice, on_ask],
    )
    .await?;
    let caller = bus.observer().await?;
    wait_for_nodes(&caller, 2).await;
    for name in ["on_work", "on_invoice", "on_ask"] {
        a.handler(name)?.pause();
    }
    for id in 0..20 {
        caller.publish(Work { id }).await?;
        caller.publish(Invoice { id: 20 + id }).await?;
    }
    let asking = caller.clone();
    let asked = tokio::spawn(async move { asking.send(Ask { id: 40 }).await });
    bus.quiet(SECOND).await;
    let b = running(
        &bus,
        "b",
        journal.plain(),
        4,
        handlers![on_work, on_invoice, on_ask],
    )
    .await?;
    wait_for_nodes(&caller, 3).await;
    let began = Instant::now();
    assert_eq!(a.shutdown().await?.unfinished, 0);
    let limit = bus.bound(2 * SECOND);
    assert!(began.elapsed() < limit, "after {:?}", began.elapsed());
    journal.wait(Step::Done, 41, SOON).await;
    assert!(
        began.elapsed() < 5 * SECOND,
        "only the leases brought them back"
    );
    assert_eq!(asked.await??.node, "b");
    assert_eq!(journal.shares().len(), 1);
    let mut starts = journal.all(Step::Started);
    starts.retain(|note| note.id < 40);
    // What came just when it was paused, and went back to it, counts twice.
    let counted = |note: &Note| !bus.allows_after_release(note.attempt, 2);
    let counted = starts.iter().find(|note| counted(note));
    assert_eq!(counted, None, "counted");
    b.shutdown().await?;
    Ok(())
}

/// A handler that is not there is an error that lists those that are.
async fn unknown_names(bus: Bus) -> Result<()> {
    let node = running(
        &bus,
        "a",
        Journal::default().plain(),
        4,
        handlers![on_work, on_invoice],
    )
    .await?;
    let error = node.handler("on_wrok").expect_err("there is none");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let text = error.message();
    for part in ["`on_wrok`", "on_work", "on_invoice"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    for name in [
        "on_work",
        "messages::on_work",
        "catga_testkit::messages::on_work",
    ] {
        assert_eq!(node.handler(name)?.info().name, "on_work");
    }
    Ok(())
}
