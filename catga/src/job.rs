//! One delivery: claim it where its inbox is ours to ask, call the handler, settle.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use catga_core::{Bytes, Claim, Delivery, Effects, Error, ErrorKind, Retry, Settlement};
use tokio::time::{Instant, sleep};
use tracing::Span;

use crate::app::Inner;
use crate::claim;
use crate::guard::{self, Failure, First};
use crate::invoke::{Arrived, BoxFuture};
use crate::layered::{Calling, Ready};
use crate::metrics::Clock;
use crate::origin::{Origin, Unfinished};
use crate::seat::Caller;
use crate::settle::{counted, report, settle, try_settle, was_begun};
use crate::slots::Slot;
use crate::table::{Counters, Entry};
use crate::time::{FAR, after, from_now, within};
use crate::trace;
use crate::verdict::{Verdict, answer, judge};
use crate::{Attempt, Context, HandlerError};

/// Deliveries that come back so often without any verdict kill their consumers: slack beyond the attempts.
const CRASH_SLACK: u32 = 3;

/// One delivery with the place that its handler takes. When it is done with, the place is that of the next.
pub(crate) struct Job {
    pub(crate) inner: Arc<Inner>,
    pub(crate) slot: Slot<Arc<Entry>>,
    pub(crate) delivery: Delivery,
    received: Instant,
    /// Held in an inbox that is not the backend's own.
    pub(crate) claim: Option<Claim>,
    origin: Option<Arc<Origin>>,
    /// Since when the handler runs.
    began: Clock,
}

/// The layers around a handler, where it has any, when they are ready for one call.
pub(crate) type Passed = Option<Result<Ready, Failure>>;

/// A handler at work.
pub(crate) enum Handler {
    /// Called directly.
    Direct(BoxFuture<Result<Option<Bytes>, HandlerError>>),
    /// Called through its layers.
    Layered(Calling),
}

/// What is left to be done of a job, in a task of its own.
pub(crate) enum Left {
    /// All of it.
    Handle(Passed),
    /// The handler waits for something.
    Finish(Handler, Span),
    /// It is to be settled, and that has to be waited for.
    Settle(Unsettled),
}

/// How a job is settled that could not be at once.
pub(crate) enum Unsettled {
    /// As the store of the claim says.
    Claimed(Verdict, Option<Effects>),
    Unclaimed(Settlement),
}

/// A handler that was begun, and polled once.
enum Begun {
    /// It was ready at once.
    Ended(Result<Option<Bytes>, Failure>),
    /// It waits for something.
    Runs(Handler, Span),
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
            began: Clock::default(),
        }
    }

    /// Goes on to the next delivery of the same batch, in the same place.
    pub(crate) fn next(&mut self, delivery: Delivery) {
        self.delivery = delivery;
        self.origin = None;
        self.began = Clock::default();
    }

    /// Polls the handler once where it stands, and settles. What is left where that was not all is for a task.
    pub(crate) fn start(&mut self, caller: &mut dyn Caller, passed: Passed) -> Option<Left> {
        if must_claim(&self.slot, &self.delivery) {
            return Some(Left::Handle(passed));
        }
        match self.begin(caller, passed) {
            Begun::Ended(outcome) => self.end(outcome).map(Left::Settle),
            Begun::Runs(handler, span) => Some(Left::Finish(handler, span)),
        }
    }

    /// Does what is left in a task of its own: in a box, as every future on the way would move it once more.
    pub(crate) fn go_on(self, left: Left) {
        let job = Box::new(self);
        match left {
            Left::Handle(passed) => tokio::spawn(job.handle(passed)),
            Left::Finish(handler, span) => tokio::spawn(job.finish(handler, span)),
            Left::Settle(unsettled) => tokio::spawn(job.settle(unsettled)),
        };
    }

    /// Claims, begins and finishes.
    async fn handle(self: Box<Self>, passed: Passed) {
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
            return this.not_begun().await;
        }
        let mut caller = this.slot.caller();
        match this.begin(&mut *caller, passed) {
            Begun::Ended(outcome) => this.conclude(outcome).await,
            Begun::Runs(handler, span) => this.finish(handler, span).await,
        }
    }

    /// Waits for the layers of a message that was claimed first, as long as lease and caller can wait.
    async fn pass_layers(self: Box<Self>) -> Option<(Box<Self>, Passed)> {
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
            () = self.inner.lifecycle.draining(&self.slot) => None,
            ready = within(Some(until), layered.ready()) => Some(ready),
        };
        match ready {
            None => self.not_begun().await,
            Some(Some(ready)) => return Some((self, Some(ready))),
            Some(None) => {
                let text = "its layers were not ready in time".to_owned();
                let retry = Retry::Now;
                self.conclude(Err(Failure::Refused { text, retry })).await;
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

    /// Decodes the message, calls the handler and polls it once.
    fn begin(&mut self, caller: &mut dyn Caller, passed: Passed) -> Begun {
        self.try_begin(caller, passed)
            .unwrap_or_else(|failure| Begun::Ended(Err(failure)))
    }

    fn try_begin(&mut self, caller: &mut dyn Caller, passed: Passed) -> Result<Begun, Failure> {
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
        let span = trace::processing(self.inner.backend.name, entry, id);
        trace::follow(&span, &headers);
        self.began = entry.metrics.clock();
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
            let entered = span.enter();
            let mut handler = Handler::Layered(ready?.call(call)?);
            let mut cx = TaskContext::from_waker(Waker::noop());
            let first = handler.poll(&self.inner, entry, &mut self.origin, &mut cx);
            drop(entered);
            return Ok(match first {
                Poll::Ready(outcome) => {
                    trace::ended(&span, &outcome);
                    Begun::Ended(outcome)
                }
                Poll::Pending => Begun::Runs(handler, span),
            });
        }
        let arrived = Arrived {
            payload,
            version: envelope.version(),
            content_type: envelope.content_type(),
            codecs: &self.inner.codecs,
        };
        let first = span.in_scope(|| caller.begin(self.inner.address(), arrived, context));
        Ok(match first {
            First::Ended(outcome) => {
                trace::ended(&span, &outcome);
                Begun::Ended(outcome)
            }
            First::Runs(handler) => Begun::Runs(Handler::Direct(handler), span),
        })
    }

    /// Runs the handler to its end, or to the end of its time, with the lease renewed meanwhile.
    async fn finish(mut self: Box<Self>, handler: Handler, span: Span) {
        let outcome = trace::finished(span, self.run(handler)).await;
        self.conclude(outcome).await;
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

    /// Judges the outcome and settles, however long that takes.
    async fn conclude(mut self: Box<Self>, outcome: Result<Option<Bytes>, Failure>) {
        if let Some(unsettled) = self.end(outcome) {
            self.settle(unsettled).await;
        }
    }

    /// Judges the outcome and settles: the only place that acks, naks, terms or dead-letters. What has to be waited for
    /// is left.
    fn end(&mut self, outcome: Result<Option<Bytes>, Failure>) -> Option<Unsettled> {
        let (outcome, effects) = match outcome.and_then(|response| Ok((response, self.effects()?)))
        {
            Ok((response, effects)) => (Ok(response), effects),
            Err(failure) => (Err(failure), None),
        };
        counted(&self.slot, &outcome);
        self.slot.metrics.processed(self.began, &outcome);
        if !self.delivery.is_acknowledged() {
            if let Err(failure) = &outcome {
                if !was_begun(failure) {
                    Counters::add(&self.slot.counters.dropped);
                }
                let number = self.delivery.count();
                let fate = "is lost, as at_most_once allows";
                report(&self.slot, &self.delivery, number, failure, fate);
            }
            return None;
        }
        let verdict = if self.slot.is_request() {
            answer(&self.inner, &self.slot, outcome)
        } else {
            judge(&self.slot, &self.delivery, self.attempt().number(), outcome)
        };
        let unsettled = self.unsettled(verdict, effects);
        if let Unsettled::Unclaimed(settlement) = &unsettled
            && try_settle(&self.slot, &mut self.delivery, settlement)
        {
            return None;
        }
        Some(unsettled)
    }

    fn unsettled(&self, verdict: Verdict, effects: Option<Effects>) -> Unsettled {
        if self.claim.is_some() {
            Unsettled::Claimed(verdict, effects)
        } else {
            Unsettled::Unclaimed(verdict.committing(self.delivery.is_claimed(), effects))
        }
    }

    /// Settles what is not to be begun here.
    async fn not_begun(self: Box<Self>) {
        let unsettled = self.unsettled(Verdict::not_begun(), None);
        self.settle(unsettled).await;
    }

    /// Settles, and keeps its place until that is done.
    #[expect(
        clippy::manual_async_fn,
        reason = "an `async fn` would keep what it is given twice"
    )]
    fn settle(
        self: Box<Self>,
        mut unsettled: Unsettled,
    ) -> impl Future<Output = ()> + Send + use<> {
        async move {
            if let Unsettled::Claimed(verdict, effects) = &mut unsettled
                && let Some(instead) = claim::conclude(&self, verdict, effects.as_ref()).await
            {
                verdict.settlement = instead;
            }
            let (Unsettled::Unclaimed(settlement)
            | Unsettled::Claimed(Verdict { settlement, .. }, _)) = unsettled;
            let Self { slot, delivery, .. } = *self;
            settle(&slot, delivery, settlement).await;
        }
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
            Self::Direct(handler) => guard::poll(app, handler, cx),
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
    // The claim's is the shorter one.
    let lease = match claim {
        Some(_) => claim::lease(inner, delivery),
        None => inner.settings.ack_wait,
    };
    let id = delivery.envelope().id();
    let name = delivery.envelope().name().clone();
    let mut wait = lease / 3;
    loop {
        sleep(wait).await;
        let renew = async {
            match (&mut claim, &inner.backend.inbox) {
                (Some(claim), Some(inbox)) => {
                    claim::in_time(lease / 6, "renew", inbox.renew(claim, lease)).await
                }
                _ => Ok(()),
            }
        };
        let extend = claim::in_time(lease / 6, "extend", delivery.extend());
        let (extended, renewed) = tokio::join!(extend, renew);
        let Err(error) = extended.and(renewed) else {
            wait = lease / 3;
            continue;
        };
        if error.retry() == Retry::Never {
            tracing::warn!(messaging.destination.name = %name, messaging.message.id = id.map(display), %error, "the lease is lost; another member may handle the message too");
            std::future::pending::<()>().await;
        }
        tracing::debug!(%error, "the lease could not be renewed, trying again");
        wait = lease / 12;
    }
}
