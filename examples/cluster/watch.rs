//! `GET /nodes/watch`: who is there, then who joins, changes and leaves, as [server-sent events][sse].
//!
//! [sse]: https://html.spec.whatwg.org/multipage/server-sent-events.html

use std::convert::Infallible;

use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use catga::NodeEvent;
use futures_util::stream::{self, Stream};

use crate::api::App;
use crate::health::Seen;

pub(crate) async fn watch(
    State(app): State<App>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let begin = (app.catga.watch_nodes(), app.stopping.clone());
    let events = stream::unfold(begin, |(mut changes, mut stopping)| async move {
        let event = tokio::select! {
            biased;
            // Or the server would wait for its watchers when it stops.
            _ = stopping.wait_for(|stopping| *stopping) => None,
            event = changes.next() => event,
        };
        Some((Ok(written(&event?)), (changes, stopping)))
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

fn written(event: &NodeEvent) -> Event {
    let (name, node) = match event {
        NodeEvent::Joined(node) => ("joined", Some(Seen::new(node, true))),
        NodeEvent::Updated(node) => ("updated", Some(Seen::new(node, true))),
        NodeEvent::Left(node) => ("left", Some(Seen::new(node, false))),
        // Events were dropped: what follows is everybody who is there.
        _ => ("lagged", None),
    };
    let data = serde_json::to_string(&node).expect("a node can be written as JSON");
    Event::default().event(name).data(data)
}
