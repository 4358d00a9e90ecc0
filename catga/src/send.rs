//! The way of a request to the node that answers it; [`call`](crate::call) is what happens there
//! when that is this one.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use catga_core::{Capability, Envelope, Error, ErrorKind, MessageId, NodeId, QoS, Request, Target};
use humantime::format_duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Context;
use crate::app::Inner;
use crate::call::{Arrival, Begun, Pass, too_late};
use crate::deliver::is_idempotent;
use crate::members::Departed;
use crate::time::after;
use crate::trace;
use crate::view::{Picked, Question};
use crate::way::{Hop, Route};

/// What one node answered to a [`broadcast`](crate::Catga::broadcast).
#[derive(Debug)]
#[non_exhaustive]
pub struct Outcome<T> {
    /// The node.
    pub node: NodeId,
    /// Its answer.
    pub result: Result<T, Error>,
}

impl Inner {
    pub(crate) async fn send<R: Request>(
        self: &Arc<Self>,
        request: R,
        origin: Option<&Context>,
    ) -> Result<R::Response, Error> {
        self.check_open("send", origin.is_some())?;
        let began = self.metrics.clock();
        let deadline = self.deadline::<R>(origin)?;
        let picked = if self.members.alone() {
            None
        } else {
            self.pick::<R>(|| request.routing_key())?
        };
        let claims = self.must_claim::<R>(origin);
        if let Some((entry, call)) = self.table.request::<R>()
            && !matches!(picked, Some(Picked::There(..)))
            && !claims
        {
            let arrival = Arrival::from_here(origin)?;
            // What `call_here` does, without its future where the handler is ready at once.
            let result = match Pass::at_once(entry) {
                None => {
                    self.call_here(entry, call, request, arrival, deadline)
                        .await
                }
                Some(pass) => {
                    match self.begin_here(pass, entry, call, request, arrival, deadline) {
                        Begun::Ended(result) => result,
                        Begun::Runs(runs) => self.finish_here::<R>(runs).await,
                    }
                }
            };
            return self.metrics.answered::<R>(began, result);
        }
        // A box, so that the futures of those who are answered here stay small.
        let span = trace::sending(self.backend.name, R::NAME, origin);
        let sent = self.send_away(request, picked, deadline, origin);
        let result = Box::pin(trace::within(span, sent)).await;
        self.metrics.answered::<R>(began, result)
    }

    /// Picks who is asked first; nobody, where no node is known to answer.
    fn pick<'k, R: Request>(
        &self,
        key: impl FnOnce() -> Option<Cow<'k, str>>,
    ) -> Result<Option<Picked>, Error> {
        let view = self.members.view();
        let Some(answering) = view.answering(R::NAME) else {
            return Ok(None);
        };
        let key = if answering.needs_key() {
            Some(key().ok_or_else(|| self.members.routes().keyless::<R>())?)
        } else {
            None
        };
        let question = Question {
            request: R::NAME,
            key: key.as_deref(),
            entry: self.table.request::<R>().map(|(entry, _)| &**entry),
        };
        let lasts = self.settings.request_deadline;
        let lasts = lasts.unwrap_or(self.settings.node_timeout);
        // What is tried once does not try one that failed.
        let lasts = (R::QOS != QoS::AtMostOnce).then_some(lasts);
        Ok(Some(answering.pick(question, self.members.epoch(), lasts)))
    }

    /// How a request goes on after a failure.
    pub(crate) fn route<R: Request>(&self, request: &R) -> Route {
        let routes = self.members.routes();
        let needs_key = routes.of(R::NAME).needs_key();
        let key = needs_key.then(|| request.routing_key()).flatten();
        Route::Routed(key.map(Cow::into_owned))
    }

    async fn send_away<R: Request>(
        self: &Arc<Self>,
        request: R,
        picked: Option<Picked>,
        deadline: Option<Instant>,
        origin: Option<&Context>,
    ) -> Result<R::Response, Error> {
        let first = self.first::<R>(picked)?;
        let route = self.route(&request);
        let letter = self.letter(Envelope::without_id(request), None, origin)?;
        trace::identified(letter.id());
        self.deliver::<R>(&letter, deadline, first, &route).await
    }

    /// Where a request goes first that is not answered directly.
    fn first<R: Request>(&self, picked: Option<Picked>) -> Result<Hop, Error> {
        match picked {
            Some(Picked::There(member, probe)) => Ok(Hop::to(member, probe)),
            Some(Picked::Here) => Ok(self.own_hop()),
            None if self.table.request::<R>().is_some() => Ok(self.own_hop()),
            None if self.knows_everybody() => Err(self.no_handler::<R>()),
            // Nobody knows who is there but the broker.
            None => Ok(Hop::blind(Target::Service(self.node.service.clone()))),
        }
    }

    fn own_hop(&self) -> Hop {
        Hop::blind(Target::Node(self.node.id.clone()))
    }

    /// The node of a name.
    fn node_hop(&self, node: &str) -> Result<Hop, Error> {
        let view = self.members.view();
        if let Some(member) = view.node(node) {
            return Ok(Hop::to(Arc::clone(member), false));
        }
        if node == self.node.id.as_str() {
            return Ok(self.own_hop());
        }
        if !self.knows_everybody() {
            return Ok(Hop::blind(Target::Node(NodeId::token(node)?)));
        }
        Err(match view.departed(node) {
            Some(departed) => gone(departed),
            None => self.unknown_node(node),
        })
    }

    /// Sends a request with an id or headers of the caller's choice. Somebody else may have sent its id
    /// before, so that it is claimed at the first try as well.
    pub(crate) async fn send_letter<R: Request>(
        self: &Arc<Self>,
        envelope: Envelope,
        node: Option<&str>,
        route: Route,
        origin: Option<&Context>,
    ) -> Result<R::Response, Error> {
        self.check_open("send", origin.is_some())?;
        let began = self.metrics.clock();
        let deadline = self.deadline::<R>(origin)?;
        let span = trace::sending(self.backend.name, R::NAME, origin);
        let letter = span.in_scope(|| {
            let letter = self.letter(envelope, node, origin)?;
            trace::identified(letter.id());
            Ok::<_, Error>(letter)
        })?;
        let first = match (node, &route) {
            (Some(node), _) => self.node_hop(node),
            (None, Route::Routed(key)) => self
                .pick::<R>(|| key.as_deref().map(Cow::Borrowed))
                .and_then(|picked| self.first::<R>(picked)),
            (None, Route::Fixed) => unreachable!("a letter without a node is routed"),
        };
        let result = match first {
            Ok(first) => {
                let sent = self.deliver::<R>(&letter, deadline, first, &route);
                trace::within(span, sent).await
            }
            Err(nobody) => Err(nobody),
        };
        self.metrics.answered::<R>(began, result)
    }

    pub(crate) async fn send_to<R: Request>(
        self: &Arc<Self>,
        node: &str,
        request: R,
        origin: Option<&Context>,
    ) -> Result<R::Response, Error> {
        self.check_open("send_to", origin.is_some())?;
        let began = self.metrics.clock();
        let deadline = self.deadline::<R>(origin)?;
        let claims = self.must_claim::<R>(origin);
        if node == self.node.id.as_str() && !(claims && self.table.request::<R>().is_some()) {
            let Some((entry, call)) = self.table.request::<R>() else {
                let text = format!(
                    "no handler for `{}` on this node; {}",
                    R::NAME,
                    self.table.describe()
                );
                return Err(Error::new(ErrorKind::NoHandler, "send_to", text));
            };
            let arrival = Arrival::from_here(origin)?;
            let result = self
                .call_here(entry, call, request, arrival, deadline)
                .await;
            return self.metrics.answered::<R>(began, result);
        }
        let hop = self.node_hop(node)?;
        let span = trace::sending(self.backend.name, R::NAME, origin);
        let letter = Envelope::without_id(request);
        let letter = span.in_scope(|| {
            let letter = self.letter(letter, Some(node), origin)?;
            trace::identified(letter.id());
            Ok::<_, Error>(letter)
        })?;
        let sent = self.deliver::<R>(&letter, deadline, hop, &Route::Fixed);
        let result = Box::pin(trace::within(span, sent)).await;
        self.metrics.answered::<R>(began, result)
    }

    pub(crate) async fn broadcast<R: Request>(
        self: &Arc<Self>,
        request: R,
    ) -> Result<Vec<Outcome<R::Response>>, Error> {
        self.check_open("broadcast", false)?;
        if self.backend.registry.is_none() {
            // It would reach this node alone, and look as if that were all.
            let what = format!("send `{}` to every node", R::NAME);
            return Err(self.unsupported("broadcast", Capability::Nodes, &what));
        }
        let answering = self.members.view().answering(R::NAME).cloned();
        let answering = answering.ok_or_else(|| self.no_handler::<R>())?;
        let deadline = self.deadline::<R>(None)?;
        let span = trace::sending(self.backend.name, R::NAME, None);
        let letter = Envelope::without_id(request);
        let letter = span.in_scope(|| self.letter(letter, None, None))?;
        let mut calls = JoinSet::new();
        let mut asked = HashMap::new();
        for member in answering.all() {
            let node = member.info.id.clone();
            let (inner, copy) = (Arc::clone(self), copy_for(&letter, &node));
            // Nobody else has the id of this copy: it needs no claim.
            let direct = node == self.node.id && !self.must_claim::<R>(None);
            let hop = Hop::to(member, false).called_directly(direct);
            let asked_one = async move {
                let began = inner.metrics.clock();
                let result = inner.deliver::<R>(&copy, deadline, hop, &Route::Fixed);
                inner.metrics.answered::<R>(began, result.await)
            };
            let call = calls.spawn(trace::around(&span, asked_one));
            asked.insert(call.id(), node);
        }
        let mut outcomes = Vec::with_capacity(asked.len());
        while let Some(ended) = calls.join_next_with_id().await {
            let (id, result) = match ended {
                Ok((id, result)) => (id, result),
                Err(lost) => (lost.id(), Err(interrupted::<R>())),
            };
            let node = asked.remove(&id).expect("every call was noted");
            outcomes.push(Outcome { node, result });
        }
        outcomes.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(outcomes)
    }

    /// The request as it travels: encoded, with one id for all its tries.
    fn letter(
        &self,
        mut envelope: Envelope,
        to: Option<&str>,
        origin: Option<&Context>,
    ) -> Result<Envelope, Error> {
        if !self.capabilities.has(Capability::Requests) {
            let what = format!("send `{}` to another node", envelope.name());
            return Err(self.unsupported("send", Capability::Requests, &what));
        }
        self.seal("send", &mut envelope, origin, to, true)?;
        Ok(envelope)
    }

    /// Whether a request is not to be handled here before it was claimed in the inbox, even at the first try:
    /// one that a handler sends which may be tried again itself, and sends it again then; one whose
    /// handler commits effects with the claim.
    fn must_claim<R: Request>(&self, origin: Option<&Context>) -> bool {
        is_idempotent::<R>()
            && (origin.is_some_and(|origin| origin.origin().is_some())
                || self
                    .table
                    .request::<R>()
                    .is_some_and(|(entry, _)| entry.commits))
    }

    /// When a request is too late: its own deadline, or that of the call whose handler sends it.
    #[inline]
    fn deadline<R: Request>(&self, origin: Option<&Context>) -> Result<Option<Instant>, Error> {
        let (outer, limit) = (
            origin.and_then(Context::deadline),
            self.settings.request_deadline,
        );
        if outer.is_none() && limit.is_none() {
            return Ok(None);
        }
        let now = Instant::now();
        if outer.is_some_and(|outer| outer <= now) {
            return Err(too_late::<R>(
                "the time of the call it belongs to is over",
                false,
            ));
        }
        let own = limit.map(|limit| after(now, limit));
        Ok(own.into_iter().chain(outer).min())
    }

    /// Whether the view of the cluster can be trusted to be complete.
    fn knows_everybody(&self) -> bool {
        self.backend.registry.is_some() && self.members.trouble().is_none()
    }

    fn no_handler<R: Request>(&self) -> Error {
        Error::new(
            ErrorKind::NoHandler,
            "send",
            format!(
                "no handler for `{}` on any node; {}; a handler in a library crate is only linked when the program names that crate: `use orders as _;`",
                R::NAME,
                self.table.describe()
            ),
        )
    }

    fn unknown_node(&self, node: &str) -> Error {
        let shown: String = node.chars().take(80).collect();
        let known: Vec<_> = self
            .members
            .nodes()
            .into_iter()
            .map(|node| node.id.to_string())
            .collect();
        let text = format!(
            "no live node has the id {shown:?} (live: {})",
            known.join(", ")
        );
        Error::new(ErrorKind::UnknownNode, "send_to", text)
    }
}

/// It is known, and not there any more.
fn gone(departed: &Departed) -> Error {
    let node = &departed.info.id;
    let ago = Duration::from_secs(departed.at.elapsed().as_secs());
    let how = if departed.silent {
        "was given up because it was silent"
    } else {
        "left"
    };
    let text = format!(
        "the node `{node}` {how} {} ago, and is not back",
        format_duration(ago)
    );
    Error::new(ErrorKind::NodeGone, "send_to", text)
}

/// Each node's copy is a message of its own, or a shared inbox would run it once.
fn copy_for(letter: &Envelope, node: &NodeId) -> Envelope {
    let call = letter.id().expect("a letter has an id");
    letter
        .clone()
        .with_id(MessageId::from_key(&format!("{call}:{node}")))
}

/// The task of a call ended without an outcome: the runtime shuts down.
fn interrupted<R: Request>() -> Error {
    let text = format!("the call of `{}` was interrupted", R::NAME);
    Error::new(ErrorKind::Closed, "broadcast", text).with_unknown_outcome()
}
