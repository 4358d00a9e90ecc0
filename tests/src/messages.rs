//! The messages and handlers of the scenarios.

use catga::prelude::{Context, Event, Headers, Request, Result, State, handler};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedSender;

use crate::journal::Play;

/// An event at QoS 0.
#[derive(Event, Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Tick {
    pub(crate) id: u32,
}

/// An event at QoS 1.
#[derive(Event, Clone, Debug, Serialize, Deserialize)]
#[qos(at_least_once)]
pub(crate) struct Work {
    pub(crate) id: u32,
}

/// Another event at QoS 1.
#[derive(Event, Clone, Debug, Serialize, Deserialize)]
#[qos(at_least_once)]
pub(crate) struct Other {
    pub(crate) id: u32,
}

/// A request: who answers?
#[derive(Request, Clone, Debug, Serialize, Deserialize)]
#[response(Answer)]
#[request(idempotent = false)]
pub(crate) struct Ask {
    pub(crate) id: u32,
}

/// The answer to [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) id: u32,
    pub(crate) node: String,
}

/// Content of all sorts, at QoS 0.
#[derive(Event, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Parcel {
    pub(crate) id: u32,
    pub(crate) bytes: Vec<u8>,
    pub(crate) text: String,
}

/// Content of all sorts, at QoS 1.
#[derive(Event, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[qos(at_least_once)]
pub(crate) struct StoredParcel {
    pub(crate) parcel: Parcel,
}

/// What arrived of a parcel: its id, its headers, its content.
pub(crate) type Arrived = (catga::MessageId, Headers, Parcel);

/// Where parcels are put.
pub(crate) type Shelf = UnboundedSender<Arrived>;

#[handler]
pub(crate) async fn on_parcel(
    parcel: &Parcel,
    context: Context,
    headers: Headers,
    State(shelf): State<Shelf>,
) -> Result<()> {
    Ok(shelf.send((context.id(), headers, parcel.clone()))?)
}

#[handler]
pub(crate) async fn on_stored_parcel(
    stored: StoredParcel,
    context: Context,
    headers: Headers,
    State(shelf): State<Shelf>,
) -> Result<()> {
    Ok(shelf.send((context.id(), headers, stored.parcel))?)
}

#[handler]
pub(crate) async fn on_tick(tick: Tick, context: Context, State(play): State<Play>) -> Result<()> {
    play.act("on_tick", tick.id, &context).await
}

#[handler(group = "audit")]
pub(crate) async fn audit_tick(
    tick: &Tick,
    context: Context,
    State(play): State<Play>,
) -> Result<()> {
    play.act("audit_tick", tick.id, &context).await
}

#[handler(each_node)]
pub(crate) async fn each_tick(
    tick: &Tick,
    context: Context,
    State(play): State<Play>,
) -> Result<()> {
    play.act("each_tick", tick.id, &context).await
}

#[handler(group = "workers")]
pub(crate) async fn on_work(work: Work, context: Context, State(play): State<Play>) -> Result<()> {
    play.act("on_work", work.id, &context).await
}

#[handler(group = "audit")]
pub(crate) async fn audit_work(
    work: &Work,
    context: Context,
    State(play): State<Play>,
) -> Result<()> {
    play.act("audit_work", work.id, &context).await
}

#[handler(group = "late", start = "new")]
pub(crate) async fn late_work(
    work: Work,
    context: Context,
    State(play): State<Play>,
) -> Result<()> {
    play.act("late_work", work.id, &context).await
}

#[handler(each_node)]
pub(crate) async fn each_work(
    work: &Work,
    context: Context,
    State(play): State<Play>,
) -> Result<()> {
    play.act("each_work", work.id, &context).await
}

#[handler(group = "workers")]
pub(crate) async fn on_other(
    other: Other,
    context: Context,
    State(play): State<Play>,
) -> Result<()> {
    play.act("on_other", other.id, &context).await
}

#[handler]
pub(crate) async fn on_ask(ask: Ask, context: Context, State(play): State<Play>) -> Result<Answer> {
    play.act("on_ask", ask.id, &context).await?;
    Ok(Answer {
        id: ask.id,
        node: context.node().to_string(),
    })
}
