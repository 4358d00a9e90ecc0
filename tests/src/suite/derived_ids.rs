//! What a handler publishes and sends has an id that follows from what it handles: an attempt that does the
//! same again makes duplicates, and anything else makes messages of its own.

use std::future::pending;
use std::time::Duration;

use catga::prelude::{Context, FailWith, Result, handlers};
use catga::{CatgaBuilder, HandlerError, MessageId};

use crate::harness::{Bus, PLANNED, SOON, scenarios};
use crate::journal::{Journal, Play, Step};
use crate::messages::{Tick, Work, audit_work, each_work, on_tick, on_work};
use crate::reliable::{Booked, Books, on_booked, on_charge, on_payment, pay};

scenarios! { Runtime "derived_ids":
    Paused another_branch,
    Paused the_same_branch,
    Paused after_a_panic_and_a_time_out,
    Paused after_a_shutdown,
    Paused a_join_that_ends_the_other_way_round,
    Paused equal_messages,
    Paused clones_of_a_context,
    Paused many_at_once,
    Paused other_headers,
    Paused an_id_of_ones_own,
    Paused each_node_publishes_its_own,
    Paused each_group_publishes_its_own,
    Paused two_causes,
    Paused exactly_once_all_the_way,
    Paused nothing_follows_from_at_most_once,
}

const MINUTE: Duration = Duration::from_secs(60);

/// A node that handles what follows, and notes it.
pub(super) async fn books(bus: &Bus) -> Result<(catga::prelude::Catga, Journal)> {
    let journal = Journal::default();
    let node = bus.node("books").state(Books(journal.plain()));
    let node = node.handlers(handlers![on_booked, on_charge]);
    Ok((node.start().await?, journal))
}

pub(super) fn worker(bus: &Bus, id: &str, play: &Play) -> CatgaBuilder {
    let node = bus.node(id).state(play.clone()).attempts(5);
    node.handler_timeout(Duration::from_secs(3))
}

async fn book(context: &Context, id: u32) -> Result<()> {
    Ok(context.publish(Booked { id }).await?)
}

/// What is booked in the end when one message is worked at as `play` says.
async fn booked(bus: &Bus, runs: usize, play: Play, journal: &Journal) -> Result<Vec<u32>> {
    let (node, books) = books(bus).await?;
    let worker = worker(bus, "worker", &play).handlers(handlers![on_work]);
    let _worker = worker.start().await?;
    node.publish(Work { id: 0 }).await?;
    journal.wait(Step::Done, 1, 2 * MINUTE).await;
    tokio::time::sleep(MINUTE).await;
    assert_eq!(journal.count(Step::Started), runs);
    Ok(books.handled())
}

/// A run that takes another branch than the one before publishes what that one did not.
async fn another_branch(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.attempt == 1 {
            book(&scene.context, 1).await?;
            Err("not yet").retry()?;
        }
        book(&scene.context, 2).await?;
        Ok(())
    });
    assert_eq!(booked(&bus, 2, play, &journal).await?, [1, 2]);
    Ok(())
}

/// What both runs publish is published once, also where it comes second at the second.
async fn the_same_branch(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.attempt > 1 {
            book(&scene.context, 2).await?;
        }
        book(&scene.context, 1).await?;
        if scene.attempt < 4 {
            Err("not yet").retry()?;
        }
        Ok(())
    });
    assert_eq!(booked(&bus, 4, play, &journal).await?, [1, 2]);
    Ok(())
}

/// However a run ends.
async fn after_a_panic_and_a_time_out(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        book(&scene.context, 1).await?;
        match scene.attempt {
            1 => panic!("{PLANNED}"),
            2 => pending().await,
            _ => Ok(()),
        }
    });
    assert_eq!(booked(&bus, 3, play, &journal).await?, [1]);
    Ok(())
}

/// Also on another node, and in another process: nothing of it is in the memory of one.
async fn after_a_shutdown(bus: Bus) -> Result<()> {
    let (node, books) = books(&bus).await?;
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        book(&scene.context, 1).await?;
        if scene.context.node().as_str() == "a" {
            pending::<()>().await;
        }
        Ok(())
    });
    let a = worker(&bus, "a", &play).handlers(handlers![on_work]);
    let a = a.start().await?;
    node.publish(Work { id: 0 }).await?;
    books.wait(Step::Done, 1, SOON).await;
    a.shutdown_within(Duration::ZERO).await?;
    let b = worker(&bus, "b", &play).handlers(handlers![on_work]);
    let _b = b.start().await?;
    journal.wait(Step::Done, 1, SOON).await;
    tokio::time::sleep(MINUTE).await;
    assert_eq!(books.handled(), [1]);
    Ok(())
}

/// Two publishes of one `join!` may end in either order.
async fn a_join_that_ends_the_other_way_round(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        let (one, two) = (book(&scene.context, 1), book(&scene.context, 2));
        if scene.attempt == 1 {
            let (one, two) = tokio::join!(one, two);
            one?;
            two?;
            return Err(HandlerError::retry("not yet"));
        }
        let (two, one) = tokio::join!(two, one);
        one?;
        two
    });
    assert_eq!(booked(&bus, 2, play, &journal).await?, [1, 2]);
    Ok(())
}

/// Two equal messages of one run are two, also after a retry; a third of the second run is one more.
async fn equal_messages(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        for _ in 0..=scene.attempt {
            book(&scene.context, 1).await?;
        }
        if scene.attempt == 1 {
            Err("not yet").retry()?;
        }
        Ok(())
    });
    assert_eq!(booked(&bus, 2, play, &journal).await?, [1, 1, 1]);
    Ok(())
}

/// Clones of a context count together.
async fn clones_of_a_context(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        let clone = scene.context.clone();
        let task = tokio::spawn(async move { book(&clone, 1).await.map_err(|e| e.to_string()) });
        book(&scene.context, 1).await?;
        task.await?.retry()?;
        if scene.attempt == 1 {
            Err("not yet").retry()?;
        }
        Ok(())
    });
    assert_eq!(booked(&bus, 2, play, &journal).await?, [1, 1]);
    Ok(())
}

/// `publish_many` is many publishes.
async fn many_at_once(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        let (first, last) = if scene.attempt == 1 { (0, 8) } else { (2, 10) };
        let events = (first..last).map(|id| Booked { id: id / 2 });
        for outcome in scene.context.publish_many(events).await {
            outcome?;
        }
        if scene.attempt == 1 {
            Err("not yet").retry()?;
        }
        Ok(())
    });
    let expected = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4];
    assert_eq!(booked(&bus, 2, play, &journal).await?, expected);
    Ok(())
}

/// What differs in a header differs.
async fn other_headers(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        for tenant in ["acme", "other", "acme"] {
            let event = scene.context.message(Booked { id: 1 });
            event.header("tenant", tenant).publish().await?;
        }
        // One pair is not to be read as another.
        for (name, value) in [("a", "b~c"), ("a~b", "c")] {
            let event = scene.context.message(Booked { id: 2 });
            if let Err(error) = event.header(name, value).publish().await {
                assert_eq!(error.kind(), catga::ErrorKind::InvalidName);
                let event = scene.context.message(Booked { id: 2 });
                event.header("ab", "c").publish().await?;
            }
        }
        if scene.attempt == 1 {
            Err("not yet").retry()?;
        }
        Ok(())
    });
    assert_eq!(booked(&bus, 2, play, &journal).await?, [1, 1, 1, 2, 2]);
    Ok(())
}

/// An id of the caller's choice stays as it is, whoever uses it.
async fn an_id_of_ones_own(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        let event = scene.context.message(Booked { id: scene.attempt });
        event.id(MessageId::from_key("own")).publish().await?;
        if scene.attempt == 1 {
            Err("not yet").retry()?;
        }
        Ok(())
    });
    assert_eq!(booked(&bus, 2, play, &journal).await?, [1]);
    Ok(())
}

/// Books 1 at both of two attempts.
fn twice(journal: &Journal) -> Play {
    journal.play(|scene| async move {
        book(&scene.context, 1).await?;
        if scene.attempt == 1 {
            Err("not yet").retry()?;
        }
        Ok(())
    })
}

/// On `each_node` each node is a handler of its own.
async fn each_node_publishes_its_own(bus: Bus) -> Result<()> {
    let (node, books) = books(&bus).await?;
    let journal = Journal::default();
    let play = twice(&journal);
    let a = worker(&bus, "a", &play).handlers(handlers![each_work]);
    let b = worker(&bus, "b", &play).handlers(handlers![each_work]);
    let _nodes = (a.start().await?, b.start().await?);
    node.publish(Work { id: 0 }).await?;
    journal.wait(Step::Done, 2, MINUTE).await;
    tokio::time::sleep(MINUTE).await;
    assert_eq!(
        (books.handled(), journal.count(Step::Started)),
        (vec![1, 1], 4)
    );
    Ok(())
}

/// So is each group.
async fn each_group_publishes_its_own(bus: Bus) -> Result<()> {
    let (node, books) = books(&bus).await?;
    let journal = Journal::default();
    let worker = worker(&bus, "a", &twice(&journal));
    let worker = worker.handlers(handlers![on_work, audit_work]);
    let _worker = worker.start().await?;
    node.publish(Work { id: 0 }).await?;
    journal.wait(Step::Done, 2, MINUTE).await;
    tokio::time::sleep(MINUTE).await;
    assert_eq!(
        (books.handled(), journal.count(Step::Started)),
        (vec![1, 1], 4)
    );
    Ok(())
}

/// Two messages of one content are two causes.
async fn two_causes(bus: Bus) -> Result<()> {
    let (node, books) = books(&bus).await?;
    let journal = Journal::default();
    let worker = worker(&bus, "a", &twice(&journal)).handlers(handlers![on_work]);
    let _worker = worker.start().await?;
    node.publish(Work { id: 0 }).await?;
    node.publish(Work { id: 0 }).await?;
    journal.wait(Step::Done, 2, MINUTE).await;
    tokio::time::sleep(MINUTE).await;
    assert_eq!(books.handled(), [1, 1]);
    Ok(())
}

/// At QoS 2 all the way, also when the retry comes after the duplicate window.
async fn exactly_once_all_the_way(bus: Bus) -> Result<()> {
    let (node, books) = books(&bus).await?;
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        book(&scene.context, 1).await?;
        if scene.attempt == 1 {
            Err("not yet").retry_after(10 * MINUTE)?;
        }
        Ok(())
    });
    let worker = worker(&bus, "a", &play).handlers(handlers![on_payment]);
    let _worker = worker.start().await?;
    pay(&node, 0, "one").await?;
    journal.wait(Step::Done, 1, 20 * MINUTE).await;
    tokio::time::sleep(MINUTE).await;
    assert_eq!(
        (books.handled(), journal.count(Step::Started)),
        (vec![1], 2)
    );
    Ok(())
}

/// A QoS 0 message has one attempt: what follows from two of one id is two.
async fn nothing_follows_from_at_most_once(bus: Bus) -> Result<()> {
    let (node, books) = books(&bus).await?;
    let journal = Journal::default();
    let play = journal.play(|scene| async move { book(&scene.context, 1).await });
    let worker = worker(&bus, "a", &play).handlers(handlers![on_tick]);
    let _worker = worker.start().await?;
    for _ in 0..2 {
        let tick = node.message(Tick { id: 0 });
        tick.id(MessageId::from_key("tick")).publish().await?;
    }
    books.wait(Step::Done, 2, SOON).await;
    tokio::time::sleep(MINUTE).await;
    assert_eq!(
        (journal.handled(), books.handled()),
        (vec![0, 0], vec![1, 1])
    );
    Ok(())
}
