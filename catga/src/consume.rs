//! The whole way in: receive, call the handler, settle.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::{Duration, Instant as WallInstant};

use catga_core::{
    Bytes, Completion, Delivery, ErrorKind, QoS, Reason, RemoteError, Reply, Retry, Settlement,
    Subscription,
};
use tokio::time::Instant;
use tracing::{Instrument, Span};

use crate::Context;
use crate::app::Inner;
use crate::context::Attempt;
use crate::guard::{self, Failure};
use crate::handlers::Running;
use crate::slots::{Slot, Slots};
use crate::table::{Counters, Entry};
use crate::time::after;

/// The most messages in one batch.
const BATCH: usize = 256;

/// A handler whose first poll takes longer burns CPU, and the rest of its batch goes to other cores.
const LONG_POLL: Duration = Duration::from_micros(20);

/// Deliveries that come back so often without any verdict kill their consumers: slack beyond the attempts.
const CRASH_SLACK: u32 = 3;

/// Receives for one handler until the application drains.
pub(crate) async fn run(
    inner: Arc<Inner>,
    entry: Arc<Entry>,
    mut subscription: Box<dyn Subscription>,
) {
    // Also when it ends by a panic, which none of the steps below should let through.
    let _ended = Ended(Arc::clone(&entry));
    let mut batch = Vec::new();
    let mut errors = 0;
    let draining = inner.lifecycle.draining();
    tokio::pin!(draining);
    loop {
        let fetch = async {
            entry.slots.wait_for_free().await;
            subscription
                .recv(entry.slots.free().clamp(1, BATCH), &mut batch)
                .await
        };
        let received = tokio::select! {
            biased;
            () = &mut draining => break,
            received = fetch => received,
        };
        note_drops(&entry, &*subscription);
        match received {
            Ok(()) => errors = 0,
            Err(error) if error.kind() == ErrorKind::Closed => {
                tracing::warn!(messaging.destination.name = %entry.message, messaging.consumer.group.name = %entry.group, %error, "the subscription ended");
                break;
            }
            Err(error) => {
                errors += 1;
                let wait = entry.backoff.delay(errors);
                tracing::warn!(messaging.destination.name = %entry.message, messaging.consumer.group.name = %entry.group, %error, ?wait, "receiving failed, trying again");
                tokio::select! {
                    biased;
                    () = &mut draining => break,
                    () = tokio::time::sleep(wait) => {}
                }
            }
        }
        handle_all(&inner, &entry, &mut batch).await;
    }
    if let Err(error) = subscription.close().await {
        tracing::warn!(messaging.destination.name = %entry.message, messaging.consumer.group.name = %entry.group, %error, "the subscription could not be closed");
    }
    note_drops(&entry, &*subscription);
    handle_all(&inner, &entry, &mut batch).await;
}

/// The subscription counts what it drops; whoever asks the handler finds it there.
fn note_drops(entry: &Entry, subscription: &dyn Subscription) {
    let dropped = subscription.stats().dropped;
    entry.counters.dropped.store(dropped, Ordering::Relaxed);
}

/// Marks a handler whose messages arrive no more.
struct Ended(Arc<Entry>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

/// Starts the handler for each delivery of a batch, as places come free; gives back what is not
/// started when the application drains.
async fn handle_all(inner: &Arc<Inner>, entry: &Arc<Entry>, batch: &mut Vec<Delivery>) {
    let received = Instant::now();
    let mut in_place = true;
    for (i, delivery) in batch.drain(..).enumerate() {
        let Some(slot) = place(inner, entry).await else {
            settle(entry, delivery, Settlement::Release { began: false }).await;
            continue;
        };
        let job = Job {
            inner: Arc::clone(inner),
            slot,
            delivery,
            received,
        };
        if in_place {
            // One of four is timed, the first among them: the clock costs as much as a short handler.
            let began = i.is_multiple_of(4).then(WallInstant::now);
            job.start();
            in_place = began.is_none_or(|began| began.elapsed() < LONG_POLL);
        } else {
            tokio::spawn(job.finish(None));
        }
    }
}

/// A place for one more call; none once the application drains.
async fn place(inner: &Inner, entry: &Arc<Entry>) -> Option<Slot<Arc<Entry>>> {
    if !inner.lifecycle.is_running() {
        return None;
    }
    match Slots::try_take_for(Arc::clone(entry)) {
        Ok(slot) => Some(slot),
        Err(entry) => tokio::select! {
            biased;
            () = inner.lifecycle.draining() => None,
            slot = Slots::take(entry) => Some(slot),
        },
    }
}

/// One delivery with the place that its handler takes.
struct Job {
    inner: Arc<Inner>,
    slot: Slot<Arc<Entry>>,
    delivery: Delivery,
    received: Instant,
}

/// What a handler is at before it is finished.
struct Started {
    running: Running,
    span: Span,
}

impl Job {
    /// Polls the handler once where it stands, and moves on with it to a task when it is not ready.
    fn start(mut self) {
        match self.begin() {
            Ok(mut started) => {
                let first = {
                    let _entered = started.span.enter();
                    let app = self.inner.address();
                    started
                        .running
                        .poll(app, &mut TaskContext::from_waker(Waker::noop()))
                };
                match first {
                    Poll::Ready(outcome) => self.end(outcome),
                    Poll::Pending => drop(tokio::spawn(self.finish(Some(started)))),
                }
            }
            Err(failure) => self.end(Err(failure)),
        }
    }

    /// Decodes the message and calls the handler.
    fn begin(&mut self) -> Result<Started, Failure> {
        let entry: &Arc<Entry> = &self.slot;
        let time_left = self.delivery.time_left();
        let deadline = time_left.map(|left| after(self.received, left));
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(Failure::Expired);
        }
        let count = self.delivery.count();
        if !entry.is_request() && count > entry.attempts.saturating_add(CRASH_SLACK) {
            return Err(Failure::Crashed(count));
        }
        let acknowledged = self.delivery.is_acknowledged();
        let envelope = self.delivery.envelope_mut();
        let payload = if acknowledged {
            envelope.payload().clone()
        } else {
            envelope.take_payload()
        };
        let (id, headers) = (envelope.id(), envelope.headers().clone());
        let span = span(entry, id);
        let attempt = Attempt::new(count, entry.attempts);
        let context = Context::new(Arc::clone(&self.inner), id, headers, attempt, deadline);
        let (def, codecs) = (entry.def, &self.inner.codecs);
        let running = {
            let _entered = span.enter();
            let content_type = self.delivery.envelope().content_type();
            guard::contain(self.inner.address(), || {
                (def.run)(def.call, payload, content_type, context, codecs)
            })?
        };
        Ok(Started {
            running: running.map_err(Failure::Decode)?,
            span,
        })
    }

    /// Runs the handler to its end, or to the end of its time, with the lease renewed meanwhile.
    async fn finish(mut self, started: Option<Started>) {
        let started = match started {
            Some(started) => Ok(started),
            None => self.begin(),
        };
        let outcome = match started {
            Ok(Started { running, span }) => self.run(running).instrument(span).await,
            Err(failure) => Err(failure),
        };
        self.end(outcome);
    }

    async fn run(&mut self, mut running: Running) -> Result<Option<Bytes>, Failure> {
        let (inner, app) = (&self.inner, self.inner.address());
        let outcome = {
            let handler = guard::finish(inner, self.slot.timeout, |cx| running.poll(app, cx));
            let lease = keep_lease(&mut self.delivery, inner.settings.ack_wait);
            tokio::select! {
                biased;
                outcome = handler => outcome,
                () = lease => unreachable!("the lease is kept for as long as the handler runs"),
            }
        };
        // A handler that is dropped half-way may panic once more.
        guard::contain(app, || drop(running))?;
        outcome
    }

    /// Judges the outcome and settles: the only place that acks, naks, terms or dead-letters.
    fn end(self, outcome: Result<Option<Bytes>, Failure>) {
        let Self {
            inner,
            slot,
            delivery,
            ..
        } = self;
        counted(&slot, &outcome);
        if !delivery.is_acknowledged() {
            if let Err(failure) = &outcome {
                report(&slot, &delivery, failure, "is lost, as at_most_once allows");
            }
            return;
        }
        let settlement = if slot.is_request() {
            answer(&inner, &slot, outcome)
        } else {
            verdict(&slot, &delivery, outcome)
        };
        // An ack is queued and ready at once; what takes a round trip goes on in a task, and keeps
        // its place until it is done.
        let mut settling = Box::pin(async move { settle(&slot, delivery, settlement).await });
        if settling
            .as_mut()
            .poll(&mut TaskContext::from_waker(Waker::noop()))
            .is_pending()
        {
            tokio::spawn(settling);
        }
    }
}

impl Running {
    fn poll(
        &mut self,
        app: usize,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Result<Option<Bytes>, Failure>> {
        match self {
            Self::Event(handler) => {
                guard::poll(app, handler, cx).map(|outcome| outcome.map(|()| None))
            }
            Self::Request(handler) => {
                guard::poll(app, handler, cx).map(|outcome| outcome.map(Some))
            }
        }
    }
}

/// What an event's outcome means for its message.
fn verdict(
    entry: &Entry,
    delivery: &Delivery,
    outcome: Result<Option<Bytes>, Failure>,
) -> Settlement {
    let failure = match outcome {
        Ok(_) => return Settlement::Ack,
        Err(Failure::Stopped) => return Settlement::Release { began: true },
        Err(failure) => failure,
    };
    if failure.is_final() || delivery.count() >= entry.attempts {
        report(entry, delivery, &failure, "goes to the dead letters");
        let reason = Reason::new(failure.reason_kind(), failure.to_string());
        return Settlement::DeadLetter {
            reason,
            claim: None,
        };
    }
    let after = failure
        .delay()
        .unwrap_or_else(|| entry.backoff.delay(delivery.count()));
    report(entry, delivery, &failure, "is delivered again");
    Settlement::Nak { after }
}

/// What a request's outcome means for its caller.
fn answer(inner: &Inner, entry: &Entry, outcome: Result<Option<Bytes>, Failure>) -> Settlement {
    let reply = match outcome {
        Ok(bytes) => {
            let content_type = inner.codecs.writer().content_type();
            Reply::ok(bytes.unwrap_or_default()).with_content_type(content_type)
        }
        // Another node may have the time that this one has not; a single try was this one.
        Err(Failure::Stopped) if entry.def.message.qos != QoS::AtMostOnce => {
            return Settlement::Release { began: true };
        }
        Err(failure) => Reply::err(RemoteError::new(
            &failure.into_error(entry.message.as_str()),
        )),
    };
    Settlement::Complete(Completion::new().with_response(reply))
}

async fn settle(entry: &Entry, delivery: Delivery, settlement: Settlement) {
    let (id, count) = (delivery.envelope().id(), delivery.count());
    let counter = match &settlement {
        Settlement::Nak { .. } => Some(&entry.counters.retried),
        Settlement::DeadLetter { .. } => Some(&entry.counters.dead_lettered),
        _ => None,
    };
    match delivery.settle(settlement).await {
        Ok(()) => counter.into_iter().for_each(Counters::add),
        // The broker still has the message, and delivers it again when the lease runs out.
        Err(error) => tracing::warn!(
            messaging.destination.name = %entry.message,
            messaging.consumer.group.name = %entry.group,
            messaging.message.id = id.map(display),
            count,
            %error,
            "a delivery could not be settled"
        ),
    }
}

/// Tells the broker from time to time that the handler still runs; never ends.
async fn keep_lease(delivery: &mut Delivery, ack_wait: Duration) {
    if !delivery.is_acknowledged() {
        std::future::pending::<()>().await;
    }
    loop {
        tokio::time::sleep(ack_wait / 3).await;
        match delivery.extend().await {
            Ok(()) => {}
            Err(error) if error.retry() == Retry::Never => {
                let id = delivery.envelope().id();
                tracing::warn!(messaging.destination.name = %delivery.envelope().name(), messaging.message.id = id.map(display), %error, "the lease is lost; another member may handle the message too");
                std::future::pending::<()>().await;
            }
            Err(error) => tracing::debug!(%error, "the lease could not be renewed, trying again"),
        }
    }
}

/// Counts an outcome.
pub(crate) fn counted<T>(entry: &Entry, outcome: &Result<T, Failure>) {
    match outcome {
        Ok(_) => Counters::add(&entry.counters.handled),
        // Given back or never begun, not failed.
        Err(Failure::Stopped | Failure::Expired) => {}
        Err(_) => Counters::add(&entry.counters.failed),
    }
}

fn report(entry: &Entry, delivery: &Delivery, failure: &Failure, fate: &'static str) {
    tracing::warn!(
        handler = entry.def.site.name,
        messaging.destination.name = %entry.message,
        messaging.consumer.group.name = %entry.group,
        messaging.message.id = delivery.envelope().id().map(display),
        count = delivery.count(),
        attempts = entry.attempts,
        error = %failure,
        "handler failed; the message {fate}"
    );
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
