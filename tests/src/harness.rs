//! Runs scenarios: a runtime and a deadline for each.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{LazyLock, mpsc};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use catga::prelude::{Catga, Result};
use catga::{Backend, DeadLetter, DeadLetterFilter};
use tokio::runtime::Builder;
use tokio::time::Instant;

pub(crate) use crate::bus::Bus;
use crate::messages::Ask;
use crate::outcome::{Failure, Outcome, print_panics};
use crate::subject::{Subject, Time};

/// The longest that a scenario may take, by the clock on the wall: 20 s, 60 s on a server, or so many as `CATGA_BUDGET` says, for a
/// machine that does something else meanwhile.
fn budget(time: Time) -> Duration {
    let given = std::env::var("CATGA_BUDGET").ok();
    let usual = match time {
        _ if is_long() => 600,
        Time::Timers => 20,
        // Several of them share the cores, with their servers.
        Time::Wall => 60,
    };
    Duration::from_secs(
        given
            .and_then(|budget| budget.parse().ok())
            .unwrap_or(usual),
    )
}

/// Whether runs that take minutes are asked for: `CATGA_LONG=1`.
pub(crate) fn is_long() -> bool {
    std::env::var_os("CATGA_LONG").is_some()
}

/// The longest to wait for what is to happen, by the scenario's clock.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A panic that a scenario makes on purpose says so, and is not printed.
pub(crate) const PLANNED: &str = "planned panic";

type Running = Pin<Box<dyn Future<Output = Result<()>>>>;

/// One rule, and what shows whether it holds.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) clock: Clock,
    pub(crate) about: About,
    pub(crate) rows: &'static [u8],
    pub(crate) run: fn(Bus) -> Running,
}

/// What a scenario runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// One thread, and where the backend allows it a clock that jumps to the next timer when nobody has
    /// anything to do.
    Paused,
    /// Two threads and the real clock: for races.
    Real,
}

/// Whose rule it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// The backend's: it runs on each.
    Backend,
    /// The runtime's, whatever the backend: it runs on the embedded one.
    Runtime,
}

impl Scenario {
    /// The behaviour and the rule: `redelivery::handler_error`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What it runs on.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The rows of the guarantees that it shows.
    #[must_use]
    pub fn rows(&self) -> &'static [u8] {
        self.rows
    }

    /// Whether it means something on a backend.
    #[must_use]
    pub fn runs_on(&self, subject: &Subject) -> bool {
        let rows = self.rows;
        let means_nothing = if rows.is_empty() {
            subject.is_twin()
        } else {
            rows.iter().all(|row| subject.is_without(*row))
        };
        let is_left_out = subject
            .left_out()
            .iter()
            .any(|(name, _)| *name == self.name);
        (self.about == About::Backend || subject.is_embedded()) && !means_nothing && !is_left_out
    }

    /// Runs the scenario on a thread and a runtime of its own.
    #[must_use]
    pub fn run(&self, bus: Bus) -> Outcome {
        let _core = core(bus.subject().time());
        let (end, ended) = mpsc::channel();
        let Self { clock, run, .. } = *self;
        let claimed = bus.subject().capabilities();
        let (is_buggy, time) = (bus.is_buggy(), bus.subject().time());
        thread::spawn(move || {
            print_panics(!is_buggy);
            if is_buggy && time == Time::Wall {
                PATIENCE.set(WITH_A_BUG);
            }
            let ran = catch_unwind(AssertUnwindSafe(|| {
                clock.block_on(time, bus.seed(), is_buggy, run(bus))
            }));
            let outcome = match ran {
                Ok(Ok(())) => Outcome::Passed,
                Ok(Err(error)) => Outcome::of_error(&error, claimed),
                Err(panic) => Outcome::Failed(Failure::of_panic(panic.as_ref())),
            };
            // Nobody listens any more when the time was up.
            let _ = end.send(outcome);
        });
        let budget = budget(time);
        ended.recv_timeout(budget).unwrap_or_else(|_| {
            Outcome::Failed(Failure {
                at: None,
                text: format!("it still ran after {budget:?}"),
                is_evidence: false,
            })
        })
    }
}

/// A core of its own for what never waits: more of these at once would each take longer.
#[allow(
    clippy::disallowed_types,
    reason = "scenarios wait for a core: no message passes through it"
)]
fn core(time: Time) -> Option<tokio::sync::SemaphorePermit<'static>> {
    use tokio::sync::Semaphore;
    static CORES: LazyLock<Semaphore> =
        LazyLock::new(|| Semaphore::new(thread::available_parallelism().map_or(1, Into::into)));
    let runtime = Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime without drivers can be made");
    (time == Time::Timers).then(|| {
        let core = runtime.block_on(CORES.acquire());
        core.expect("nobody closes it")
    })
}

impl Clock {
    fn block_on(self, time: Time, seed: u64, quiet: bool, scenario: Running) -> Result<()> {
        // The jitter of back-offs is drawn from the seed too.
        fastrand::seed(seed);
        let mut builder = match self {
            Self::Paused => Builder::new_current_thread(),
            Self::Real => Builder::new_multi_thread(),
        };
        builder
            .enable_all()
            .worker_threads(2)
            .on_thread_start(move || {
                fastrand::seed(seed);
                print_panics(!quiet);
            });
        if self == Self::Paused && time == Time::Timers {
            builder.start_paused(true);
        }
        builder.build()?.block_on(scenario)
    }
}

/// The seed of this run: `CATGA_SEED`, or a fresh one.
#[must_use]
pub fn seed() -> u64 {
    let given = std::env::var("CATGA_SEED").ok();
    given
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| RandomState::new().hash_one("seed"))
}

/// How long a check waits at most for what a planted bug may prevent, by the clock on the wall.
const WITH_A_BUG: Duration = Duration::from_secs(5);

thread_local! {
    static PATIENCE: Cell<Duration> = const { Cell::new(Duration::MAX) };
}

/// How long a check waits of what it would wait without a planted bug.
pub(crate) fn patience(limit: Duration) -> Duration {
    limit.min(PATIENCE.get())
}

/// Waits until `condition` holds; fails, naming `what` and who waits, when it does not within `limit`.
#[track_caller]
pub(crate) fn wait_until(
    what: impl fmt::Display,
    limit: Duration,
    mut condition: impl FnMut() -> bool,
) -> impl Future<Output = ()> {
    let waits = Location::caller();
    let limit = patience(limit);
    async move {
        let began = Instant::now();
        let deadline = began + limit;
        while !condition() {
            assert!(
                Instant::now() < deadline,
                "not within {limit:?}: {what} ({waits})"
            );
            // A yield alone would keep a paused clock from moving. What takes minutes is not looked for every millisecond.
            let pause = began.elapsed() / 1000;
            tokio::time::sleep(pause.max(Duration::from_millis(1))).await;
        }
    }
}

/// Waits until a node sees so many nodes, itself among them. Where there is no registry the broker alone knows them, from
/// the moment when they have started.
#[track_caller]
pub(crate) fn wait_for_nodes(node: &Catga, count: usize) -> impl Future<Output = ()> {
    let node = node.clone();
    let told = node.backend().registry.is_some();
    wait_until(format!("{count} nodes are seen"), SOON, move || {
        !told || node.nodes().len() == count
    })
}

/// Ends a scenario that means nothing where no node knows another, by the refusal that users are given.
pub(crate) async fn needs_nodes(node: &Catga) -> Result<()> {
    if node.backend().registry.is_none() {
        node.broadcast(Ask { id: 0 }).await?;
    }
    Ok(())
}

/// Polls a future up to `polls` times, then drops it where it stands.
pub(crate) async fn poll_then_drop<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// All dead letters of a backend.
pub(crate) async fn dead_letters(backend: &Backend) -> Result<Vec<DeadLetter>> {
    let store = backend
        .dead_letters
        .as_ref()
        .expect("the suite asks backends that keep dead letters");
    let page = store.list(&DeadLetterFilter::all(), None, 10_000).await?;
    Ok(page.letters)
}

/// Waits until there are so many dead letters, and returns them.
#[track_caller]
pub(crate) fn wait_for_dead_letters(
    backend: &Backend,
    count: usize,
) -> impl Future<Output = Result<Vec<DeadLetter>>> {
    let waits = Location::caller();
    let limit = patience(Duration::from_secs(60));
    async move {
        let deadline = Instant::now() + limit;
        loop {
            let letters = dead_letters(backend).await?;
            if letters.len() >= count {
                return Ok(letters);
            }
            assert!(
                Instant::now() < deadline,
                "{} dead letters instead of {count} ({waits})",
                letters.len()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Lists the scenarios of a file: whose rules they are, and for each the clock that it runs on and the rows of the
/// guarantees that it shows.
macro_rules! scenarios {
    ($about:ident $behaviour:literal: $($clock:ident $name:ident $([$($row:literal),*])?),* $(,)?) => {
        pub(crate) const SCENARIOS: &[$crate::harness::Scenario] = &[$($crate::harness::Scenario {
            name: concat!($behaviour, "::", stringify!($name)),
            clock: $crate::harness::Clock::$clock,
            about: $crate::harness::About::$about,
            rows: &[$($($row),*)?],
            run: |bus| Box::pin($name(bus)),
        }),*];
    };
}
pub(crate) use scenarios;
