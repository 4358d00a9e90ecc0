//! An inbox that does what it is asked, or not, and does not say so: nothing that never ran counts as a run,
//! and what ran once does not run again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use catga::prelude::{Catga, Context, Result, State, handler, handlers};
use catga::{Attempt, InboxStore, MessageId};

use crate::flawed::{Asked, Mood, Moody};
use crate::harness::{Bus, dead_letters, scenarios};
use crate::journal::{Journal, Play, Step};
use crate::parts::{Order, on_order};
use crate::reliable::{Payment, drain, inbox_of_another_bus, lost, on_payment, pay, telling};

scenarios! { Runtime "lost_answers":
    Paused a_claim_of_an_event,
    Paused claims_of_an_event,
    Paused claims_of_an_event_for_long,
    Paused a_claim_of_a_request,
    Paused claims_of_a_request_for_long,
    Paused a_completion_with_a_long_back_off,
    Paused one_renewal,
}

const MINUTE: Duration = Duration::from_secs(60);

/// An inbox in which every claim is granted, and no answer arrives, until the switch is on.
async fn until_switched() -> Result<(Arc<dyn InboxStore>, Arc<AtomicBool>)> {
    let on = Arc::new(AtomicBool::new(false));
    let is_on = Arc::clone(&on);
    let inbox = Moody::around(inbox_of_another_bus().await?, move |asked| match asked {
        Asked::Claim if !is_on.load(Ordering::SeqCst) => Mood::AnswerLost,
        _ => Mood::Well,
    });
    Ok((inbox, on))
}

/// One whose first so many answers to a claim are lost.
async fn at_first(times: u32) -> Result<Arc<dyn InboxStore>> {
    let store = inbox_of_another_bus().await?;
    Ok(Moody::at_first(
        store,
        Asked::Claim,
        times,
        Mood::AnswerLost,
    ))
}

/// A payment that runs when its claims are answered again: for the first time, and it is told so.
async fn runs_for_the_first_time(
    bus: Bus,
    inbox: Arc<dyn InboxStore>,
    away: Option<(Duration, Arc<AtomicBool>)>,
) -> Result<()> {
    let journal = Journal::default();
    let (play, mut told) = telling(&journal);
    let node = bus.node("a").state(play).inbox(inbox);
    let node = node.handlers(handlers![on_payment]).start().await?;
    pay(&node, 0, "0").await?;
    if let Some((time, switch)) = away {
        tokio::time::sleep(time).await;
        assert_eq!(journal.count(Step::Started), 0, "handled without a claim");
        switch.store(true, Ordering::SeqCst);
    }
    tokio::time::sleep(60 * MINUTE).await;
    let letters = dead_letters(node.backend()).await?;
    let reasons: Vec<_> = letters.iter().map(|letter| &letter.reason).collect();
    assert!(reasons.is_empty(), "given up, and never run: {reasons:?}");
    let told = drain(&mut told);
    let told: Vec<_> = told
        .iter()
        .map(|attempt| (attempt.number(), attempt.may_have_run()))
        .collect();
    assert_eq!(told, [(1, false)], "counted what never ran");
    Ok(())
}

/// A claim that was granted, and nobody heard of it, began nothing.
async fn a_claim_of_an_event(bus: Bus) -> Result<()> {
    runs_for_the_first_time(bus, at_first(1).await?, None).await
}

/// Nor do many: more than the attempts, and the slack beyond them.
async fn claims_of_an_event(bus: Bus) -> Result<()> {
    runs_for_the_first_time(bus, at_first(8).await?, None).await
}

/// Nor do all of them for longer than a lease, many times over.
async fn claims_of_an_event_for_long(bus: Bus) -> Result<()> {
    let (inbox, switch) = until_switched().await?;
    runs_for_the_first_time(bus, inbox, Some((8 * MINUTE, switch))).await
}

/// The caller of a request is answered all the same, by its first run.
async fn a_claim_of_a_request(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let (play, mut told) = telling(&journal);
    let node = bus.node("a").state(play).inbox(at_first(1).await?);
    let _node = node.handlers(handlers![on_order]).start().await?;
    let caller = bus.observer().await?;
    let placed = caller.send(Order { id: 1 }).await?;
    assert!(!placed.may_have_run, "nothing had run");
    let numbers: Vec<_> = drain(&mut told).iter().map(Attempt::number).collect();
    assert_eq!(numbers, [1]);
    Ok(())
}

/// A request that could not be claimed is not handled, and its caller is told; sent again later, it runs for
/// the first time.
async fn claims_of_a_request_for_long(bus: Bus) -> Result<()> {
    let (inbox, switch) = until_switched().await?;
    let journal = Journal::default();
    let (play, mut told) = telling(&journal);
    let node = bus.node("a").state(play).inbox(inbox);
    let _node = node.handlers(handlers![on_order]).start().await?;
    let caller = bus.observer().await?;
    let order = || {
        let order = caller.request(Order { id: 1 });
        order.id(MessageId::from_key("order")).send()
    };
    let began = tokio::time::Instant::now();
    order().await.expect_err("nobody could claim it");
    assert!(began.elapsed() <= Duration::from_millis(10_250), "too late");
    assert_eq!(journal.count(Step::Started), 0, "handled without a claim");
    switch.store(true, Ordering::SeqCst);
    // Longer than the lease of what nobody heard of.
    tokio::time::sleep(MINUTE).await;
    let placed = order().await?;
    assert!(!placed.may_have_run, "nothing had run");
    let numbers: Vec<_> = drain(&mut told).iter().map(Attempt::number).collect();
    assert_eq!(numbers, [1]);
    Ok(())
}

#[handler(group = "patient", backoff = "2m..10m")]
async fn patient_payment(
    payment: Payment,
    context: Context,
    State(play): State<Play>,
) -> Result<()> {
    play.act("patient_payment", payment.id, &context).await
}

/// Two members, and an inbox that is in a mood once.
async fn two_members(
    bus: &Bus,
    play: &Play,
    asked: Asked,
    mood: Mood,
    handlers: fn() -> catga::Handlers,
) -> Result<[Catga; 2]> {
    let inbox = Moody::at_first(inbox_of_another_bus().await?, asked, 1, mood);
    let member = |id| {
        let node = bus.node(id).state(play.clone()).inbox(Arc::clone(&inbox));
        node.handler_timeout(5 * MINUTE).handlers(handlers())
    };
    Ok([member("a").start().await?, member("b").start().await?])
}

/// A completion that fails once is tried again while the claim lasts, however long the handler's back-off is:
/// that is for handlers.
async fn a_completion_with_a_long_back_off(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let (asked, mood) = (Asked::Complete, Mood::Unavailable);
    let handlers = || handlers![patient_payment];
    let [a, b] = two_members(&bus, &journal.plain(), asked, mood, handlers).await?;
    pay(&a, 0, "0").await?;
    tokio::time::sleep(60 * MINUTE).await;
    assert_eq!(journal.handled(), [0], "one failure, two runs");
    assert_eq!(lost(&[&a, &b]), 0);
    Ok(())
}

/// One renewal that is never answered loses nothing: the next is asked for while the lease lasts.
async fn one_renewal(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|_| async {
        tokio::time::sleep(Duration::from_secs(100)).await;
        Ok(())
    });
    let (asked, mood) = (Asked::Renew, Mood::Hangs);
    let handlers = || handlers![on_payment];
    let [a, b] = two_members(&bus, &play, asked, mood, handlers).await?;
    pay(&a, 0, "0").await?;
    tokio::time::sleep(60 * MINUTE).await;
    assert_eq!((journal.count(Step::Started), lost(&[&a, &b])), (1, 0));
    assert_eq!(journal.handled(), [0]);
    Ok(())
}
