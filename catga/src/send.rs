//! The way of a request to the node that answers it; [`call`](crate::call) is what happens there
//! when that is this one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use catga_core::{
    Capability, Encoded, Envelope, Error, ErrorKind, Kind, MessageId, NodeId, QoS, Request, Retry,
    Target,
};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::app::Inner;
use crate::call::{Arrival, Begun, Pass, too_late};
use crate::time::{after, time_left};
use crate::{Attempt, Context};

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
        let candidates = if self.members.alone() {
            None
        } else {
            self.members.view().candidates(R::NAME).cloned()
        };
        let first = candidates.as_ref().map(|candidates| candidates.next());
        let claims = self.must_claim::<R>(origin);
        if let Some((entry, call)) = self.table.request::<R>()
            && first.is_none_or(|(node, _)| *node == self.node.id)
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
        let first = first.map(|(node, _)| Target::Node(node.clone()));
        let result = match first.map_or_else(|| self.anybody::<R>(), Ok) {
            Ok(first) => {
                let letter = self.letter(Envelope::without_id(request), None, origin)?;
                let next = |failed: &Target| self.instead_of::<R>(failed);
                self.deliver::<R>(&letter, deadline, first, next).await
            }
            Err(nobody) => Err(nobody),
        };
        self.metrics.answered::<R>(began, result)
    }

    /// Who answers a request, when no node is known to.
    fn anybody<R: Request>(&self) -> Result<Target, Error> {
        if self.table.request::<R>().is_some() {
            return Ok(Target::Node(self.node.id.clone()));
        }
        if self.knows_everybody() {
            return Err(self.no_handler::<R>());
        }
        // Nobody knows who is there but the broker.
        Ok(Target::Service(self.node.service.clone()))
    }

    /// The node of a name.
    fn node_target(&self, node: &str) -> Result<Target, Error> {
        let id = match self.members.view().node(node) {
            Some(known) => known.id.clone(),
            None if node == self.node.id.as_str() => self.node.id.clone(),
            None if self.knows_everybody() => return Err(self.unknown_node(node)),
            None => NodeId::token(node)?,
        };
        Ok(Target::Node(id))
    }

    /// Sends a request with an id or headers of the caller's choice. Somebody else may have sent its id
    /// before, so that it is claimed at the first try as well.
    pub(crate) async fn send_letter<R: Request>(
        self: &Arc<Self>,
        envelope: Envelope,
        node: Option<&str>,
        origin: Option<&Context>,
    ) -> Result<R::Response, Error> {
        self.check_open("send", origin.is_some())?;
        let began = self.metrics.clock();
        let deadline = self.deadline::<R>(origin)?;
        let letter = self.letter(envelope, node, origin)?;
        if let Some(node) = node {
            let target = self.node_target(node)?;
            let again = self.deliver::<R>(&letter, deadline, target, Target::clone);
            return self.metrics.answered::<R>(began, again.await);
        }
        let candidates = self.members.view().candidates(R::NAME).cloned();
        let first = match &candidates {
            Some(candidates) => Target::Node(candidates.next().0.clone()),
            None => match self.anybody::<R>() {
                Ok(first) => first,
                Err(nobody) => return self.metrics.answered::<R>(began, Err(nobody)),
            },
        };
        let next = |failed: &Target| self.instead_of::<R>(failed);
        let result = self.deliver::<R>(&letter, deadline, first, next).await;
        self.metrics.answered::<R>(began, result)
    }

    /// Where a request that failed at one node goes next: to another of those who are there by now.
    fn instead_of<R: Request>(&self, failed: &Target) -> Target {
        match (failed, self.members.view().candidates(R::NAME)) {
            (Target::Node(node), Some(candidates)) => {
                Target::Node(candidates.after(node).0.clone())
            }
            _ => failed.clone(),
        }
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
        let target = self.node_target(node)?;
        let letter = self.letter(Envelope::without_id(request), Some(node), origin)?;
        let result = self
            .deliver::<R>(&letter, deadline, target, Target::clone)
            .await;
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
        let candidates = self.members.view().candidates(R::NAME).cloned();
        let candidates = candidates.ok_or_else(|| self.no_handler::<R>())?;
        let deadline = self.deadline::<R>(None)?;
        let letter = self.letter(Envelope::without_id(request), None, None)?;
        let mut calls = JoinSet::new();
        let mut asked = HashMap::new();
        for (node, _) in &candidates.nodes {
            let (inner, copy) = (Arc::clone(self), copy_for(&letter, node));
            let target = Target::Node(node.clone());
            let call = calls.spawn(async move {
                let began = inner.metrics.clock();
                let result = inner
                    .deliver::<R>(&copy, deadline, target, Target::clone)
                    .await;
                inner.metrics.answered::<R>(began, result)
            });
            asked.insert(call.id(), node.clone());
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

    /// Sends a request to `target`, or to who comes `next` after a failure, with the same id, until it
    /// is answered, refused for good, or too late.
    async fn deliver<R: Request>(
        self: &Arc<Self>,
        letter: &Envelope,
        deadline: Option<Instant>,
        mut target: Target,
        next: impl Fn(&Target) -> Target,
    ) -> Result<R::Response, Error> {
        let again = self.settings.request_retries.saturating_add(1);
        let tries = if R::QOS == QoS::AtMostOnce { 1 } else { again };
        let mut may_have_run = false;
        let mut attempt = Attempt::new(1, tries);
        loop {
            let sending = self.try_once::<R>(&target, letter, deadline, attempt);
            let error = match sending.await {
                Ok(response) => return Ok(response),
                Err(error) => error.with_context("to", &target),
            };
            may_have_run |= error.may_be_stored();
            let follower = next(&target);
            // Where nobody listens there is nothing to wait for: somebody else at once, or nobody.
            let nobody = error.kind() == ErrorKind::NoResponders;
            // Nor where it was turned away unseen, as long as there is somebody who was not asked yet.
            let refused = error.kind() == ErrorKind::Unavailable
                && !error.may_be_stored()
                && follower != target
                && attempt.number() < self.members.view().answering(R::NAME);
            let wait = match error.retry() {
                _ if nobody || refused => Duration::ZERO,
                Retry::After(delay) => delay.max(self.settings.backoff.delay(attempt.number())),
                _ => self.settings.backoff.delay(attempt.number()),
            };
            let in_time = deadline.is_none_or(|deadline| after(Instant::now(), wait) < deadline);
            let in_vain = error.retry() == Retry::Never || (nobody && follower == target);
            if attempt.is_last() || !in_time || in_vain {
                return Err(if may_have_run {
                    error.with_unknown_outcome()
                } else {
                    error
                });
            }
            tracing::debug!(request = R::NAME, %target, next = %follower, %error, ?wait, "trying again with the same id");
            tokio::time::sleep(wait).await;
            target = follower;
            attempt = Attempt::new(attempt.number() + 1, tries);
        }
    }

    async fn try_once<R: Request>(
        self: &Arc<Self>,
        target: &Target,
        letter: &Envelope,
        deadline: Option<Instant>,
        attempt: Attempt,
    ) -> Result<R::Response, Error> {
        if let (Target::Node(node), Some((entry, call))) = (target, self.table.request::<R>())
            && *node == self.node.id
            // What may be tried again, or was, is claimed, also where it comes back to this node.
            && !is_idempotent::<R>()
        {
            let bytes = letter.payload().as_bytes().expect("a letter is encoded");
            let payload = Encoded::new(&self.codecs, letter.content_type(), bytes);
            let request = R::from_version(letter.version(), &payload)?;
            let arrival = Arrival::of(letter, attempt);
            return self
                .call_here(entry, call, request, arrival, deadline)
                .await;
        }
        let left = deadline.map(time_left);
        let reply = self
            .backend
            .transport
            .request(target, letter, attempt.number(), left)
            .await?;
        match reply.result {
            Ok(bytes) => {
                let response = self.codecs.decode(reply.content_type.as_deref(), &bytes);
                response.map_err(Error::with_unknown_outcome)
            }
            Err(remote) => Err(remote.into_error("send")),
        }
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

/// Whether the inbox keeps the response for retries.
const fn is_idempotent<R: Request>() -> bool {
    matches!(R::KIND, Kind::Request { idempotent: true }) && !matches!(R::QOS, QoS::AtMostOnce)
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
