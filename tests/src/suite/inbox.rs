//! QoS 2 with an inbox that is asked from here, and what becomes of messages when it fails: rows 36 and 40 to 43.

use std::sync::Arc;
use std::time::Duration;

use catga::prelude::{Catga, Result, handlers};
use catga::{CatgaBuilder, DeadLetterFilter, HandlerError, InboxStore};
use tokio::sync::mpsc::unbounded_channel;

use super::{exactly_once, exactly_once_faults};
use crate::flawed::{Asked, Mood, Moody};
use crate::harness::{Bus, SOON, dead_letters, scenarios, wait_for_dead_letters, wait_until};
use crate::journal::{Journal, Step};
use crate::messages::{Work, on_work};
use crate::reliable::{
    Claiming, audit_payment, drain, duplicates, inbox_of_another_bus, lost, on_payment, pay,
};

scenarios! { Runtime "inbox":
    Paused a_copy_after_the_window [40],
    Paused two_copies_at_one_moment [41],
    Paused two_copies_of_which_the_first_fails [41],
    Paused two_copies_that_are_given_up [41],
    Paused a_failure_frees_the_claim [42],
    Paused attempts_that_are_exhausted [42],
    Paused a_terminal_error [42],
    Paused stopped_half_way,
    Paused dropped_half_way,
    Paused given_back_unstarted,
    Paused a_zombie_that_succeeds,
    Paused a_zombie_that_succeeds_meanwhile,
    Paused a_zombie_that_fails,
    Paused a_zombie_that_fails_for_good,
    Paused nodes_come_and_go,
    Paused full_dead_letters_at_least_once [36],
    Paused full_dead_letters_in_the_backends_inbox [36],
    Paused full_dead_letters_in_a_given_inbox [36],
    Paused claims_over_three_nodes [41],
    Real claims_over_two_threads [41],
}

const MINUTE: Duration = Duration::from_secs(60);
/// Longer than the duplicate window.
const AFTER_THE_WINDOW: Duration = Duration::from_secs(180);

/// Row 40 in a given inbox.
async fn a_copy_after_the_window(bus: Bus) -> Result<()> {
    exactly_once::copies_after_the_window(&Claiming::given(bus).await?).await
}

/// Row 41 in a given inbox.
async fn two_copies_at_one_moment(bus: Bus) -> Result<()> {
    exactly_once::copies_at_one_moment(&Claiming::given(bus).await?).await
}

/// Row 41 in a given inbox.
async fn two_copies_of_which_the_first_fails(bus: Bus) -> Result<()> {
    exactly_once::first_of_two_copies_fails(&Claiming::given(bus).await?).await
}

/// Row 41 in a given inbox.
async fn two_copies_that_are_given_up(bus: Bus) -> Result<()> {
    exactly_once::both_copies_fail(&Claiming::given(bus).await?).await
}

/// Row 42 in a given inbox.
async fn a_failure_frees_the_claim(bus: Bus) -> Result<()> {
    exactly_once::failures_free_the_claim(&Claiming::given(bus).await?).await
}

/// Row 42 in a given inbox.
async fn attempts_that_are_exhausted(bus: Bus) -> Result<()> {
    let retry = || HandlerError::retry("never");
    exactly_once::given_up(&Claiming::given(bus).await?, 3, retry).await
}

/// Row 42 in a given inbox.
async fn a_terminal_error(bus: Bus) -> Result<()> {
    let terminal = || HandlerError::terminal("never");
    exactly_once::given_up(&Claiming::given(bus).await?, 1, terminal).await
}

/// A run that was stopped is given back in a given inbox too.
async fn stopped_half_way(bus: Bus) -> Result<()> {
    exactly_once_faults::stopped(&Claiming::given(bus).await?, false).await
}

/// A run that was dropped too.
async fn dropped_half_way(bus: Bus) -> Result<()> {
    exactly_once_faults::stopped(&Claiming::given(bus).await?, true).await
}

/// What did not begin has not run, in a given inbox too.
async fn given_back_unstarted(bus: Bus) -> Result<()> {
    exactly_once_faults::unstarted(&Claiming::given(bus).await?).await
}

/// A lost lease in a given inbox: see `exactly_once_faults`.
async fn a_zombie_that_succeeds(bus: Bus) -> Result<()> {
    lost_in_a_given_inbox(bus, 0, || Ok(())).await
}

/// A lost lease in a given inbox: see `exactly_once_faults`.
async fn a_zombie_that_succeeds_meanwhile(bus: Bus) -> Result<()> {
    lost_in_a_given_inbox(bus, 100, || Ok(())).await
}

/// A lost lease in a given inbox: see `exactly_once_faults`.
async fn a_zombie_that_fails(bus: Bus) -> Result<()> {
    lost_in_a_given_inbox(bus, 100, || Err(HandlerError::retry("late"))).await
}

/// A lost lease in a given inbox: see `exactly_once_faults`.
async fn a_zombie_that_fails_for_good(bus: Bus) -> Result<()> {
    lost_in_a_given_inbox(bus, 100, || Err(HandlerError::terminal("late"))).await
}

/// A node that cannot extend its deliveries does not renew its claims either.
async fn lost_in_a_given_inbox(bus: Bus, seconds: u64, end: fn() -> Result<()>) -> Result<()> {
    exactly_once_faults::taken_over(&Claiming::given(bus).await?, seconds, end).await
}

/// I4 under a schedule of chance, in a given inbox.
async fn nodes_come_and_go(bus: Bus) -> Result<()> {
    exactly_once_faults::come_and_go(&Claiming::given(bus).await?).await
}

/// Row 36 at QoS 1.
async fn full_dead_letters_at_least_once(bus: Bus) -> Result<()> {
    let claiming = Claiming::own(bus.with_option("dead_letters=1"));
    let (node, journal) = full_dead_letters(&claiming);
    let node = node.handlers(handlers![on_work]).start().await?;
    for id in 0..3 {
        node.publish(Work { id }).await?;
    }
    emptied(&node, &journal).await
}

/// Row 36 at QoS 2: the backend's own inbox and its dead letters go together.
async fn full_dead_letters_in_the_backends_inbox(bus: Bus) -> Result<()> {
    full_at_exactly_once(Claiming::own(bus.with_option("dead_letters=1"))).await
}

/// Row 36 at QoS 2: that it is dead was recorded in the inbox, and the letter could not be stored.
async fn full_dead_letters_in_a_given_inbox(bus: Bus) -> Result<()> {
    full_at_exactly_once(Claiming::given(bus.with_option("dead_letters=1")).await?).await
}

async fn full_at_exactly_once(claiming: Claiming) -> Result<()> {
    let (node, journal) = full_dead_letters(&claiming);
    let node = node.handlers(handlers![on_payment]).start().await?;
    for id in 0..3 {
        pay(&node, id, &id.to_string()).await?;
    }
    emptied(&node, &journal).await
}

fn full_dead_letters(claiming: &Claiming) -> (CatgaBuilder, Journal) {
    let journal = Journal::default();
    let play = journal.play(|_| async { Err(HandlerError::retry("never")) });
    let node = claiming.node("a").state(play).attempts(2);
    (node.backoff(SOON / 10, SOON), journal)
}

/// Row 36: with room for one letter the others stay; each place that is made takes one more, and none is lost.
async fn emptied(node: &Catga, journal: &Journal) -> Result<()> {
    let mut bodies = Vec::new();
    for _ in 0..3 {
        let letters = wait_for_dead_letters(node.backend(), 1).await?;
        let before = journal.count(Step::Started);
        tokio::time::sleep(10 * MINUTE).await;
        let runs = journal.count(Step::Started) - before;
        assert!(runs <= 2 * 10 * 2, "a hot loop: {runs} runs in 10 min");
        assert_eq!(
            dead_letters(node.backend()).await?.len(),
            1,
            "over its limit"
        );
        bodies.extend(letters.iter().map(|letter| {
            let body = letter.envelope.payload().as_bytes();
            body.map(|body| body.to_vec())
        }));
        let purged = node.dead_letters().purge(&DeadLetterFilter::all()).await?;
        assert_eq!(purged, 1);
    }
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 3, "one is there twice, and one is lost");
    tokio::time::sleep(20 * MINUTE).await;
    assert!(
        dead_letters(node.backend()).await?.is_empty(),
        "one was doubled"
    );
    Ok(())
}

/// Row 41: two copies of many ids on three nodes, in two groups: each is handled once by each.
async fn claims_over_three_nodes(bus: Bus) -> Result<()> {
    many_claims(bus, 2).await
}

/// Row 41: the same on two threads, where the claims race.
async fn claims_over_two_threads(bus: Bus) -> Result<()> {
    many_claims(bus, 1).await
}

async fn many_claims(bus: Bus, copies: usize) -> Result<()> {
    let store = inbox_of_another_bus().await?;
    let (tell, mut told) = unbounded_channel();
    let inbox: Arc<dyn InboxStore> = Moody::around(store, move |asked| {
        // Nobody listens any more when the scenario is over.
        let _ = tell.send(asked);
        Mood::Well
    });
    let claiming = Claiming {
        bus,
        inbox: Some(inbox),
    };
    let observer = claiming.bus.observer().await?;
    for copy in 0..copies {
        for id in 0..200 {
            assert!(!pay(&observer, id, &id.to_string()).await?);
        }
        if copy + 1 < copies {
            tokio::time::sleep(AFTER_THE_WINDOW).await;
        }
    }
    let journal = Journal::default();
    let play = journal.play(|_| async {
        tokio::task::yield_now().await;
        Ok(())
    });
    let mut nodes = Vec::new();
    for id in ["a", "b", "c"] {
        let node = claiming.node(id).state(play.clone()).concurrency(16);
        let handlers = handlers![on_payment, audit_payment];
        nodes.push(node.handlers(handlers).start().await?);
    }
    let nodes: Vec<_> = nodes.iter().collect();
    let doubles = 2 * 200 * (copies as u64 - 1);
    wait_until("all are done", SOON, || {
        journal.count(Step::Done) >= 400 && duplicates(&nodes) >= doubles
    })
    .await;
    let all: Vec<_> = (0..200).collect();
    assert_eq!(journal.handled_by("on_payment"), all);
    assert_eq!(journal.handled_by("audit_payment"), all);
    wait_until("all are acked", SOON, || {
        nodes
            .iter()
            .all(|node| node.handlers().iter().all(|h| h.stats.in_flight == 0))
    })
    .await;
    let asked = drain(&mut told);
    let completed = asked.iter().filter(|asked| **asked == Asked::Complete);
    assert_eq!(completed.count(), 400);
    assert_eq!((duplicates(&nodes), lost(&nodes)), (doubles, 0));
    Ok(())
}
