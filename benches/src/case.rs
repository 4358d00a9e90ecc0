//! What a case is, and under which terms its figures hold.

use std::time::Duration;

use serde::Serialize;

use crate::bench::{Bench, Measured, Pass};
use crate::figure::Unit;

/// One row of the table.
pub struct Case {
    /// `group/work`, or `group/broker/work`.
    pub name: &'static str,
    pub does: &'static str,
    pub terms: Terms,
    pub operations: u64,
    /// The case that this one is held against.
    pub against: Option<&'static str>,
    pub bars: Vec<Bar>,
    pub needs: Needs,
    /// Whether an operation waits for somebody else, so that its time is more than the rate says.
    pub has_latency: bool,
    /// Whether it is about a long run: `--long` makes it ten times as long.
    pub is_long: bool,
    /// Whether allocations are counted in a pass of its own: not where other processes do the work.
    pub has_allocations: bool,
    /// Whether it runs in the first round only, since it takes long and repeats within what varies.
    pub is_once: bool,
    /// Cases with the same word here wait most of the time, and run side by side.
    pub beside: Option<&'static str>,
    /// A case that has not ended by then hangs.
    pub limit: Duration,
    pub run: fn(Bench) -> Measured,
}

/// What a figure is worth nothing without.
#[derive(Clone, Copy, Serialize)]
pub struct Terms {
    /// What is guaranteed to a message.
    pub guarantee: &'static str,
    /// Where a message is kept until it is acknowledged.
    pub stored: &'static str,
    /// Who acknowledges what, and when.
    pub ack: &'static str,
    pub payload: &'static str,
    pub settings: &'static str,
}

impl Terms {
    pub const fn new(guarantee: &'static str, stored: &'static str, ack: &'static str) -> Self {
        Self {
            guarantee,
            stored,
            ack,
            payload: "order, 80 B as JSON",
            settings: "",
        }
    }

    pub const fn payload(mut self, payload: &'static str) -> Self {
        self.payload = payload;
        self
    }

    pub const fn kept(mut self, stored: &'static str) -> Self {
        self.stored = stored;
        self
    }

    pub const fn settings(mut self, settings: &'static str) -> Self {
        self.settings = settings;
        self
    }
}

/// The server that a case runs against: started fresh for it, on a free port.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    /// With JetStream on file.
    Nats,
    /// With nothing kept on disk.
    Redis,
    /// With the append-only file, synced every second.
    RedisOnFile,
}

/// What is asked of a case.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bar {
    /// Its rate over that of the case that it is held against.
    RatioAtLeast(f64),
    /// The same, where there are two cores: a pinned run has one.
    RatioOnTwoCoresAtLeast(f64),
    NanosAtMost(f64),
    AllocationsAtMost(f64),
    /// What the process may grow by while it runs.
    GrowthAtMostMib(f64),
    /// The median of its latencies over that of the case that it is held against.
    MedianRatioAtMost(f64),
    /// The 99th percentile of its latencies beyond that of the case that it is held against, in nanoseconds.
    P99BeyondAtMost(f64),
    /// One of its further figures.
    FigureAtMost(&'static str, Unit, f64),
    /// One of its further figures over that of another case.
    FigureRatioAtMost {
        figure: &'static str,
        of: &'static str,
        most: f64,
    },
}

impl Case {
    pub fn new(
        name: &'static str,
        does: &'static str,
        operations: u64,
        run: fn(Bench) -> Measured,
    ) -> Self {
        Self {
            name,
            does,
            terms: Terms::new("none", "nowhere", "none"),
            operations,
            against: None,
            bars: Vec::new(),
            needs: Needs::Nothing,
            has_latency: false,
            is_long: false,
            has_allocations: true,
            is_once: false,
            beside: None,
            limit: Duration::from_secs(120),
            run,
        }
    }

    pub fn terms(mut self, terms: Terms) -> Self {
        self.terms = terms;
        self
    }

    pub fn settings(mut self, settings: &'static str) -> Self {
        self.terms = self.terms.settings(settings);
        self
    }

    pub fn needs(mut self, needs: Needs) -> Self {
        self.needs = needs;
        self
    }

    pub fn against(mut self, name: &'static str) -> Self {
        self.against = Some(name);
        self
    }

    pub fn asked(mut self, bar: Bar) -> Self {
        self.bars.push(bar);
        self
    }

    pub fn with_latency(mut self) -> Self {
        self.has_latency = true;
        self
    }

    pub fn long(mut self) -> Self {
        self.is_long = true;
        self
    }

    pub fn without_allocations(mut self) -> Self {
        self.has_allocations = false;
        self
    }

    pub fn once(mut self) -> Self {
        self.is_once = true;
        self
    }

    pub fn beside(mut self, others: &'static str) -> Self {
        self.beside = Some(others);
        self
    }

    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Whether it takes part in a pass, which may be one of several rounds.
    pub fn takes_part(&self, pass: Pass, round: usize) -> bool {
        match pass {
            Pass::Time => round == 0 || !self.is_once,
            Pass::Latency => self.has_latency,
            Pass::Allocations => self.has_allocations,
        }
    }

    /// Whether it is the work of others, whose failures are theirs.
    pub fn is_peer(&self) -> bool {
        self.group() == "peers"
    }

    pub fn group(&self) -> &'static str {
        self.name.split('/').next().expect("a name has a part")
    }
}
