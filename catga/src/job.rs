//! One delivery: claim it where its inbox is ours to ask, call the handler, settle.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use catga_core::{Bytes, Claim, Delivery, Effects, Error, ErrorKind, Retry};
use tokio::time::{Instant, sleep};
use tracing::{Instrument, Span};

use crate::app::Inner;
use crate::claim;
use crate::guard::{self, Failure};
use crate::invoke::{Arrived, Running};
use crate::layered::{Calling, Ready};
use crate::origin::{Origin, Unfinished};
use crate::settle::{counted, report, settle, was_begun};
use crate::slots::Slot;
use crate::table::{Counters, Entry};
use crate::time::{FAR, after, from_now, within};
use crate::verdict::{Verdict, answer, judge};
use crate::{Attempt, Context, HandlerError};

/// Deliveries that come back so often without any verdict kill their consumers: slack beyond the attempts.
const CRASH_SLACK: u32 = 3;

/// One delivery with the place that its handler takes.
pub(crate) struct Job {
    pub(crate) inner: Arc<Inner>,
    pub(crate) slot: Slot<Arc<Entry>>,
    pub(crate) delivery: Delivery,
    received: Instant,
    /// Held in an inbox that is not the backend's own.
    pub(crate) claim: Option<Claim>,
    origin: Option<Arc<Origin>>,
}

/// The layers around a handler, where it has any, when they are ready for one call.
type Passed = Option<Result<Ready, Failure>>;

/// A handler at work.
enum Handler {
    /// Called directly.
    Direct(Running),
    /// Called through its layers.
    Layered(Calling),
}

/// A handler that was begun.
struct Started {
    handler: Handler,
    span: Span,
}

impl Job {
    pub(crate) fn new(
        inner: Arc<Inner>,
        slot: Slot<Arc<Entry>>,
        delivery: Delivery,
        received: Instant,
    ) -> Self {
        Self {
            inner,
            slot,
            delivery,
            received,
            claim: None,
            origin: None,
        }
    }

    /// Polls the handler once where it stands, and moves on with it to a task when it is not ready.
    pub(crate) fn start(mut self, passed: Passed) {
        if must_claim(&self.slot, &self.delivery) {
            drop(tokio::spawn(self.handle(passed)));
            return;
        }
        match self.begin(passed) {
            Ok(mut started) => {
                let first = {
                    let _entered = started.span.enter();
                    let mut cx = TaskContext::from_waker(Waker::noop());
                    let (inner, entry) = (&self.inner, &self.slot);
                    started
                        .handler
                        .poll(inner, entry, &mut self.origin, &mut cx)
                };
                match first {
                    Poll::Ready(outcome) => self.end(outcome),
                    Poll::Pending => drop(tokio::spawn(self.finish(started))),
                }
            }
            Err(failure) => self.end(Err(failure)),
        }
    }

    /// Claims, begins and finishes.
    pub(crate) async fn handle(self, passed: Passed) {
        let claimed = if must_claim(&self.slot, &self.delivery) {
            match self.claim().await {
                Some(claimed) => claimed.pass_layers().await,
                None => None,
            }
        } else {
            Some((self, passed))
        };
        let Some((mut this, passed)) = claimed else {
            return;
        };
        if this.inner.lifecycle.is_stopped() {
            drop(passed);
            return this.settle(Verdict::not_begun(), None).await;
        }
        match this.begin(passed) {
            Ok(started) => this.finish(started).await,
            Err(failure) => this.end(Err(failure)),
        }
    }

    /// Waits for the layers of a message that was claimed first, as long as lease and caller can wait.
    async fn pass_layers(self) -> Option<(Self, Passed)> {
        let Some(layered) = &self.slot.layered else {
            return Some((self, None));
        };
        let lease = from_now(self.inner.settings.ack_wait / 3);
        let until = self
            .deadline()
            .map_or(lease, |deadline| deadline.min(lease));
        let ready = tokio::select! {
            biased;
            // Not begun, it does not hold up the shutdown.
            () = self.inner.lifecycle.draining() => None,
            ready = within(Some(until), layered.ready()) => Some(ready),
        };
        match ready {
            None => self.settle(Verdict::not_begun(), None).await,
            Some(Some(ready)) => return Some((self, Some(ready))),
            Some(None) => {
                let text = "its layers were not ready in time".to_owned();
                let retry = Retry::Now;
                self.end(Err(Failure::Refused { text, retry }));
            }
        }
        None
    }

    /// When the caller of a request stops waiting.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.delivery
            .time_left()
            .map(|left| after(self.received, left))
    }

    fn attempt(&self) -> Attempt {
        let limit = self.slot.attempts;
        match &self.claim {
            Some(claim) => Attempt::told(claim.attempt, limit, claim.may_have_run),
            None => {
                let delivery = &self.delivery;
                Attempt::told(delivery.count(), limit, delivery.may_have_run())
            }
        }
    }

    /// Decodes the message and calls the handler.
    fn begin(&mut self, passed: Passed) -> Result<Started, Failure> {
        let entry: &Arc<Entry> = &self.slot;
        let deadline = self.deadline();
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(Failure::Expired);
        }
        let attempt = self.attempt();
        let most = entry.attempts.saturating_add(CRASH_SLACK);
        if !entry.is_request() && attempt.number() > most {
            return Err(Failure::Crashed(attempt.number()));
        }
        let acknowledged = self.delivery.is_acknowledged();
        let envelope = self.delivery.envelope_mut();
        let payload = if acknowledged {
            envelope.payload().clone()
        } else {
            envelope.take_payload()
        };
        let (id, headers) = (envelope.id(), envelope.headers().clone());
        if entry.claims && id.is_none() {
            return Err(Failure::Decode(no_id(entry)));
        }
        let again = id.filter(|_| acknowledged);
        let claimed = self.claim.is_some() || self.delivery.is_claimed();
        self.origin = again.map(|id| Arc::new(Origin::new(id, Arc::clone(entry), claimed)));
        let span = span(entry, id);
        let context = Context::new(
            Arc::clone(&self.inner),
            id,
            headers,
            attempt,
            deadline,
            self.origin.clone(),
        );
        let envelope = self.delivery.envelope();
        if let (Some(layered), Some(ready)) = (&entry.layered, passed) {
            let call = layered.call(payload, envelope.version(), context);
            let calling = span.in_scope(|| ready.and_then(|ready| ready.call(call)))?;
            let handler = Handler::Layered(calling);
            return Ok(Started { handler, span });
        }
        let arrived = Arrived {
            payload,
            version: envelope.version(),
            content_type: envelope.content_type(),
            codecs: &self.inner.codecs,
        };
        let def = &entry.def;
        let running = {
            let _entered = span.enter();
            guard::contain(self.inner.address(), || {
                (def.message.run)(&*def.call, arrived, context)
            })?
        };
        Ok(Started {
            handler: Handler::Direct(running.map_err(Failure::Decode)?),
            span,
        })
    }

    /// Runs the handler to its end, or to the end of its time, with the lease renewed meanwhile.
    async fn finish(mut self, started: Started) {
        let Started { handler, span } = started;
        let outcome = self.run(handler).instrument(span).await;
        self.end(outcome);
    }

    async fn run(&mut self, mut handler: Handler) -> Result<Option<Bytes>, Failure> {
        let (inner, entry, app) = (&self.inner, &self.slot, self.inner.address());
        // Layers bring their own: the time of each call that they make.
        let limit = match handler {
            Handler::Direct(_) => entry.timeout,
            Handler::Layered(_) => FAR,
        };
        let outcome = {
            let handling = guard::finish(inner, limit, |cx| {
                handler.poll(inner, entry, &mut self.origin, cx)
            });
            let lease = keep_lease(inner, &mut self.delivery, self.claim.as_mut());
            tokio::select! {
                biased;
                outcome = handling => outcome,
                () = lease => unreachable!("the lease is kept for as long as the handler runs"),
            }
        };
        // A handler that is dropped half-way may panic once more.
        guard::contain(app, || drop(handler))?;
        outcome
    }

    /// What the handler wrote to be committed, when it succeeded.
    fn effects(&self) -> Result<Option<Effects>, Failure> {
        let taken = self.origin.as_ref().map_or(Ok(None), |o| o.effects.take());
        taken.map_err(|Unfinished| Failure::Handler {
            text: "its `Commit` was still in use when it returned, so that nothing could be committed: keep it in the handler".to_owned(),
            retry: Retry::Never,
        })
    }

    /// Judges the outcome and settles: the only place that acks, naks, terms or dead-letters.
    fn end(self, outcome: Result<Option<Bytes>, Failure>) {
        let (outcome, effects) = match outcome.and_then(|response| Ok((response, self.effects()?)))
        {
            Ok((response, effects)) => (Ok(response), effects),
            Err(failure) => (Err(failure), None),
        };
        counted(&self.slot, &outcome);
        if !self.delivery.is_acknowledged() {
            if let Err(failure) = &outcome {
                if !was_begun(failure) {
                    Counters::add(&self.slot.counters.dropped);
                }
                let number = self.delivery.count();
                let fate = "is lost, as at_most_once allows";
                report(&self.slot, &self.delivery, number, failure, fate);
            }
            return;
        }
        let verdict = if self.slot.is_request() {
            answer(&self.inner, &self.slot, outcome)
        } else {
            judge(&self.slot, &self.delivery, self.attempt().number(), outcome)
        };
        // An ack is queued and ready at once; what takes a round trip goes on in a task, and keeps
        // its place until it is done.
        let mut settling = Box::pin(self.settle(verdict, effects));
        if settling
            .as_mut()
            .poll(&mut TaskContext::from_waker(Waker::noop()))
            .is_pending()
        {
            tokio::spawn(settling);
        }
    }

    async fn settle(self, verdict: Verdict, effects: Option<Effects>) {
        let Self {
            inner,
            slot,
            delivery,
            claim,
            ..
        } = self;
        let settlement = match claim {
            None => verdict.committing(delivery.is_claimed(), effects),
            Some(claim) => claim::conclude(&inner, &slot, &claim, verdict, effects).await,
        };
        settle(&slot, delivery, settlement).await;
    }
}

fn no_id(entry: &Entry) -> Error {
    let text = format!(
        "a `{}` without an id cannot be told from its duplicates: publish it with one",
        entry.message
    );
    Error::new(ErrorKind::Decode, "decode", text)
}

impl Handler {
    /// Polls once. A handler that its layers called more than once, each time with an origin of its own,
    /// leaves that of the call which succeeded.
    fn poll(
        &mut self,
        inner: &Inner,
        entry: &Entry,
        origin: &mut Option<Arc<Origin>>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Result<Option<Bytes>, Failure>> {
        let app = inner.address();
        match self {
            Self::Direct(Running::Event(handler)) => {
                guard::poll(app, handler, cx).map(|outcome| outcome.map(|()| None))
            }
            Self::Direct(Running::Request(handler)) => {
                guard::poll(app, handler, cx).map(|outcome| outcome.map(Some))
            }
            Self::Layered(calling) => Pin::new(&mut *calling).poll(cx).map(|outcome| {
                let (reply, won) = (outcome?, calling.won());
                *origin = reply.origin.clone().or(won).or_else(|| origin.take());
                // The response's drop is the user's code, as its encoding is.
                let bytes = guard::contain(app, || {
                    let name = entry.message.as_str();
                    let bytes = entry
                        .is_request()
                        .then(|| reply.encode(&inner.codecs, name));
                    drop(reply);
                    bytes
                })?;
                let failed = |error| Failure::returned(app, HandlerError::terminal(error));
                bytes.transpose().map_err(failed)
            }),
        }
    }
}

/// Whether nobody may handle a message before an inbox was asked.
pub(crate) fn must_claim(entry: &Entry, delivery: &Delivery) -> bool {
    entry.claims && delivery.is_acknowledged() && !delivery.is_claimed()
}

/// Tells the broker, and the inbox that holds the claim, from time to time that the handler still runs;
/// never ends. Each word has a time-out of its own, so that one which is lost leaves time for another.
async fn keep_lease(inner: &Inner, delivery: &mut Delivery, mut claim: Option<&mut Claim>) {
    if !delivery.is_acknowledged() {
        std::future::pending::<()>().await;
    }
    let ack_wait = inner.settings.ack_wait;
    let id = delivery.envelope().id();
    let name = delivery.envelope().name().clone();
    let mut wait = ack_wait / 3;
    loop {
        sleep(wait).await;
        let renew = async {
            match (&mut claim, &inner.backend.inbox) {
                (Some(claim), Some(inbox)) => {
                    claim::in_time(ack_wait / 6, "renew", inbox.renew(claim, ack_wait)).await
                }
                _ => Ok(()),
            }
        };
        let extend = claim::in_time(ack_wait / 6, "extend", delivery.extend());
        let (extended, renewed) = tokio::join!(extend, renew);
        let Err(error) = extended.and(renewed) else {
            wait = ack_wait / 3;
            continue;
        };
        if error.retry() == Retry::Never {
            tracing::warn!(messaging.destination.name = %name, messaging.message.id = id.map(display), %error, "the lease is lost; another member may handle the message too");
            std::future::pending::<()>().await;
        }
        tracing::debug!(%error, "the lease could not be renewed, trying again");
        wait = ack_wait / 12;
    }
}

/// The span of one handling ([OpenTelemetry, messaging spans](https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/)).
#[inline]
pub(crate) fn span(entry: &Entry, id: Option<catga_core::MessageId>) -> Span {
    tracing::info_span!(
        "process",
        messaging.operation.type = "process",
        messaging.destination.name = entry.message.as_str(),
        messaging.consumer.group.name = entry.group.as_str(),
        messaging.message.id = id.map(display),
    )
}
