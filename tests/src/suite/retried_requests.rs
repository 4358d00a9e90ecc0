//! Requests that go more than one way: to several nodes, again after a failure, or twice with one id.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use catga::MessageId;
use catga::prelude::{Catga, FailWith, Result, handlers};
use tokio::time::Instant;

use crate::flawed::{Mood, Moody};
use crate::harness::{Bus, SOON, scenarios, wait_until};
use crate::journal::{Journal, Play, Step};
use crate::messages::{Work, on_work};
use crate::parts::{Order, on_order};
use crate::reliable::{Books, Charge, inbox_of_another_bus, on_charge};

scenarios! { Runtime "retried_requests":
    Paused equal_ones_to_two_nodes,
    Paused a_second_run_of_a_broadcast,
    Paused a_second_run_of_a_letter,
    Paused an_id_sent_twice_on_the_node_that_answers,
    Paused an_id_sent_twice_at_once_on_the_node_that_answers,
    Paused stopped_by_a_shutdown,
    Paused while_all_nodes_refuse,
}

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// A handler commands two nodes, of which the first is not there at its first attempt: in the end each has run
/// its command, once. Which node it goes to is a part of what a command is.
async fn equal_ones_to_two_nodes(bus: Bus) -> Result<()> {
    let (journal, charged) = (Journal::default(), Journal::default());
    let node = |id| {
        let node = bus.node(id).state(Books(charged.plain()));
        node.handlers(handlers![on_charge])
    };
    let _two = node("two").start().await?;
    let play = journal.play(|scene| async move {
        let one = scene.context.send_to("one", Charge { id: 1 }).await;
        let two = scene.context.send_to("two", Charge { id: 1 }).await;
        one.and(two).retry_after(30 * SECOND)?;
        Ok(())
    });
    let worker = bus.node("worker").state(play);
    let worker = worker.handlers(handlers![on_work]).start().await?;
    wait_until("two is seen", SOON, || worker.nodes().len() == 2).await;
    worker.publish(Work { id: 0 }).await?;
    journal.wait(Step::Failed, 1, SOON).await;
    let _one = node("one").start().await?;
    journal.wait(Step::Done, 1, 5 * MINUTE).await;
    let expected = BTreeMap::from([("one".to_owned(), 1), ("two".to_owned(), 1)]);
    assert_eq!(charged.shares(), expected);
    Ok(())
}

/// Fails the first time, after whatever it did.
fn fails_once(journal: &Journal) -> Play {
    let failed = Arc::new(AtomicBool::new(false));
    journal.play(move |_| {
        let first = !failed.swap(true, Ordering::SeqCst);
        async move {
            if first {
                Err("after its effect").retry()?;
            }
            Ok(())
        }
    })
}

/// A node that answers orders, and fails the first.
async fn failing_once(bus: &Bus, journal: &Journal) -> Result<Catga> {
    let node = bus.node("a").state(fails_once(journal));
    Ok(node.handlers(handlers![on_order]).start().await?)
}

/// The second run on the node that asks everybody is told of the first.
async fn a_second_run_of_a_broadcast(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = failing_once(&bus, &journal).await?;
    let mut outcomes = node.broadcast(Order { id: 1 }).await?;
    let placed = outcomes.pop().expect("it asks itself too").result?;
    assert_eq!((outcomes.len(), journal.count(Step::Started)), (0, 2));
    assert!(placed.may_have_run, "told that nothing ran before");
    Ok(())
}

/// So is that of a request with a header.
async fn a_second_run_of_a_letter(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = failing_once(&bus, &journal).await?;
    let order = node.request(Order { id: 1 }).header("tenant", "acme");
    let placed = order.send().await?;
    assert_eq!(journal.count(Step::Started), 2);
    assert!(placed.may_have_run, "told that nothing ran before");
    Ok(())
}

/// An id of the caller's choice is its idempotency key, also where no other node is asked.
async fn an_id_sent_twice_on_the_node_that_answers(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = bus.node("a").state(journal.plain());
    let node = node.handlers(handlers![on_order]).start().await?;
    let order = |to: Option<&str>| {
        let order = node.request(Order { id: 1 });
        let order = order.id(MessageId::from_key("order"));
        match to {
            Some(to) => order.to(to),
            None => order,
        }
    };
    let first = order(None).send().await?;
    assert_eq!(order(None).send().await?, first);
    assert_eq!(order(Some("a")).send().await?, first);
    assert_eq!(journal.count(Step::Started), 1, "it ran again");
    let other = node.request(Order { id: 1 });
    other.id(MessageId::from_key("other")).send().await?;
    assert_eq!(journal.count(Step::Started), 2);
    Ok(())
}

/// Also while the first still runs.
async fn an_id_sent_twice_at_once_on_the_node_that_answers(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|_| async {
        tokio::time::sleep(SECOND).await;
        Ok(())
    });
    let node = bus.node("a").state(play);
    let node = node.handlers(handlers![on_order]).start().await?;
    let order = || {
        let order = node.request(Order { id: 1 });
        order.id(MessageId::from_key("order")).send()
    };
    let (first, second) = tokio::join!(order(), order());
    assert_eq!(first?, second?);
    assert_eq!(journal.count(Step::Started), 1, "it ran twice");
    Ok(())
}

/// A run that a shutdown stopped is no attempt, though it may have had effects.
async fn stopped_by_a_shutdown(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.context.node().as_str() == "a" {
            pending::<()>().await;
        }
        Ok(())
    });
    let node = |id| {
        bus.node(id)
            .state(play.clone())
            .handlers(handlers![on_order])
    };
    let a = node("a").start().await?;
    let caller = bus.observer().await?;
    wait_until("it is seen", SOON, || caller.nodes().len() == 2).await;
    let asking = caller.clone();
    let asked = tokio::spawn(async move { asking.send(Order { id: 1 }).await });
    journal.wait(Step::Started, 1, SOON).await;
    let _b = node("b").start().await?;
    wait_until("both are seen", SOON, || caller.nodes().len() == 3).await;
    a.shutdown_within(Duration::ZERO).await?;
    let placed = asked.await??;
    assert_eq!((placed.node.as_str(), placed.may_have_run), ("b", true));
    let attempts: Vec<_> = journal.starts(1).iter().map(|note| note.attempt).collect();
    assert_eq!(attempts, [1, 1], "the stop was counted");
    Ok(())
}

/// Nodes that turn a request away for a while are asked again until its time is over, however many they are.
async fn while_all_nodes_refuse(bus: Bus) -> Result<()> {
    for away in [SECOND / 10, SECOND] {
        let back = Arc::new(AtomicBool::new(false));
        let is_back = Arc::clone(&back);
        let inbox = Moody::around(inbox_of_another_bus().await?, move |_| {
            if is_back.load(Ordering::SeqCst) {
                Mood::Well
            } else {
                Mood::Unavailable
            }
        });
        let journal = Journal::default();
        let node = |id: &str| {
            let node = bus.node(id).state(journal.plain());
            let node = node.inbox(Arc::clone(&inbox));
            node.handlers(handlers![on_order])
        };
        let (a, b) = (node("a").start().await?, node("b").start().await?);
        // More tries than its time allows, or chance would decide.
        let caller = bus.node("caller").request_retries(20);
        let caller = caller.handlers(handlers![]).start().await?;
        wait_until("both are seen", SOON, || caller.nodes().len() == 3).await;
        let began = Instant::now();
        let asking = caller.clone();
        let asked = tokio::spawn(async move { asking.send(Order { id: 1 }).await });
        tokio::time::sleep(away).await;
        back.store(true, Ordering::SeqCst);
        let answer = asked.await?;
        let took = began.elapsed();
        assert!(answer.is_ok(), "{answer:?} after {took:?} of 10 s");
        assert_eq!(journal.count(Step::Started), 1);
        for node in [a, b, caller] {
            node.shutdown().await?;
        }
    }
    Ok(())
}
