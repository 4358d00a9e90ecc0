//! What is handled once: messages, handlers, and where their claims are.

use std::sync::Arc;

use catga::memory::Memory;
use catga::prelude::{Catga, Commit, Context, Event, Request, Result, State, handler};
use catga::{Attempt, CatgaBuilder, InboxStore, MessageId};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::harness::Bus;
use crate::journal::{Journal, Play, Step};
use crate::messages::Answer;

/// An event at QoS 2.
#[derive(Event, Clone, Debug, Serialize, Deserialize)]
#[qos(exactly_once)]
pub(crate) struct Payment {
    pub(crate) id: u32,
}

/// What follows from another message, at QoS 2.
#[derive(Event, Clone, Debug, Serialize, Deserialize)]
#[qos(exactly_once)]
pub(crate) struct Booked {
    pub(crate) id: u32,
}

/// A request that is run once.
#[derive(Request, Clone, Debug, Serialize, Deserialize)]
#[response(Answer)]
pub(crate) struct Charge {
    pub(crate) id: u32,
}

#[handler(group = "workers")]
pub(crate) async fn on_payment(
    payment: Payment,
    context: Context,
    State(play): State<Play>,
) -> Result<()> {
    play.act("on_payment", payment.id, &context).await
}

#[handler(group = "audit")]
pub(crate) async fn audit_payment(
    payment: &Payment,
    context: Context,
    State(play): State<Play>,
) -> Result<()> {
    play.act("audit_payment", payment.id, &context).await
}

#[handler(each_node)]
pub(crate) async fn each_payment(
    payment: &Payment,
    context: Context,
    State(play): State<Play>,
) -> Result<()> {
    play.act("each_payment", payment.id, &context).await
}

/// Writes before it acts: each run under a key of its own.
#[handler(group = "ledger")]
pub(crate) async fn write_payment(
    payment: Payment,
    context: Context,
    mut tx: Commit<Memory>,
    State(play): State<Play>,
) -> Result<()> {
    tx.put(run_key(payment.id, &context), payment.id.to_string());
    play.act("write_payment", payment.id, &context).await
}

#[handler(group = "books")]
pub(crate) async fn on_booked(
    booked: Booked,
    context: Context,
    State(books): State<Books>,
) -> Result<()> {
    books.0.act("on_booked", booked.id, &context).await
}

/// The part of those who handle what follows: another than of those it follows from.
#[derive(Clone)]
pub(crate) struct Books(pub(crate) Play);

#[handler]
pub(crate) async fn on_charge(
    charge: Charge,
    context: Context,
    State(books): State<Books>,
) -> Result<Answer> {
    books.0.act("on_charge", charge.id, &context).await?;
    Ok(Answer {
        id: charge.id,
        node: context.node().to_string(),
    })
}

/// A request whose handler commits.
#[derive(Request, Clone, Debug, Serialize, Deserialize)]
#[response(Answer)]
pub(crate) struct Deposit {
    pub(crate) id: u32,
}

#[handler]
pub(crate) async fn on_deposit(
    deposit: Deposit,
    context: Context,
    mut tx: Commit<Memory>,
    State(play): State<Play>,
) -> Result<Answer> {
    tx.put(run_key(deposit.id, &context), deposit.id.to_string());
    play.act("on_deposit", deposit.id, &context).await?;
    Ok(Answer {
        id: deposit.id,
        node: context.node().to_string(),
    })
}

/// The key that a run writes: another for each run, so that two of them show.
pub(crate) fn run_key(id: u32, context: &Context) -> String {
    let number = context.attempt().number();
    format!("{id}:{}:{number}:{}", context.node(), MessageId::new())
}

/// Where nodes claim: in their backend's own inbox, or in one that they are given.
#[derive(Clone, Debug)]
pub(crate) struct Claiming {
    pub(crate) bus: Bus,
    pub(crate) inbox: Option<Arc<dyn InboxStore>>,
}

impl Claiming {
    /// In the backend's own.
    pub(crate) fn own(bus: Bus) -> Self {
        Self { bus, inbox: None }
    }

    /// In one of another bus.
    pub(crate) async fn given(bus: Bus) -> Result<Self> {
        let inbox = Some(inbox_of_another_bus().await?);
        Ok(Self { bus, inbox })
    }

    /// A node that claims there.
    pub(crate) fn node(&self, id: &str) -> CatgaBuilder {
        let node = self.bus.node(id);
        match &self.inbox {
            Some(inbox) => node.inbox(Arc::clone(inbox)),
            None => node,
        }
    }
}

/// The inbox of a bus that nobody else is on.
pub(crate) async fn inbox_of_another_bus() -> Result<Arc<dyn InboxStore>> {
    let carrier = Bus::memory("inbox", 0).observer().await?;
    let inbox = carrier.backend().inbox.clone();
    // It is to live as long as the scenario does: a connection that closes takes its inbox with it.
    std::mem::forget(carrier);
    Ok(inbox.expect("the suite asks backends that have an inbox"))
}

/// Publishes a payment under an id, and says whether it is a duplicate.
pub(crate) async fn pay(node: &Catga, id: u32, key: &str) -> Result<bool> {
    let payment = node.message(Payment { id }).id(MessageId::from_key(key));
    Ok(payment.publish().await?.duplicate)
}

/// A part that always succeeds, and says which attempt each run was told to be.
pub(crate) fn telling(journal: &Journal) -> (Play, UnboundedReceiver<Attempt>) {
    let (tell, told) = unbounded_channel();
    let play = journal.play(move |scene| {
        let told = tell.send(scene.context.attempt());
        async move { Ok(told?) }
    });
    (play, told)
}

/// What was sent so far.
pub(crate) fn drain<T>(receiver: &mut UnboundedReceiver<T>) -> Vec<T> {
    std::iter::from_fn(|| receiver.try_recv().ok()).collect()
}

/// Asserts that one handler never ran twice at once for one message.
pub(crate) fn assert_no_overlap(journal: &Journal) {
    let mut running = std::collections::HashSet::new();
    for note in journal.notes() {
        let key = (note.handler, note.id);
        if note.step == Step::Started {
            assert!(running.insert(key), "two at once: {note:?}");
        } else {
            running.remove(&key);
        }
    }
}

/// How many copies these nodes recognised, of all messages.
pub(crate) fn duplicates(nodes: &[&Catga]) -> u64 {
    let infos = nodes.iter().flat_map(|node| node.handlers());
    infos.map(|info| info.stats.duplicates).sum()
}

/// How many runs these nodes could not complete, because their claim was lost.
pub(crate) fn lost(nodes: &[&Catga]) -> u64 {
    let infos = nodes.iter().flat_map(|node| node.handlers());
    infos.map(|info| info.stats.lost).sum()
}
