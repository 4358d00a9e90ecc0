//! What an application tells the recorder of the `metrics` facade: `docs/metrics.md` lists it.
//!
//! Counting is done whether anybody looks or not (`table.rs`), so that the path of a message has nothing to do for most of it: what
//! was counted is told once a second, and at the end. What is measured on the path has its handle by then, and asks no more
//! than whether there is one. Without a recorder at the start there is none.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use catga_core::{Error, Name, Request};
use metrics::{Counter, Gauge, Histogram, IntoF64, Label, Unit};

use crate::extract::TypeIdHasher;
use crate::guard::Failure;
use crate::health::HandlerStats;
use crate::members::Members;
use crate::table::{Entry, Table};

/// How often what was counted is told.
pub(crate) const EVERY: Duration = Duration::from_secs(1);

const SENT: &str = "messaging.client.sent.messages";
const SEND_DURATION: &str = "messaging.client.operation.duration";
const CONSUMED: &str = "messaging.client.consumed.messages";
const PROCESS_DURATION: &str = "messaging.process.duration";
const RETRIES: &str = "catga.retries";
const DEAD_LETTERS: &str = "catga.dead_letters";
const DUPLICATES: &str = "catga.duplicates";
const LOSSES: &str = "catga.losses";
const LOST_CLAIMS: &str = "catga.lost_claims";
const IN_FLIGHT: &str = "catga.in_flight";
const NODES: &str = "catga.nodes";
const FAIL_OVERS: &str = "catga.fail_overs";

/// What is told of an application; nothing where nobody records.
#[derive(Debug)]
pub(crate) struct Metrics(Option<Box<Recorded>>);

#[derive(Debug)]
struct Recorded {
    system: &'static str,
    /// What is sent, by where its name stands in the program: a type's name stands in one place, and is not read to be found.
    sent: ArcSwap<Sent>,
    nodes: Gauge,
    /// With how many were told.
    fail_overs: (Counter, AtomicU64),
}

type Sent = HashMap<u64, Arc<SentMetrics>, BuildHasherDefault<TypeIdHasher>>;

/// What is told of the messages of one name that are published or sent.
#[derive(Debug)]
struct SentMetrics {
    published: Counter,
    answered: Histogram,
}

/// What is told of a handler; empty where nobody records.
#[derive(Debug, Default)]
pub(crate) struct HandlerMetrics(OnceLock<Handles>);

#[derive(Debug)]
struct Handles {
    labels: Vec<Label>,
    /// Each with how much of it was told.
    counters: [(Counter, AtomicU64); 7],
    in_flight: (Gauge, AtomicUsize),
    processed: Histogram,
    is_timed: bool,
}

/// When something began, where anybody wants to know how long it takes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock(Option<Instant>);

impl Clock {
    fn started(is_timed: bool) -> Self {
        Self(is_timed.then(Instant::now))
    }
}

impl Metrics {
    /// Of a table whose messages come from `system`, which is told from here on, if anybody records.
    pub(crate) fn new(system: &'static str, table: &Table) -> Self {
        describe();
        let labels = vec![Label::from_static_parts("messaging.system", system)];
        // Nothing is ever told in its name.
        if !is_recorded(&metrics::histogram!(PROCESS_DURATION, labels.clone())) {
            return Self(None);
        }
        for entry in &table.entries {
            entry.metrics.begin(system, entry);
        }
        Self(Some(Box::new(Recorded {
            system,
            sent: ArcSwap::default(),
            nodes: metrics::gauge!(NODES, labels.clone()),
            fail_overs: (metrics::counter!(FAIL_OVERS, labels), AtomicU64::new(0)),
        })))
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Counts a message that was published, or was not.
    #[inline]
    pub(crate) fn published<T>(&self, name: &Name, outcome: &Result<T, Error>) {
        if let Some(recorded) = &self.0 {
            match outcome {
                Ok(_) => recorded.with_sent(name, |sent| sent.published.increment(1)),
                Err(error) => recorded.not_published(name, error),
            }
        }
    }

    /// Begins to measure a request.
    #[inline]
    pub(crate) fn clock(&self) -> Clock {
        Clock::started(self.is_on())
    }

    /// Notes how long a request took.
    #[inline]
    pub(crate) fn answered<R: Request>(
        &self,
        clock: Clock,
        outcome: Result<R::Response, Error>,
    ) -> Result<R::Response, Error> {
        if let (Some(recorded), Some(began)) = (&self.0, clock.0) {
            let took = began.elapsed();
            let name = const { Name::from_static(R::NAME) };
            match &outcome {
                Ok(_) => recorded.with_sent(&name, |sent| sent.answered.record(took)),
                Err(error) => recorded.not_answered(&name, error, took),
            }
        }
        outcome
    }

    /// Tells what was counted since the last time.
    pub(crate) fn tell(&self, table: &Table, members: &Members) {
        let Some(recorded) = &self.0 else {
            return;
        };
        for entry in &table.entries {
            entry.metrics.tell(entry);
        }
        // Not as a difference: applications of one process see the same nodes.
        recorded.nodes.set(as_f64(members.view().nodes.live.len()));
        let (counter, told) = &recorded.fail_overs;
        tell_more(counter, told, members.fail_overs());
    }
}

impl Recorded {
    #[inline]
    fn with_sent(&self, name: &Name, tell: impl FnOnce(&SentMetrics)) {
        let Some(written) = name.as_static() else {
            return tell(&SentMetrics::new(self.system, name));
        };
        // Spread over all bits: a hash map looks at the first and at the last.
        let place = (written.as_ptr().addr() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        match self.sent.load().get(&place) {
            Some(sent) => tell(sent),
            None => tell(&self.first(place, name)),
        }
    }

    #[cold]
    fn first(&self, place: u64, name: &Name) -> Arc<SentMetrics> {
        let first = Arc::new(SentMetrics::new(self.system, name));
        self.sent.rcu(|sent| {
            let mut sent = Sent::clone(sent);
            sent.insert(place, Arc::clone(&first));
            sent
        });
        first
    }

    #[cold]
    fn not_published(&self, name: &Name, error: &Error) {
        let mut labels = sending(self.system, name, "publish");
        labels.push(error_type(error.kind().as_str()));
        metrics::counter!(SENT, labels).increment(1);
    }

    #[cold]
    fn not_answered(&self, name: &Name, error: &Error, took: Duration) {
        let mut labels = sending(self.system, name, "send");
        labels.push(error_type(error.kind().as_str()));
        metrics::histogram!(SEND_DURATION, labels).record(took);
    }
}

impl SentMetrics {
    fn new(system: &'static str, name: &Name) -> Self {
        Self {
            published: metrics::counter!(SENT, sending(system, name, "publish")),
            answered: metrics::histogram!(SEND_DURATION, sending(system, name, "send")),
        }
    }
}

impl HandlerMetrics {
    fn begin(&self, system: &'static str, entry: &Entry) {
        let labels = vec![
            Label::from_static_parts("messaging.system", system),
            Label::new("messaging.destination.name", entry.message.to_string()),
            Label::new("messaging.consumer.group.name", entry.group.to_string()),
            Label::from_static_parts("catga.handler", entry.def.site.name),
        ];
        let mut failed = labels.clone();
        // Which error it was is told with the duration.
        failed.push(error_type("_OTHER"));
        let counters = [
            metrics::counter!(CONSUMED, labels.clone()),
            metrics::counter!(CONSUMED, failed),
            metrics::counter!(RETRIES, labels.clone()),
            metrics::counter!(DEAD_LETTERS, labels.clone()),
            metrics::counter!(LOSSES, labels.clone()),
            metrics::counter!(DUPLICATES, labels.clone()),
            metrics::counter!(LOST_CLAIMS, labels.clone()),
        ];
        let counters = counters.map(|counter| (counter, AtomicU64::new(0)));
        let in_flight = metrics::gauge!(IN_FLIGHT, labels.clone());
        let processed = metrics::histogram!(PROCESS_DURATION, labels.clone());
        let _ = self.0.set(Handles {
            is_timed: is_recorded(&processed),
            labels,
            counters,
            in_flight: (in_flight, AtomicUsize::new(0)),
            processed,
        });
    }

    /// Begins to measure a run.
    #[inline]
    pub(crate) fn clock(&self) -> Clock {
        Clock::started(self.0.get().is_some_and(|handles| handles.is_timed))
    }

    /// Notes how long a run took.
    #[inline]
    pub(crate) fn processed<T>(&self, clock: Clock, outcome: &Result<T, Failure>) {
        if let (Some(handles), Some(began)) = (self.0.get(), clock.0) {
            match outcome {
                Ok(_) => handles.processed.record(began.elapsed()),
                Err(failure) => handles.not_processed(failure, began.elapsed()),
            }
        }
    }

    fn tell(&self, entry: &Entry) {
        let Some(handles) = self.0.get() else {
            return;
        };
        let stats = HandlerStats::of(entry);
        let counted = [
            stats.handled,
            stats.failed,
            stats.retried,
            stats.dead_lettered,
            stats.dropped,
            stats.duplicates,
            stats.lost,
        ];
        for ((counter, told), counted) in handles.counters.iter().zip(counted) {
            tell_more(counter, told, counted);
        }
        let (gauge, told) = &handles.in_flight;
        let before = told.swap(stats.in_flight, Ordering::Relaxed);
        gauge.increment(as_f64(stats.in_flight) - as_f64(before));
    }
}

impl Handles {
    #[cold]
    fn not_processed(&self, failure: &Failure, took: Duration) {
        let mut labels = self.labels.clone();
        labels.push(error_type(failure.kind().as_str()));
        metrics::histogram!(PROCESS_DURATION, labels).record(took);
    }
}

/// Tells what was counted beyond what was told, as a difference: applications of one process add up.
fn tell_more(counter: &Counter, told: &AtomicU64, now: u64) {
    let before = told.fetch_max(now, Ordering::Relaxed);
    if let Some(more) = now.checked_sub(before).filter(|more| *more > 0) {
        counter.increment(more);
    }
}

/// How often a handler runs at once, or how many nodes there are: far below what an `f64` cannot tell apart.
#[allow(clippy::cast_precision_loss, reason = "it is a small number")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

fn sending(system: &'static str, name: &Name, operation: &'static str) -> Vec<Label> {
    vec![
        Label::from_static_parts("messaging.system", system),
        Label::new("messaging.destination.name", name.to_string()),
        Label::from_static_parts("messaging.operation.name", operation),
    ]
}

fn error_type(text: &'static str) -> Label {
    Label::from_static_parts("error.type", text)
}

/// Whether anybody takes what is measured. A handle does not say so; but one that nobody took asks for no value.
fn is_recorded(histogram: &Histogram) -> bool {
    struct Asked<'a>(&'a mut bool);

    impl IntoF64 for Asked<'_> {
        fn into_f64(self) -> f64 {
            *self.0 = true;
            0.0
        }
    }

    let mut asked = false;
    histogram.record_many(Asked(&mut asked), 0);
    asked
}

fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};

    describe_counter!(SENT, Unit::Count, "Messages that were published");
    describe_histogram!(
        SEND_DURATION,
        Unit::Seconds,
        "Requests, from being sent to being answered"
    );
    describe_counter!(CONSUMED, Unit::Count, "Messages that a handler handled");
    describe_histogram!(
        PROCESS_DURATION,
        Unit::Seconds,
        "Runs of a handler for messages that were received"
    );
    describe_counter!(
        RETRIES,
        Unit::Count,
        "Failures after which a message is delivered again"
    );
    describe_counter!(
        DEAD_LETTERS,
        Unit::Count,
        "Failures after which a message went to the dead letters"
    );
    describe_counter!(
        DUPLICATES,
        Unit::Count,
        "Messages and requests that were not run again"
    );
    describe_counter!(
        LOSSES,
        Unit::Count,
        "QoS 0 messages that were dropped unhandled"
    );
    describe_counter!(
        LOST_CLAIMS,
        Unit::Count,
        "Runs whose claim was lost before they completed"
    );
    describe_gauge!(IN_FLIGHT, Unit::Count, "Runs of a handler, now");
    describe_gauge!(NODES, Unit::Count, "Live nodes, this one among them");
    describe_counter!(
        FAIL_OVERS,
        Unit::Count,
        "Requests that went on to another node"
    );
}
