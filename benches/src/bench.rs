//! What the process of one case measures: time, CPU, allocations, memory.

use std::fs;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use stats_alloc::Stats;
use tokio::runtime::{Builder, Runtime};

use crate::figure::Figure;
use crate::latency::{Latency, Tally};
use crate::machine::busy;

/// What counts allocations, in the program that does: elsewhere they would cost a tenth of what is measured.
pub static HEAP: OnceLock<fn() -> Stats> = OnceLock::new();

/// Latencies take two looks at the clock for each message, and are measured in a pass of their own, as allocations are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    Time,
    Latency,
    Allocations,
}

/// One run of a case.
pub struct Bench {
    pub operations: u64,
    /// Of the server, if the case needs one.
    pub url: String,
    pub server: Option<Pid>,
    pub pass: Pass,
}

/// What came out of one run.
#[derive(Clone, Serialize, Deserialize)]
pub struct Measured {
    pub operations: u64,
    pub wall: Duration,
    pub client_cpu: Duration,
    pub server_cpu: Option<Duration>,
    /// CPU of other processes meanwhile, in parts of what all cores can do.
    pub others: f64,
    pub allocations: Option<Allocations>,
    /// The most memory that the process ever held.
    pub peak_kib: u64,
    /// What it grew by while it was measured.
    pub growth_kib: u64,
    pub server_peak_kib: Option<u64>,
    pub latency: Option<Latency>,
    /// What else the case measures.
    pub figures: Vec<Figure>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Allocations {
    pub count: u64,
    pub bytes: u64,
}

/// Measures from [`Bench::begin`] to [`Clock::end`].
pub struct Clock {
    operations: u64,
    clients: Vec<Pid>,
    server: Option<Pid>,
    client_before: Duration,
    server_before: Option<Duration>,
    busy_before: Duration,
    heap_before: Option<Stats>,
    held_before: u64,
    began: Instant,
}

/// What a run says that it did: how many messages were handled, and the sum of their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handled {
    pub count: u64,
    pub sum: u64,
}

impl Handled {
    /// The messages `0..operations`, each `copies` times.
    pub fn all(operations: u64, copies: u64) -> Self {
        Self {
            count: operations * copies,
            sum: operations * operations.saturating_sub(1) / 2 * copies,
        }
    }
}

impl Bench {
    /// The same on a smaller scale, to find out what this one is to be measured at.
    pub fn rehearsal(&self, operations: u64) -> Self {
        Self {
            operations: self.operations.min(operations),
            url: self.url.clone(),
            server: self.server,
            pass: Pass::Time,
        }
    }

    pub fn begin(&self) -> Clock {
        self.begin_with(vec![Pid::this()])
    }

    /// Of a case whose work other processes do.
    pub fn begin_with(&self, clients: Vec<Pid>) -> Clock {
        Clock {
            operations: self.operations,
            server: self.server,
            client_before: clients.iter().copied().map(cpu).sum(),
            server_before: self.server.map(cpu),
            busy_before: busy(),
            heap_before: HEAP.get().map(|stats| stats()),
            held_before: all_memory_kib(&clients, "VmRSS:"),
            clients,
            began: Instant::now(),
        }
    }

    /// Counts what is handled, `copies` times each.
    pub fn tally(&self, copies: u64) -> Tally {
        Tally::new(self.operations, copies, self.pass == Pass::Latency)
    }
}

impl Clock {
    /// # Panics
    /// When not every message was handled, each once: a loop that loses some is fast.
    pub fn end(self, handled: Handled) -> Measured {
        let operations = self.operations;
        let measured = self.stop();
        assert_eq!(handled, Handled::all(operations, 1), "what was handled");
        measured
    }

    /// # Panics
    /// When not every message was handled as often as the tally expects.
    pub fn end_with(self, tally: &Tally) -> Measured {
        let mut measured = self.stop();
        tally.check();
        measured.latency = tally.latency();
        measured
    }

    /// Of a case that counts by itself.
    pub fn stop(self) -> Measured {
        let wall = self.began.elapsed();
        let heap = HEAP.get().map(|stats| stats());
        let client_cpu: Duration = self.clients.iter().copied().map(cpu).sum();
        let client_cpu = client_cpu.saturating_sub(self.client_before);
        let server_cpu = self
            .server
            .map(|pid| cpu(pid).saturating_sub(self.server_before.unwrap_or_default()));
        let busy = busy().saturating_sub(self.busy_before);
        let others = busy.saturating_sub(client_cpu + server_cpu.unwrap_or_default());
        let peak_kib = all_memory_kib(&self.clients, "VmHWM:");
        Measured {
            operations: self.operations,
            wall,
            client_cpu,
            server_cpu,
            others: others.as_secs_f64() / (wall.as_secs_f64() * crate::machine::cores() as f64),
            allocations: heap.zip(self.heap_before).map(|(now, before)| Allocations {
                count: (now.allocations + now.reallocations
                    - before.allocations
                    - before.reallocations) as u64,
                bytes: (now.bytes_allocated - before.bytes_allocated) as u64,
            }),
            peak_kib,
            growth_kib: peak_kib.saturating_sub(self.held_before),
            server_peak_kib: self.server.map(|pid| memory_kib(pid, "VmHWM:")),
            latency: None,
            figures: Vec::new(),
        }
    }
}

/// What a process has used so far, to the nanosecond.
pub fn cpu(pid: Pid) -> Duration {
    let clock = clock_getcpuclockid(pid).unwrap_or(ClockId::CLOCK_PROCESS_CPUTIME_ID);
    clock.now().expect("a process has a clock").into()
}

fn all_memory_kib(pids: &[Pid], field: &str) -> u64 {
    pids.iter().map(|pid| memory_kib(*pid, field)).sum()
}

fn memory_kib(pid: Pid, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let words = line.and_then(|line| line.split_whitespace().next());
    words
        .and_then(|kib| kib.parse().ok())
        .expect("a process says what memory it holds")
}

pub fn one_core() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Runs the work as a task of two workers, so that nothing else takes their cores.
pub fn two_cores<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async { tokio::spawn(work).await.expect("the work does not panic") })
}
