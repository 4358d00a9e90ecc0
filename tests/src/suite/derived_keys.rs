//! What keys and derived ids are made of: all that makes one message another, and nothing that differs
//! between two attempts at the same.

use std::collections::BTreeSet;
use std::time::Duration;

use catga::MessageId;
use catga::prelude::{Context, Event, FailWith, Result, State, handler, handlers};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::unbounded_channel;

use crate::harness::{Bus, scenarios};
use crate::journal::{Journal, Play, Step};
use crate::messages::{Work, on_work};
use crate::reliable::{Booked, Books, drain, on_booked};

scenarios! { Runtime "derived_keys":
    Paused two_messages_of_one_id,
    Paused another_value_of_a_header,
    Paused another_trace,
    Paused another_version,
}

const MINUTE: Duration = Duration::from_secs(60);

#[derive(Event, Clone, Debug, Serialize, Deserialize)]
#[qos(exactly_once)]
struct BillPaid {
    id: u32,
}

#[derive(Event, Clone, Debug, Serialize, Deserialize)]
#[qos(exactly_once)]
struct BillSent {
    id: u32,
}

#[handler(group = "billing")]
async fn on_bill_paid(event: BillPaid, context: Context, State(play): State<Play>) -> Result<()> {
    play.act("on_bill_paid", event.id, &context).await
}

#[handler(group = "billing")]
async fn on_bill_sent(event: BillSent, context: Context, State(play): State<Play>) -> Result<()> {
    play.act("on_bill_sent", event.id, &context).await
}

/// Two messages may have one id, made of what they are about, and one group may handle both: their keys
/// differ, and so does what follows from them.
async fn two_messages_of_one_id(bus: Bus) -> Result<()> {
    let (books, journal) = (Journal::default(), Journal::default());
    let (tell, mut keys) = unbounded_channel();
    let play = journal.play(move |scene| {
        let told = tell.send(scene.context.idempotency_key());
        async move {
            told?;
            Ok(scene.context.publish(Booked { id: 1 }).await?)
        }
    });
    let node = bus.node("a").state(play).state(Books(books.plain()));
    let handlers = handlers![on_bill_paid, on_bill_sent, on_booked];
    let node = node.handlers(handlers).start().await?;
    let id = MessageId::from_key("bill 17");
    node.message(BillPaid { id: 17 }).id(id).publish().await?;
    node.message(BillSent { id: 17 }).id(id).publish().await?;
    journal.wait(Step::Done, 2, MINUTE).await;
    tokio::time::sleep(MINUTE).await;
    let keys: BTreeSet<_> = drain(&mut keys).into_iter().collect();
    assert_eq!(keys.len(), 2, "one key for two messages");
    assert_eq!(books.handled(), [1, 1], "one was taken for the other");
    Ok(())
}

/// How often `books` is called when two attempts at one message publish each as `play` says.
async fn after_two_attempts(bus: &Bus, play: Play, journal: &Journal) -> Result<usize> {
    let books = Journal::default();
    let handlers = handlers![on_work, on_booked, newer::on_moved];
    let node = bus.node("a").state(play).state(Books(books.plain()));
    let node = node.handlers(handlers).start().await?;
    node.publish(Work { id: 0 }).await?;
    journal.wait(Step::Done, 1, MINUTE).await;
    tokio::time::sleep(MINUTE).await;
    assert_eq!(journal.count(Step::Started), 2);
    node.shutdown().await?;
    Ok(books.count(Step::Done))
}

/// Publishes at each of two attempts the same, with a header that has another value at the second.
async fn with_header(bus: &Bus, name: &'static str, values: [&'static str; 2]) -> Result<usize> {
    let journal = Journal::default();
    let play = journal.play(move |scene| async move {
        let first = scene.attempt == 1;
        let booked = scene.context.message(Booked { id: 1 });
        let booked = booked.header(name, values[usize::from(!first)]);
        booked.publish().await?;
        if first {
            Err("not yet").retry()?;
        }
        Ok(())
    });
    after_two_attempts(bus, play, &journal).await
}

/// What one attempt publishes for one tenant, and the next for another, are two messages.
async fn another_value_of_a_header(bus: Bus) -> Result<()> {
    assert_eq!(with_header(&bus, "tenant", ["a", "b"]).await?, 2);
    Ok(())
}

/// Each attempt has a trace of its own: that makes no message another.
async fn another_trace(bus: Bus) -> Result<()> {
    let traces = [
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ];
    assert_eq!(with_header(&bus, "traceparent", traces).await?, 1);
    let states = ["rojo=00f067aa0ba902b7", "congo=t61rcWkgMzE"];
    assert_eq!(with_header(&bus, "tracestate", states).await?, 1);
    Ok(())
}

mod older {
    use super::{Deserialize, Event, Serialize};

    #[derive(Event, Serialize, Deserialize)]
    #[message(name = "derived.Moved")]
    #[qos(exactly_once)]
    pub(super) struct Moved {
        pub(super) id: u32,
    }
}

mod newer {
    use super::{Books, Context, Deserialize, Event, Result, Serialize, State, handler, older};

    #[derive(Event, Serialize, Deserialize)]
    #[message(name = "derived.Moved", version = 2, upcast_from = older::Moved)]
    #[qos(exactly_once)]
    pub(super) struct Moved {
        pub(super) id: u32,
    }

    impl From<older::Moved> for Moved {
        fn from(old: older::Moved) -> Self {
            Self { id: old.id }
        }
    }

    #[handler(group = "books")]
    pub(super) async fn on_moved(
        moved: Moved,
        context: Context,
        State(books): State<Books>,
    ) -> Result<()> {
        books.0.act("on_moved", moved.id, &context).await
    }
}

/// The same content in another version may mean something else.
async fn another_version(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.attempt == 1 {
            scene.context.publish(older::Moved { id: 1 }).await?;
            Err("not yet").retry()?;
        }
        scene.context.publish(newer::Moved { id: 1 }).await?;
        Ok(())
    });
    assert_eq!(after_two_attempts(&bus, play, &journal).await?, 2);
    Ok(())
}
