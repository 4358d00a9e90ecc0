//! The whole way of a request: to a handler here, or to another node and back.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use catga_core::{
    Capability, Envelope, Error, ErrorKind, Headers, MessageId, NodeId, QoS, Reply, Request, Retry,
    Target,
};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{Instrument, Span};

use crate::app::Inner;
use crate::consume::{counted, span};
use crate::context::Attempt;
use crate::guard::{self, Failure, First};
use crate::handlers::{BoxFuture, Call};
use crate::publish::{stamp, time_left, within};
use crate::slots::{Slot, Slots};
use crate::table::Entry;
use crate::{Context, HandlerError};

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
        self.check_open(origin.is_some())?;
        let candidates = if self.members.alone() {
            None
        } else {
            self.members.view().candidates(R::NAME).cloned()
        };
        let first = candidates.as_ref().map(|candidates| candidates.next());
        if let Some((entry, call)) = self.table.request::<R>()
            && first.is_none_or(|(node, _)| *node == self.node.id)
        {
            return self
                .call_here(entry, call, request, origin, self.deadline(origin))
                .await;
        }
        let first = match first {
            Some((node, _)) => Target::Node(node.clone()),
            None if self.knows_everybody() => return Err(self.no_handler::<R>()),
            // Nobody knows who is there but the broker.
            None => Target::Service(self.node.service.clone()),
        };
        let deadline = self.deadline(origin);
        let letter = self.letter(request, origin)?;
        let mut last = None;
        self.deliver::<R>(&letter, deadline, || {
            let target = match last.take() {
                None => first.clone(),
                Some(failed) => self.instead_of::<R>(failed),
            };
            last = Some(target.clone());
            target
        })
        .await
    }

    /// Where a request that failed at one node goes next: to another of those who are there by now.
    fn instead_of<R: Request>(&self, failed: Target) -> Target {
        match (&failed, self.members.view().candidates(R::NAME)) {
            (Target::Node(node), Some(candidates)) => {
                Target::Node(candidates.next_but(node).0.clone())
            }
            _ => failed,
        }
    }

    pub(crate) async fn send_to<R: Request>(
        self: &Arc<Self>,
        node: &str,
        request: R,
        origin: Option<&Context>,
    ) -> Result<R::Response, Error> {
        self.check_open(origin.is_some())?;
        let deadline = self.deadline(origin);
        if node == self.node.id.as_str() {
            return match self.table.request::<R>() {
                Some((entry, call)) => self.call_here(entry, call, request, origin, deadline).await,
                None => Err(self.no_handler::<R>()),
            };
        }
        let target = match self.members.view().node(node) {
            Some(known) => known.id.clone(),
            None if self.knows_everybody() => return Err(self.unknown_node(node)),
            None => NodeId::token(node)?,
        };
        let letter = self.letter(request, origin)?;
        self.deliver::<R>(&letter, deadline, || Target::Node(target.clone()))
            .await
    }

    pub(crate) async fn broadcast<R: Request>(
        self: &Arc<Self>,
        request: R,
    ) -> Result<Vec<Outcome<R::Response>>, Error> {
        self.check_open(false)?;
        let candidates = self.members.view().candidates(R::NAME).cloned();
        let candidates = candidates.ok_or_else(|| self.no_handler::<R>())?;
        let deadline = self.deadline(None);
        let letter = self.letter(request, None)?;
        let mut calls = JoinSet::new();
        for (node, _) in &candidates.nodes {
            let (inner, node, copy) = (Arc::clone(self), node.clone(), copy_for(&letter, node));
            calls.spawn(async move {
                let result = inner
                    .deliver::<R>(&copy, deadline, || Target::Node(node.clone()))
                    .await;
                Outcome { node, result }
            });
        }
        let mut outcomes = calls.join_all().await;
        outcomes.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(outcomes)
    }

    /// The request as it travels: encoded, with one id for all its tries.
    fn letter<R: Request>(&self, request: R, origin: Option<&Context>) -> Result<Envelope, Error> {
        if !self.capabilities.has(Capability::Requests) {
            return Err(self.unsupported(
                "send",
                Capability::Requests,
                &format!("send `{}` to another node", R::NAME),
            ));
        }
        let mut envelope = Envelope::new(request);
        envelope.id_or_new();
        if let Some(origin) = origin {
            stamp(envelope.headers_mut(), origin)?;
        }
        self.encode(&mut envelope)?;
        Ok(envelope)
    }

    /// Sends a request to where `pick` says, again and again with the same id, until it is answered,
    /// refused for good, or too late.
    async fn deliver<R: Request>(
        self: &Arc<Self>,
        letter: &Envelope,
        deadline: Option<Instant>,
        mut pick: impl FnMut() -> Target,
    ) -> Result<R::Response, Error> {
        let tries = if R::QOS == QoS::AtMostOnce {
            1
        } else {
            self.settings.request_retries.saturating_add(1)
        };
        let mut may_have_run = false;
        let mut target = pick();
        let mut attempt = 1;
        loop {
            let error = match self.try_once::<R>(&target, letter, deadline, attempt).await {
                Ok(response) => return Ok(response),
                Err(error) => error.with_context("to", &target),
            };
            may_have_run |= error.may_be_stored();
            let next = pick();
            // Where nobody listens there is nothing to wait for: somebody else at once, or nobody.
            let nobody = error.kind() == ErrorKind::NoResponders;
            let wait = if nobody {
                Duration::ZERO
            } else {
                self.settings.backoff.delay(attempt)
            };
            let in_time = deadline.is_none_or(|deadline| Instant::now() + wait < deadline);
            let in_vain = error.retry() == Retry::Never || (nobody && next == target);
            if attempt == tries || !in_time || in_vain {
                return Err(if may_have_run {
                    error.with_unknown_outcome()
                } else {
                    error
                });
            }
            tracing::debug!(request = R::NAME, %target, %next, %error, ?wait, "request failed, trying again with the same id");
            tokio::time::sleep(wait).await;
            target = next;
            attempt += 1;
        }
    }

    async fn try_once<R: Request>(
        self: &Arc<Self>,
        target: &Target,
        letter: &Envelope,
        deadline: Option<Instant>,
        attempt: u32,
    ) -> Result<R::Response, Error> {
        if let (Target::Node(node), Some((entry, call))) = (target, self.table.request::<R>())
            && *node == self.node.id
        {
            let bytes = letter.payload().as_bytes().expect("a letter is encoded");
            let request = self.codecs.decode(letter.content_type(), bytes)?;
            return self.call_here(entry, call, request, None, deadline).await;
        }
        let reply = self
            .backend
            .transport
            .request(target, letter, attempt, time_left(deadline))
            .await?;
        let Reply {
            content_type,
            result,
        } = reply;
        match result {
            Ok(bytes) => self.codecs.decode(&content_type, &bytes),
            Err(remote) => Err(remote.into_error("send")),
        }
    }

    /// Calls the handler of this node with the value: no encoding, and one allocation where the
    /// handler is ready at once.
    async fn call_here<R: Request>(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        call: &'static Call<R>,
        request: R,
        origin: Option<&Context>,
        deadline: Option<Instant>,
    ) -> Result<R::Response, Error> {
        let slots = &entry.slots;
        let slot = match Slots::try_take_for(slots) {
            Ok(slot) => slot,
            Err(slots) => match within(deadline, Slots::take(slots)).await {
                Some(slot) => slot,
                None => return Err(too_late::<R>("no place of its handler came free", false)),
            },
        };
        let mut headers = Headers::new();
        if let Some(origin) = origin {
            stamp(&mut headers, origin)?;
        }
        let context = Context::new(Arc::clone(self), None, headers, Attempt::FIRST, deadline);
        let span = span(entry, None);
        let first = {
            let _entered = span.enter();
            guard::begin(self.address(), || call.with_value(request, context))
        };
        let outcome = match first {
            First::Ended(outcome) => {
                counted(entry, &outcome);
                outcome
            }
            First::Runs(handler) => {
                let slot = slot.hand_to(Arc::clone(entry));
                match within(deadline, self.finish_in_task(slot, handler, span)).await {
                    Some(answer) => answer.unwrap_or(Err(Failure::Stopped)),
                    None => return Err(too_late::<R>("its handler still runs", true)),
                }
            }
        };
        outcome.map_err(|failure| failure.into_error("send", R::NAME))
    }

    /// Lets a handler that was not ready run on by itself, so that a caller who goes away does not
    /// cancel it half-way.
    fn finish_in_task<T: Send + 'static>(
        self: &Arc<Self>,
        slot: Slot<Arc<Entry>>,
        mut future: BoxFuture<Result<T, HandlerError>>,
        span: Span,
    ) -> oneshot::Receiver<Result<T, Failure>> {
        let (answer, receiver) = oneshot::channel();
        let inner = Arc::clone(self);
        let run = async move {
            let app = inner.address();
            let limit = slot.timeout;
            let outcome = tokio::select! {
                biased;
                outcome = poll_fn(|cx| guard::poll(app, &mut future, cx)) => outcome,
                () = inner.lifecycle.stopped() => Err(Failure::Stopped),
                () = tokio::time::sleep(limit) => Err(Failure::TimedOut(limit)),
            };
            // A handler that is dropped half-way may panic once more.
            let outcome = guard::contain(app, || drop(future)).and(outcome);
            counted(&slot, &outcome);
            drop(slot);
            // The caller may have gone.
            let _ = answer.send(outcome);
        };
        tokio::spawn(run.instrument(span));
        receiver
    }

    /// When a request is too late: its own deadline, or that of the call whose handler sends it.
    fn deadline(&self, origin: Option<&Context>) -> Option<Instant> {
        let own = self
            .settings
            .request_deadline
            .map(|limit| Instant::now() + limit);
        match (own, origin.and_then(Context::deadline)) {
            (Some(own), Some(outer)) => Some(own.min(outer)),
            (own, outer) => own.or(outer),
        }
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
        Error::new(ErrorKind::UnknownNode, "send", text)
    }
}

/// Each node's copy is a message of its own, or a shared inbox would run it once.
fn copy_for(letter: &Envelope, node: &NodeId) -> Envelope {
    let call = letter.id().expect("a letter has an id");
    letter
        .clone()
        .with_id(MessageId::from_key(&format!("{call}:{node}")))
}

fn too_late<R: Request>(why: &str, may_have_run: bool) -> Error {
    let error = Error::new(
        ErrorKind::Timeout,
        "send",
        format!("`{}` was not answered in time: {why}", R::NAME),
    );
    if may_have_run {
        error.with_unknown_outcome()
    } else {
        error
    }
}
