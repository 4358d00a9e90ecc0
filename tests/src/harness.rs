//! Runs scenarios: a bus, a runtime and a deadline for each.

use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, RandomState};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;

use catga::prelude::{Catga, Result};
use catga::{Backend, CatgaBuilder, DeadLetter, DeadLetterFilter};
use tokio::runtime::Builder;
use tokio::time::Instant;

/// The longest that a scenario may take, by the wall clock.
const BUDGET: Duration = Duration::from_secs(20);

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
    pub(crate) run: fn(Bus) -> Running,
}

/// What a scenario runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// One thread, and a clock that jumps to the next timer when nobody has anything to do.
    Paused,
    /// Two threads and the real clock: for races.
    Real,
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

    /// Runs the scenario on a thread and a runtime of its own.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn run(&self, bus: Bus) -> std::result::Result<(), String> {
        let (end, ended) = mpsc::channel();
        let Self { clock, run, .. } = *self;
        let thread = std::thread::spawn(move || {
            let outcome = clock.block_on(bus.seed, run(bus));
            // Nobody listens any more when the time was up.
            let _ = end.send(outcome);
        });
        match ended.recv_timeout(BUDGET) {
            Ok(outcome) => outcome.map_err(|error| format!("{error:?}")),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(format!("it still ran after {BUDGET:?}")),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(match thread.join() {
                Err(panic) => panic
                    .downcast::<String>()
                    .map(|text| *text)
                    .or_else(|panic| panic.downcast::<&str>().map(|text| (*text).to_owned()))
                    .unwrap_or_else(|_| "it panicked".to_owned()),
                Ok(()) => "it ended without an outcome".to_owned(),
            }),
        }
    }
}

impl Clock {
    fn block_on(self, seed: u64, scenario: Running) -> Result<()> {
        // The jitter of back-offs is drawn from the seed too.
        fastrand::seed(seed);
        let runtime = match self {
            Self::Paused => Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build(),
            Self::Real => Builder::new_multi_thread()
                .worker_threads(2)
                .enable_time()
                .on_thread_start(move || fastrand::seed(seed))
                .build(),
        };
        runtime?.block_on(scenario)
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

/// What the nodes of one scenario share, and nobody else.
#[derive(Clone, Debug)]
pub struct Bus {
    url: String,
    seed: u64,
}

impl Bus {
    /// A fresh bus in this process.
    #[must_use]
    pub fn memory(scenario: &str, seed: u64) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = scenario.replace("::", "-");
        Self {
            url: format!("memory://{name}-{number}"),
            seed,
        }
    }

    /// The same bus with an option of its URL.
    pub(crate) fn with_option(mut self, option: &str) -> Self {
        self.url
            .push(if self.url.contains('?') { '&' } else { '?' });
        self.url.push_str(option);
        self
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// A node of the service `suite`.
    pub(crate) fn node(&self, id: &str) -> CatgaBuilder {
        Catga::builder()
            .connect(&self.url)
            .service("suite")
            .node(id)
    }

    /// A node that handles nothing: publishes, looks on, and keeps the bus alive.
    pub(crate) async fn observer(&self) -> Result<Catga> {
        let observer = self.node("observer").handlers(catga::handlers![]);
        Ok(observer.start().await?)
    }

    /// A source of chance that the seed decides.
    pub(crate) fn chance(&self) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed)
    }
}

/// Waits until `condition` holds; fails, naming `what`, when it does not within `limit`.
pub(crate) async fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        // A yield alone would keep a paused clock from moving.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
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
pub(crate) async fn wait_for_dead_letters(
    backend: &Backend,
    count: usize,
) -> Result<Vec<DeadLetter>> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let letters = dead_letters(backend).await?;
        if letters.len() >= count {
            return Ok(letters);
        }
        assert!(
            Instant::now() < deadline,
            "{} dead letters instead of {count}",
            letters.len()
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Lists the scenarios of a file, each with the clock that it runs on.
macro_rules! scenarios {
    ($behaviour:literal: $($clock:ident $name:ident),* $(,)?) => {
        pub(crate) const SCENARIOS: &[$crate::harness::Scenario] = &[$($crate::harness::Scenario {
            name: concat!($behaviour, "::", stringify!($name)),
            clock: $crate::harness::Clock::$clock,
            run: |bus| Box::pin($name(bus)),
        }),*];
    };
}
pub(crate) use scenarios;
