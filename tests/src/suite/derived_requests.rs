//! Requests and keys that follow from what a handler handles are the same at every attempt.

use std::collections::BTreeSet;
use std::future::pending;
use std::time::Duration;

use catga::prelude::{FailWith, Result, handlers};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::derived_ids::{books, worker};
use crate::harness::{Bus, SOON, scenarios};
use crate::journal::{Journal, Play, Step};
use crate::messages::{Work, audit_work, each_work, on_work};
use crate::reliable::{Books, Charge, drain, on_charge};

scenarios! { Runtime "derived_requests":
    Paused a_request_of_a_retried_handler,
    Paused a_request_that_its_sender_answers,
    Paused two_equal_requests,
    Paused an_idempotency_key,
}

const MINUTE: Duration = Duration::from_secs(60);

/// Sends one request at both of two attempts.
fn charges(journal: &Journal, answers: UnboundedSender<String>) -> Play {
    journal.play(move |scene| {
        let answers = answers.clone();
        async move {
            let answer = scene.context.send(Charge { id: 1 }).await?;
            assert_eq!(answer.id, 1);
            answers.send(answer.node)?;
            if scene.attempt == 1 {
                Err("not yet").retry()?;
            }
            Ok(())
        }
    })
}

/// An idempotent request that a retried handler sends again runs once, and has the same answer.
async fn a_request_of_a_retried_handler(bus: Bus) -> Result<()> {
    let (node, books) = books(&bus).await?;
    // A second one that could answer: fail-over and turns change nothing.
    let other = bus.node("other").state(Books(books.plain()));
    let _other = other.handlers(handlers![on_charge]).start().await?;
    let (tell, mut told) = unbounded_channel();
    let journal = Journal::default();
    let play = charges(&journal, tell);
    let worker = worker(&bus, "a", &play).handlers(handlers![on_work]);
    let _worker = worker.start().await?;
    node.publish(Work { id: 0 }).await?;
    journal.wait(Step::Done, 1, MINUTE).await;
    let answers = drain(&mut told);
    assert_eq!((answers.len(), books.handled()), (2, vec![1]));
    assert_eq!(answers[0], answers[1], "another answer");
    Ok(())
}

/// Also where the node that sends it answers it itself.
async fn a_request_that_its_sender_answers(bus: Bus) -> Result<()> {
    let (tell, mut told) = unbounded_channel();
    let (journal, books) = (Journal::default(), Journal::default());
    let play = charges(&journal, tell);
    let node = worker(&bus, "a", &play).state(Books(books.plain()));
    let node = node.handlers(handlers![on_work, on_charge]).start().await?;
    node.publish(Work { id: 0 }).await?;
    journal.wait(Step::Done, 1, MINUTE).await;
    assert_eq!((drain(&mut told).len(), books.handled()), (2, vec![1]));
    // One that no handler sends has nothing that it could repeat.
    node.send(Charge { id: 1 }).await?;
    node.send(Charge { id: 1 }).await?;
    assert_eq!(books.handled(), [1, 1, 1]);
    Ok(())
}

/// Two equal requests of one run are two, also after a retry.
async fn two_equal_requests(bus: Bus) -> Result<()> {
    let (node, books) = books(&bus).await?;
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        scene.context.send(Charge { id: 1 }).await?;
        scene.context.send_to("books", Charge { id: 1 }).await?;
        if scene.attempt == 1 {
            Err("not yet").retry()?;
        }
        Ok(())
    });
    let worker = worker(&bus, "a", &play).handlers(handlers![on_work]);
    let _worker = worker.start().await?;
    node.publish(Work { id: 0 }).await?;
    journal.wait(Step::Done, 1, MINUTE).await;
    assert_eq!(
        (journal.count(Step::Started), books.handled()),
        (2, vec![1, 1])
    );
    Ok(())
}

/// The key is the same at every attempt on every node, and another for each group, node of `each_node`, and message.
async fn an_idempotency_key(bus: Bus) -> Result<()> {
    let (tell, mut told) = unbounded_channel();
    let journal = Journal::default();
    let play = |what: &'static str| {
        let tell = tell.clone();
        journal.play(move |scene| {
            let (tell, key) = (tell.clone(), scene.context.idempotency_key());
            async move {
                let node = scene.context.node().to_string();
                tell.send((what, scene.id, node.clone(), key))?;
                match (node.as_str(), scene.attempt) {
                    ("first", _) => pending().await,
                    (_, 1) => Err("not yet").retry()?,
                    _ => {}
                }
                Ok(())
            }
        })
    };
    let observer = bus.observer().await?;
    let first = worker(&bus, "first", &play("group")).handlers(handlers![on_work]);
    let first = first.start().await?;
    for id in 0..2 {
        observer.publish(Work { id }).await?;
    }
    journal.wait(Step::Started, 2, SOON).await;
    first.shutdown_within(Duration::ZERO).await?;
    let mut nodes = Vec::new();
    for (id, what, handlers) in [
        ("a", "group", handlers![on_work]),
        ("b", "audit", handlers![audit_work]),
        ("c", "each", handlers![each_work]),
        ("d", "each", handlers![each_work]),
    ] {
        let node = worker(&bus, id, &play(what)).handlers(handlers);
        nodes.push(node.start().await?);
    }
    journal.wait(Step::Done, 8, MINUTE).await;
    let told = drain(&mut told);
    assert!(told.len() >= 2 + 16, "{told:?}");
    let keys = |what, id, node: Option<&str>| {
        let told = told.iter().filter(|told| (told.0, told.1) == (what, id));
        let told = told.filter(|told| node.is_none_or(|node| told.2 == node));
        told.map(|told| told.3.clone()).collect::<BTreeSet<_>>()
    };
    let mut all = BTreeSet::new();
    for id in 0..2 {
        for (what, node) in [
            ("group", None),
            ("audit", None),
            ("each", Some("c")),
            ("each", Some("d")),
        ] {
            let keys = keys(what, id, node);
            assert_eq!(keys.len(), 1, "{what} {id} {node:?}: {keys:?}");
            all.extend(keys);
        }
    }
    assert_eq!(all.len(), 8, "two have one key: {all:?}");
    Ok(())
}
