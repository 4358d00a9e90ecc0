//! The way in: receive, find a place, and let [`job`](crate::job) handle and settle each delivery.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant as WallInstant};

use catga_core::{Delivery, ErrorKind, Subscription};
use tokio::time::Instant;

use crate::app::Inner;
use crate::guard::Failure;
use crate::job::{Job, Left, must_claim};
use crate::layered::{Layered, Ready};
use crate::seat::Caller;
use crate::settle::give_back;
use crate::slots::{Slot, Slots};
use crate::table::Entry;
use crate::time::{after, within};

/// The most messages in one batch.
const BATCH: usize = 256;

/// A handler whose first poll takes longer burns CPU, and the rest of its batch goes to other cores.
const LONG_POLL: Duration = Duration::from_micros(20);
/// One of so many is timed, the first among them: the clock costs as much as a short handler.
const TIMED: usize = 16;

/// Receives for one handler until the application drains.
pub(crate) async fn run(
    inner: Arc<Inner>,
    entry: Arc<Entry>,
    mut subscription: Box<dyn Subscription>,
) {
    // Also when it ends by a panic, which none of the steps below should let through.
    let _ended = Ended(Arc::clone(&entry));
    let mut batch = Vec::new();
    let mut caller = entry.caller();
    let mut errors = 0;
    let mut left = Vec::new();
    let mut limit = entry.slots.limit();
    let mut at_once = if entry.layered.is_some() { 1 } else { BATCH };
    // Nobody else subscribes for this handler: the first is the one.
    let _ = entry.subscription.set(subscription.stats_reader());
    let draining = inner.lifecycle.draining(&entry);
    tokio::pin!(draining);
    loop {
        let fetch = async {
            if let Some(layered) = &entry.layered {
                layered.open().await;
            }
            entry.slots.wait_for_free().await;
            if limit != entry.slots.limit() {
                limit = entry.slots.limit();
                subscription.set_max_in_flight(limit);
            }
            let most = entry.slots.free().clamp(1, at_once);
            subscription.recv(most, &mut batch).await
        };
        let received = tokio::select! {
            biased;
            () = &mut draining => break,
            received = fetch => received,
        };
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
        let (waited, back) = handle_all(&inner, &entry, &mut *caller, &mut batch).await;
        if !inner.lifecycle.takes_for(&entry) {
            left = back;
            break;
        }
        give_all_back(&entry, back).await;
        // Those behind it went back: one at a time, until layers are ready at once again.
        at_once = if waited { 1 } else { (at_once * 2).min(BATCH) };
    }
    if let Err(error) = subscription.close().await {
        tracing::warn!(messaging.destination.name = %entry.message, messaging.consumer.group.name = %entry.group, %error, "the subscription could not be closed");
    }
    // Not before: the broker might hand it to this very subscription again.
    give_all_back(&entry, left).await;
    let (_, back) = handle_all(&inner, &entry, &mut *caller, &mut batch).await;
    give_all_back(&entry, back).await;
}

/// Marks a handler whose messages arrive no more.
struct Ended(Arc<Entry>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

/// Starts the handler for each delivery of a batch, as places come free. Whether layers made them wait, and what cannot be
/// started, with all behind it: when the application drains, the handler is paused or its layers make it wait.
async fn handle_all(
    inner: &Arc<Inner>,
    entry: &Arc<Entry>,
    caller: &mut dyn Caller,
    batch: &mut Vec<Delivery>,
) -> (bool, Vec<Delivery>) {
    let received = Instant::now();
    let (mut in_place, mut waited) = (true, false);
    // That of the delivery before, which was done with at once: the next takes its place.
    let mut kept: Option<Job> = None;
    let mut back = Vec::new();
    for (i, delivery) in batch.drain(..).enumerate() {
        let until = patience(inner, received, &delivery);
        if !back.is_empty() && until.is_some() {
            back.push(delivery);
            continue;
        }
        // Who waits for layers holds no place meanwhile.
        let keeps = entry.layered.is_none() && entry.slots.may_keep();
        if !(keeps && inner.lifecycle.takes_for(entry)) {
            kept = None;
        }
        let passed = match &entry.layered {
            // Who is to claim first asks the layers afterwards: their turn is not held meanwhile.
            Some(layered) if !must_claim(entry, &delivery) => {
                match let_through(inner, entry, layered, until, &mut waited).await {
                    Some(ready) => Some(ready),
                    None => {
                        back.push(delivery);
                        continue;
                    }
                }
            }
            _ => None,
        };
        match &mut kept {
            Some(job) => job.next(delivery),
            none => match place(inner, entry, until).await {
                Some(slot) => *none = Some(Job::new(Arc::clone(inner), slot, delivery, received)),
                None => {
                    back.push(delivery);
                    continue;
                }
            },
        }
        let job = kept.as_mut().expect("set above");
        let left = if in_place {
            let began = i.is_multiple_of(TIMED).then(WallInstant::now);
            let left = job.start(caller, passed);
            in_place = began.is_none_or(|began| began.elapsed() < LONG_POLL);
            left
        } else {
            Some(Left::Handle(passed))
        };
        if let Some((job, left)) = left.and_then(|left| Some((kept.take()?, left))) {
            job.go_on(left);
        }
    }
    (waited, back)
}

/// Gives back what could not be started, in its order: each goes in front of those that went back before it.
async fn give_all_back(entry: &Entry, deliveries: Vec<Delivery>) {
    for delivery in deliveries.into_iter().rev() {
        give_back(entry, delivery).await;
    }
}

/// Until when a delivery may wait here before it is given back: its lease runs. One that nobody would take
/// back waits, and its subscription drops the oldest meanwhile.
fn patience(inner: &Inner, received: Instant, delivery: &Delivery) -> Option<Instant> {
    let limit = inner.settings.ack_wait / 3;
    delivery.is_acknowledged().then(|| after(received, limit))
}

/// Waits until the layers let one call through. Once one had to wait, those behind it do not; and what the
/// handler's own rate or breaker holds back is for another node.
async fn let_through(
    inner: &Inner,
    entry: &Entry,
    layered: &Layered,
    until: Option<Instant>,
    waited: &mut bool,
) -> Option<Result<Ready, Failure>> {
    if let Some(ready) = layered.try_ready() {
        return Some(ready);
    }
    let first = !std::mem::replace(waited, true);
    if until.is_some() && !(first && layered.is_open()) {
        return None;
    }
    tokio::select! {
        biased;
        () = inner.lifecycle.draining(entry) => None,
        ready = within(until, layered.ready()) => ready,
    }
}

/// A place for one more call; none once the application drains, nor when the handler is paused or patience
/// ends.
async fn place(
    inner: &Inner,
    entry: &Arc<Entry>,
    until: Option<Instant>,
) -> Option<Slot<Arc<Entry>>> {
    let paused = entry.slots.is_paused() && until.is_some();
    if !inner.lifecycle.takes_for(entry) || paused {
        return None;
    }
    match Slots::try_take_for(Arc::clone(entry)) {
        Ok(slot) => Some(slot),
        Err(entry) => tokio::select! {
            biased;
            () = inner.lifecycle.draining(&entry) => None,
            slot = within(until, Slots::take(entry)) => slot,
        },
    }
}
