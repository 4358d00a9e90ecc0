//! A breaker leaves alone what fails, and a rate begins no more than it says.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use catga::prelude::{Catga, Context, FailWith, Result, State, handler, handlers};
use catga::{ErrorKind, HandlerError, Retry};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::{
    Bus, PLANNED, SOON, dead_letters, scenarios, wait_for_dead_letters, wait_until,
};
use crate::journal::{Journal, Note, Play, Step};
use crate::messages::{Answer, Ask, Tick, Work};
use crate::parts::Invoice;

scenarios! { Runtime "breaker":
    Paused opens_and_closes,
    Paused opens_and_closes_exactly_once,
    Paused one_trial_of_many,
    Paused what_fails_in_other_ways,
    Paused terminal_errors_do_not_open_it,
    Paused a_request_goes_elsewhere,
    Paused a_request_alone_is_told,
    Paused others_of_the_group_go_on,
    Paused shutdown_while_open,
    Paused rate,
    Paused rate_of_requests,
}

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
const OPEN: Duration = Duration::from_secs(10);

#[handler(group = "workers", breaker(failures = 3, open = "10s"))]
async fn guarded_work(work: Work, context: Context, State(play): State<Play>) -> Result<()> {
    play.act("guarded_work", work.id, &context).await
}

#[handler(group = "workers", breaker(failures = 3, open = "10s"))]
async fn guarded_invoice(
    invoice: Invoice,
    context: Context,
    State(play): State<Play>,
) -> Result<()> {
    play.act("guarded_invoice", invoice.id, &context).await
}

#[handler(breaker(failures = 3, open = "10s"))]
async fn guarded_ask(ask: Ask, context: Context, State(play): State<Play>) -> Result<Answer> {
    play.act("guarded_ask", ask.id, &context).await?;
    let (id, node) = (ask.id, context.node().to_string());
    Ok(Answer { id, node })
}

#[handler(group = "workers", rate = "10/s")]
async fn rated_work(work: Work, context: Context, State(play): State<Play>) -> Result<()> {
    play.act("rated_work", work.id, &context).await
}

#[handler(group = "workers", rate = "10/s")]
async fn rated_invoice(invoice: Invoice, context: Context, State(play): State<Play>) -> Result<()> {
    play.act("rated_invoice", invoice.id, &context).await
}

#[handler(rate = "10/s")]
async fn rated_tick(tick: Tick, context: Context, State(play): State<Play>) -> Result<()> {
    play.act("rated_tick", tick.id, &context).await
}

#[handler(rate = "10/s")]
async fn rated_ask(ask: Ask, context: Context, State(play): State<Play>) -> Result<Answer> {
    play.act("rated_ask", ask.id, &context).await?;
    let (id, node) = (ask.id, context.node().to_string());
    Ok(Answer { id, node })
}

/// Fails while the switch is off.
fn switched(journal: &Journal) -> (Play, Arc<AtomicBool>) {
    let on = Arc::new(AtomicBool::new(false));
    let works = Arc::clone(&on);
    let play = journal.play(move |_| {
        let works = works.load(Ordering::Relaxed);
        async move {
            if works {
                return Ok(());
            }
            Err(HandlerError::retry("out of order"))
        }
    });
    (play, on)
}

async fn guarded(bus: &Bus, id: &str, play: Play, concurrency: u32) -> Result<Catga> {
    let node = bus.node(id).state(play).concurrency(concurrency);
    let node = node.backoff(Duration::from_millis(100), SECOND);
    let node = node.handlers(handlers![guarded_work, guarded_invoice, guarded_ask]);
    Ok(node.start().await?)
}

fn after(notes: &[Note], time: Instant) -> Vec<&Note> {
    notes.iter().filter(|note| note.at >= time).collect()
}

/// Three failures open it: messages wait and burn no attempts, one is tried, then all are handled.
async fn opens_and_closes(bus: Bus) -> Result<()> {
    opened(
        bus,
        |node, id| async move { node.publish(Work { id }).await },
    )
    .await
}

/// The same at QoS 2.
async fn opens_and_closes_exactly_once(bus: Bus) -> Result<()> {
    opened(
        bus,
        |node, id| async move { node.publish(Invoice { id }).await },
    )
    .await
}

async fn opened<F>(bus: Bus, publish: impl Fn(Catga, u32) -> F) -> Result<()>
where
    F: Future<Output = std::result::Result<(), catga::Error>>,
{
    let journal = Journal::default();
    let (play, on) = switched(&journal);
    let node = guarded(&bus, "a", play, 1).await?;
    for id in 0..20 {
        publish(node.clone(), id).await?;
    }
    journal.wait(Step::Failed, 3, SOON).await;
    let mut opened = Instant::now();
    // Twice the one trial fails, and it stays open for as long again.
    for trials in 1..=2 {
        tokio::time::sleep(Duration::from_millis(9900)).await;
        assert_eq!(journal.count(Step::Started), 2 + trials, "open, and begun");
        journal.wait(Step::Failed, 3 + trials, SOON).await;
        let last = journal.all(Step::Started).pop().expect("it was tried");
        let waited = last.at - opened;
        let slack = Duration::from_millis(200);
        assert!(
            waited + slack >= OPEN && waited <= OPEN + slack,
            "{waited:?}"
        );
        opened = last.at;
    }
    on.store(true, Ordering::Relaxed);
    let began = Instant::now();
    journal.wait(Step::Done, 20, MINUTE).await;
    assert!(
        began.elapsed() <= OPEN + 3 * SECOND,
        "after {:?}",
        began.elapsed()
    );
    assert_eq!(journal.handled(), (0..20).collect::<Vec<_>>());
    assert!(dead_letters(node.backend()).await?.is_empty());
    assert_eq!(journal.count(Step::Failed), 5);
    let runs = (0..20).map(|id| journal.starts(id));
    for starts in runs {
        let last = starts.last().expect("handled").attempt as usize;
        assert_eq!(last, starts.len(), "an attempt was burnt");
    }
    Ok(())
}

/// With many places, still one is tried, and until its end nobody else.
async fn one_trial_of_many(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let on = Arc::new(AtomicBool::new(false));
    let works = Arc::clone(&on);
    let play = journal.play(move |_| {
        let works = works.load(Ordering::Relaxed);
        async move {
            tokio::time::sleep(2 * SECOND).await;
            if works {
                return Ok(());
            }
            Err(HandlerError::retry("out of order"))
        }
    });
    let node = guarded(&bus, "a", play, 8).await?;
    for id in 0..100 {
        node.publish(Work { id }).await?;
    }
    // The eight that began together fail together.
    journal.wait(Step::Failed, 8, SOON).await;
    let opened = Instant::now();
    tokio::time::sleep(OPEN + SECOND).await;
    on.store(true, Ordering::Relaxed);
    let starts = journal.all(Step::Started);
    assert_eq!(after(&starts, opened).len(), 1, "more than one was tried");
    journal.wait(Step::Failed, 9, SOON).await;
    let reopened = Instant::now();
    tokio::time::sleep(OPEN + SECOND).await;
    let starts = journal.all(Step::Started);
    assert_eq!(after(&starts, reopened).len(), 1, "more than one was tried");
    journal.wait(Step::Done, 1, SOON).await;
    let closed = Instant::now();
    journal.wait(Step::Done, 100, MINUTE).await;
    assert!(
        closed.elapsed() <= 30 * SECOND,
        "not all places: {:?}",
        closed.elapsed()
    );
    assert_eq!(journal.handled(), (0..100).collect::<Vec<_>>());
    assert!(dead_letters(node.backend()).await?.is_empty());
    Ok(())
}

/// Panics and time-outs are failures too; a success between them begins the count anew.
async fn what_fails_in_other_ways(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        match scene.id {
            0 | 3 if scene.attempt == 1 => panic!("{PLANNED}"),
            1 | 4 if scene.attempt == 1 => tokio::time::sleep(MINUTE).await,
            5 if scene.attempt == 1 => return Err(HandlerError::retry("no")),
            _ => {}
        }
        Ok(())
    });
    let node = bus
        .node("a")
        .state(play)
        .concurrency(1)
        .handler_timeout(SECOND);
    let node = node.backoff(MINUTE, MINUTE);
    let node = node.handlers(handlers![guarded_work]).start().await?;
    for id in 0..10 {
        node.publish(Work { id }).await?;
    }
    journal.wait(Step::Started, 6, SOON).await;
    tokio::time::sleep(9 * SECOND).await;
    assert_eq!(journal.handled(), [2], "it is not open");
    journal.wait(Step::Done, 10, 3 * MINUTE).await;
    assert_eq!(journal.handled(), (0..10).collect::<Vec<_>>());
    Ok(())
}

/// A terminal error is an answer: it is dead-lettered, and the breaker stays closed.
async fn terminal_errors_do_not_open_it(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.id < 10 {
            Err("never").terminal()
        } else {
            Ok(())
        }
    });
    let node = guarded(&bus, "a", play, 1).await?;
    let began = Instant::now();
    for id in 0..12 {
        node.publish(Work { id }).await?;
    }
    journal.wait(Step::Done, 2, SOON).await;
    for id in 0..10 {
        let error = node.send(Ask { id }).await.expect_err("never");
        assert_eq!(error.kind(), ErrorKind::Handler);
    }
    assert_eq!(node.send(Ask { id: 10 }).await?.id, 10);
    assert!(began.elapsed() < SECOND, "it opened");
    assert_eq!(wait_for_dead_letters(node.backend(), 10).await?.len(), 10);
    Ok(())
}

/// A request that finds the breaker open is answered at once, and its caller asks another node.
async fn a_request_goes_elsewhere(bus: Bus) -> Result<()> {
    let (bad, good) = (Journal::default(), Journal::default());
    let play = bad.play(|_| async { Err(HandlerError::retry("out of order")) });
    let _a = guarded(&bus, "a", play, 8).await?;
    let _b = guarded(&bus, "b", good.plain(), 8).await?;
    let caller = bus.observer().await?;
    wait_until("both are seen", SOON, || caller.nodes().len() == 3).await;
    for id in 0..20 {
        assert_eq!(caller.send(Ask { id }).await?.node, "b");
    }
    assert_eq!(
        bad.count(Step::Started),
        3,
        "it was called while it was open"
    );
    assert_eq!(good.count(Step::Started), 20);
    Ok(())
}

/// A caller that has nobody else is told at once how long it stays open, here and there.
async fn a_request_alone_is_told(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let (play, on) = switched(&journal);
    let node = guarded(&bus, "a", play, 8).await?;
    let caller = bus.node("caller").request_retries(0);
    let caller = caller.handlers(handlers![]).start().await?;
    wait_until("it is seen", SOON, || caller.nodes().len() == 2).await;
    for id in 0..3 {
        let error = node.send(Ask { id }).await.expect_err("it fails");
        assert_eq!(error.kind(), ErrorKind::Handler);
    }
    for from in [&node, &caller] {
        let began = Instant::now();
        let error = from.send(Ask { id: 3 }).await.expect_err("it is open");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(!error.may_be_stored(), "it did not run: {error:?}");
        assert!(
            matches!(error.retry(), Retry::After(left) if left <= OPEN && left > 9 * SECOND),
            "{:?}",
            error.retry()
        );
        assert!(began.elapsed() < Duration::from_millis(100));
    }
    assert_eq!(journal.starts(3), []);
    tokio::time::sleep(OPEN).await;
    on.store(true, Ordering::Relaxed);
    assert_eq!(caller.send(Ask { id: 4 }).await?.id, 4);
    assert_eq!(node.send(Ask { id: 5 }).await?.id, 5);
    Ok(())
}

/// While one node's is open, the others of its group handle what there is.
async fn others_of_the_group_go_on(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.context.node().as_str() == "bad" {
            return Err(HandlerError::retry("out of order"));
        }
        Ok(())
    });
    let _bad = guarded(&bus, "bad", play.clone(), 4).await?;
    let _good = guarded(&bus, "good", play, 4).await?;
    let observer = bus.observer().await?;
    let began = Instant::now();
    for id in 0..100 {
        observer.publish(Work { id }).await?;
        observer.publish(Invoice { id: 100 + id }).await?;
    }
    journal.wait(Step::Done, 200, MINUTE).await;
    assert!(began.elapsed() < OPEN, "they waited for the open one");
    assert_eq!(journal.handled(), (0..200).collect::<Vec<_>>());
    Ok(())
}

/// A node whose breaker is open shuts down at once, and others handle what it could not.
async fn shutdown_while_open(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let (play, _off) = switched(&journal);
    let a = guarded(&bus, "a", play, 1).await?;
    let observer = bus.observer().await?;
    for id in 0..10 {
        observer.publish(Work { id }).await?;
        observer.publish(Invoice { id: 10 + id }).await?;
    }
    journal.wait(Step::Failed, 6, SOON).await;
    tokio::time::sleep(SECOND).await;
    let began = Instant::now();
    assert_eq!(a.shutdown().await?.unfinished, 0);
    assert!(began.elapsed() < 2 * SECOND, "after {:?}", began.elapsed());
    let b = guarded(&bus, "b", journal.plain(), 8).await?;
    journal.wait(Step::Done, 20, SOON).await;
    assert_eq!(journal.handled(), (0..20).collect::<Vec<_>>());
    b.shutdown().await?;
    Ok(())
}

async fn rated(bus: &Bus, play: Play) -> Result<Catga> {
    let node = bus.node("a").state(play).request_deadline(MINUTE);
    let handlers = handlers![rated_work, rated_invoice, rated_tick, rated_ask];
    Ok(node.handlers(handlers).start().await?)
}

/// The most starts of one handler within any second.
fn burst(journal: &Journal, handler: &str) -> usize {
    let mut starts = journal.all(Step::Started);
    starts.retain(|note| note.handler == handler);
    let within = |i: usize| {
        let of_it = starts[i..].iter();
        of_it
            .take_while(|note| note.at - starts[i].at < SECOND)
            .count()
    };
    (0..starts.len()).map(within).max().unwrap_or_default()
}

/// Of 50 messages of each sort at most ten begin in any second, and all are handled at their first attempt.
async fn rate(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = rated(&bus, journal.plain()).await?;
    let began = Instant::now();
    for id in 0..50 {
        node.publish(Work { id }).await?;
        node.publish(Invoice { id: 100 + id }).await?;
        node.publish(Tick { id: 200 + id }).await?;
    }
    journal.wait(Step::Done, 150, MINUTE).await;
    assert!(began.elapsed() < 6 * SECOND, "slower than it may be");
    for handler in ["rated_work", "rated_invoice", "rated_tick"] {
        assert_eq!(burst(&journal, handler), 10, "{handler}");
        assert_eq!(journal.handled_by(handler).len(), 50);
    }
    assert!(
        journal
            .all(Step::Started)
            .iter()
            .all(|note| note.attempt == 1)
    );
    Ok(())
}

/// Requests wait for their turn, those from here and those from elsewhere.
async fn rate_of_requests(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = rated(&bus, journal.plain()).await?;
    let caller = bus.node("caller").request_deadline(MINUTE);
    let caller = caller.handlers(handlers![]).start().await?;
    wait_until("it is seen", SOON, || caller.nodes().len() == 2).await;
    let mut calls = JoinSet::new();
    for id in 0..50 {
        let from = if id % 2 == 0 { &node } else { &caller }.clone();
        calls.spawn(async move { from.send(Ask { id }).await });
    }
    for answer in calls.join_all().await {
        answer?;
    }
    assert_eq!(burst(&journal, "rated_ask"), 10);
    assert_eq!(journal.handled(), (0..50).collect::<Vec<_>>());
    Ok(())
}
