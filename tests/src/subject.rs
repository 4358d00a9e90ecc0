//! The backends that the scenarios run against.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use catga_core::{Capabilities, Capability, Driver};
use catga_memory::MemoryDriver;

use crate::rows::ROWS;
use crate::server::ServerError;
use crate::site::{Site, SiteOptions};

/// A backend that the scenarios run against, and where each of them finds a place of its own on it.
///
/// # Examples
/// ```
/// use catga_memory::MemoryDriver;
/// use catga_testkit::{Subject, Time};
///
/// let subject = Subject::new(MemoryDriver, |place| format!("memory://{place}"))
///     .with_time(Time::Timers)
///     .without(&[21, 22], "a bus ends with its process");
/// assert_eq!(subject.name(), "memory");
/// ```
#[derive(Clone)]
pub struct Subject(Arc<Parts>);

#[derive(Clone)]
struct Parts {
    name: &'static str,
    driver: Arc<dyn Driver>,
    url: Arc<dyn Fn(&str) -> String + Send + Sync>,
    time: Time,
    version: Option<String>,
    without: Vec<(Vec<u8>, &'static str)>,
    /// Whether it is another's twin, and shows only in what it differs.
    is_twin: bool,
    without_scenarios: Vec<(&'static str, &'static str)>,
    bugs: Vec<Bug>,
    embedded: bool,
    site: Option<Arc<Start>>,
    cluster: Option<Arc<Start>>,
    /// Of how many messages that a member has handled the acks may be on their way.
    acks: Option<usize>,
}

/// Starts a server for one scenario.
type Start = dyn Fn(&SiteOptions) -> Result<Box<dyn Site>, ServerError> + Send + Sync;

/// What means nothing without a server.
const ABOUT_A_SERVER: &[u8] = &[
    8, 9, 10, 11, 14, 15, 16, 19, 29, 31, 32, 47, 54, 58, 59, 60, 61, 62, 63, 64, 65, 66, 67, 68,
    69, 70, 71, 78, 83, 91, 92, 95, 96,
];

/// A bug that a backend plants itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bug {
    /// The option of its URL that plants it: `bug=forgets_leases`.
    pub(crate) option: &'static str,
    pub(crate) caught_by: &'static [&'static str],
}

/// Which time a backend goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Time {
    /// That of tokio's timers alone: scenarios may stop its clock, and let it jump.
    Timers,
    /// That on the wall, because other processes have a say: each time span passes.
    Wall,
}

impl Subject {
    /// A backend by its driver, and the URL for a place on it: of what has another name (letters, digits,
    /// hyphens) nobody may see anything. It goes by the clock on the wall.
    pub fn new(driver: impl Driver, url: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        Self(Arc::new(Parts {
            name: driver.name(),
            driver: Arc::new(driver),
            url: Arc::new(url),
            time: Time::Wall,
            version: None,
            without: Vec::new(),
            is_twin: false,
            without_scenarios: Vec::new(),
            bugs: Vec::new(),
            embedded: false,
            site: None,
            cluster: None,
            acks: None,
        }))
    }

    /// The embedded backend, on which also those scenarios run that show what the runtime does whatever the
    /// backend.
    #[must_use]
    pub fn memory() -> Self {
        let this = Self::new(MemoryDriver, |place| format!("memory://{place}"));
        this.with_time(Time::Timers)
            .with(|parts| parts.embedded = true)
    }

    fn with(mut self, change: impl FnOnce(&mut Parts)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// Sets which time it goes by.
    #[must_use]
    pub fn with_time(self, time: Time) -> Self {
        self.with(|parts| parts.time = time)
    }

    /// Names the version of its server, major and minor: `2.9`.
    #[must_use]
    pub fn with_version(self, version: impl Into<String>) -> Self {
        self.with(|parts| parts.version = Some(version.into()))
    }

    /// Says how a server is started that belongs to one scenario: without it nothing is shown of what becomes of messages
    /// when a server is killed, filled, wiped or closed to us.
    #[must_use]
    pub fn with_site<S: Site + 'static>(
        self,
        start: impl Fn(&SiteOptions) -> Result<S, ServerError> + Send + Sync + 'static,
    ) -> Self {
        self.with(|parts| parts.site = Some(boxed(start)))
    }

    /// Says how several servers are started that share the work of one scenario, and of which another takes the place of one that
    /// fails.
    #[must_use]
    pub fn with_cluster<S: Site + 'static>(
        self,
        start: impl Fn(&SiteOptions) -> Result<S, ServerError> + Send + Sync + 'static,
    ) -> Self {
        self.with(|parts| parts.cluster = Some(boxed(start)))
    }

    /// Says of how many messages that a member has handled the acks may be on their way at QoS 1, beside those that are in its
    /// handlers: after a crash they are handled again, and no more.
    #[must_use]
    pub fn with_acks_on_their_way(self, most: usize) -> Self {
        self.with(|parts| parts.acks = Some(most))
    }

    /// Says which rows of the guarantees mean nothing on it, and why.
    #[must_use]
    pub fn without(self, rows: &[u8], reason: &'static str) -> Self {
        self.with(|parts| parts.without.push((rows.to_vec(), reason)))
    }

    /// Says that it is another subject in everything but these rows, for this reason: only what shows them runs on it.
    #[must_use]
    pub fn only(self, rows: &[u8], reason: &'static str) -> Self {
        let others = ROWS.iter().map(|(row, _)| *row);
        let others: Vec<_> = others.filter(|row| !rows.contains(row)).collect();
        self.without(&others, reason)
            .with(|parts| parts.is_twin = true)
    }

    /// Says that one scenario means nothing on it, by its name as in `redelivery::handler_error`, and why. Others show its rows.
    #[must_use]
    pub fn without_scenario(self, name: &'static str, reason: &'static str) -> Self {
        self.with(|parts| parts.without_scenarios.push((name, reason)))
    }

    /// Leaves out the rows about a server, the network to it, and what others may do to its resources.
    #[must_use]
    pub fn without_a_server(self) -> Self {
        self.without(ABOUT_A_SERVER, "there is no server")
    }

    /// Names a bug of its own that an option of its URL plants: the scenarios have to fail on it.
    #[must_use]
    pub fn with_bug(self, option: &'static str, caught_by: &'static [&'static str]) -> Self {
        self.with(|parts| parts.bugs.push(Bug { option, caught_by }))
    }

    /// The bugs of its own.
    pub(crate) fn bugs(&self) -> &[Bug] {
        &self.0.bugs
    }

    /// Sets what it is called, where its driver's name stands for several: `nats-core`, `nats-2.11`.
    #[must_use]
    pub fn named(self, name: &'static str) -> Self {
        self.with(|parts| parts.name = name)
    }

    /// Its name: that of its driver, unless it was given another.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// Name and version.
    #[must_use]
    pub fn title(&self) -> String {
        match &self.0.version {
            Some(version) => format!("{} {version}", self.name()),
            None => self.name().to_owned(),
        }
    }

    /// What it says that it can do.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.0.driver.capabilities().iter().copied().collect()
    }

    /// Which time it goes by.
    #[must_use]
    pub fn time(&self) -> Time {
        self.0.time
    }

    /// Whether the scenarios about the runtime run on it.
    #[must_use]
    pub(crate) fn is_embedded(&self) -> bool {
        self.0.embedded
    }

    /// Whether it claims at QoS 2 what it hands out, in its own inbox; elsewhere the runtime claims, in the inbox that it asks.
    pub(crate) fn hands_out_claimed(&self) -> bool {
        self.is_embedded() || self.capabilities().has(Capability::FusedCompletion)
    }

    pub(crate) fn driver(&self) -> &Arc<dyn Driver> {
        &self.0.driver
    }

    /// Starts a server for one scenario, where it is known how.
    pub(crate) fn start_site(
        &self,
        options: &SiteOptions,
    ) -> Option<Result<Box<dyn Site>, ServerError>> {
        self.0.site.as_ref().map(|start| start(options))
    }

    /// Starts the servers of one scenario that share its work, where it is known how.
    pub(crate) fn start_cluster(
        &self,
        options: &SiteOptions,
    ) -> Option<Result<Box<dyn Site>, ServerError>> {
        self.0.cluster.as_ref().map(|start| start(options))
    }

    /// Of how many messages that a member has handled the acks may be on their way.
    pub(crate) fn acks_on_their_way(&self) -> Option<usize> {
        self.0.acks
    }

    /// Whether a row means nothing on it.
    pub(crate) fn is_without(&self, row: u8) -> bool {
        self.0.without.iter().any(|(rows, _)| rows.contains(&row))
    }

    /// Whether a scenario that shows no row means nothing on it.
    pub(crate) fn is_twin(&self) -> bool {
        self.0.is_twin
    }

    /// The scenarios that mean nothing on it, and why.
    pub(crate) fn left_out(&self) -> &[(&'static str, &'static str)] {
        &self.0.without_scenarios
    }

    /// The rows that mean nothing on it, in words, by reason.
    pub(crate) fn reasons(&self) -> impl Iterator<Item = (String, &'static str)> {
        self.0.without.iter().map(|(rows, why)| {
            let rows: Vec<_> = rows.iter().map(ToString::to_string).collect();
            (rows.join(", "), *why)
        })
    }

    /// A place that nobody has been at.
    pub(crate) fn fresh_url(&self, scenario: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        (self.0.url)(&format!("{}-{number}", scenario.replace("::", "-")))
    }
}

fn boxed<S: Site + 'static>(
    start: impl Fn(&SiteOptions) -> Result<S, ServerError> + Send + Sync + 'static,
) -> Arc<Start> {
    Arc::new(move |options| Ok(Box::new(start(options)?)))
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Subject").field(&self.title()).finish()
    }
}
