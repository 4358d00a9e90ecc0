//! What the nodes of one scenario share, and nobody else.

use std::sync::Arc;
use std::time::Duration;

use catga::prelude::{Catga, Result};
use catga::{Capability, CatgaBuilder, HandlerError, QoS};

use crate::mutants::{Mutant, Mutated};
use crate::outcome::Lacking;
use crate::site::{OwnServer, SiteOptions};
use crate::subject::{Bug, Subject, Time};

/// A duplicate window that a scenario can wait for. A machine that does much else stores within a quarter of it.
const WINDOW: Duration = Duration::from_secs(2);

/// A fresh place on a backend, for the nodes of one scenario.
#[derive(Clone, Debug)]
pub struct Bus {
    subject: Subject,
    url: String,
    /// Options that were added to the URL.
    options: Vec<String>,
    seed: u64,
    mutant: Option<Mutant>,
    /// Whether its duplicate window ends soon.
    short_window: bool,
    /// Whether a bug is planted, so that a failure is what is looked for.
    is_buggy: bool,
}

impl Bus {
    /// A fresh bus in this process.
    #[must_use]
    pub fn memory(scenario: &str, seed: u64) -> Self {
        Self::on(&Subject::memory(), scenario, seed)
    }

    /// A fresh bus on a backend.
    #[must_use]
    pub fn on(subject: &Subject, scenario: &str, seed: u64) -> Self {
        Self {
            subject: subject.clone(),
            url: subject.fresh_url(scenario),
            options: Vec::new(),
            seed,
            mutant: None,
            short_window: false,
            is_buggy: false,
        }
    }

    /// The same bus, reached through a backend with a planted bug.
    #[must_use]
    pub fn with_mutant(mut self, mutant: Mutant) -> Self {
        self.mutant = Some(mutant);
        self.is_buggy = true;
        self
    }

    /// The same bus, on which the backend has a bug of its own.
    pub(crate) fn with_bug(self, bug: &Bug) -> Self {
        let mut this = self.with_option(bug.option);
        this.is_buggy = true;
        this
    }

    pub(crate) fn is_buggy(&self) -> bool {
        self.is_buggy
    }

    /// The backend that it is on.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The seed that decides all that is random.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn mutant(&self) -> Option<Mutant> {
        self.mutant
    }

    /// The same bus with an option of its URL, which the backend may know or not.
    pub(crate) fn with_option(mut self, option: &str) -> Self {
        self.url
            .push(if self.url.contains('?') { '&' } else { '?' });
        self.url.push_str(option);
        self.options.push(option.to_owned());
        self
    }

    /// The same bus at another place, with the same options.
    pub(crate) fn at(&self, url: String) -> Self {
        let mut this = self.clone();
        let options = std::mem::take(&mut this.options);
        this.url = url;
        options
            .iter()
            .fold(this, |this, option| this.with_option(option))
    }

    /// A server of the backend's kind that nobody else uses.
    pub(crate) fn own_server(&self) -> Result<OwnServer> {
        self.own_server_with(&SiteOptions::default())
    }

    /// A server of the backend's kind that nobody else uses, set up like this.
    pub(crate) fn own_server_with(&self, options: &SiteOptions) -> Result<OwnServer> {
        let Some(started) = self.subject.start_site(options) else {
            let lacking = Lacking("nobody says how a server of its own is started".to_owned());
            return Err(HandlerError::terminal(lacking));
        };
        Ok(OwnServer::new(started?, self.clone()))
    }

    /// Servers of the backend's kind that share the work, and that nobody else uses.
    pub(crate) fn own_cluster(&self) -> Result<OwnServer> {
        let Some(started) = self.subject.start_cluster(&SiteOptions::default()) else {
            let lacking = Lacking("nobody says how servers are started that share work".to_owned());
            return Err(HandlerError::terminal(lacking));
        };
        Ok(OwnServer::new(started?, self.clone()))
    }

    /// The same bus with a limit that not every backend lets its users set: a scenario that needs it does not
    /// run elsewhere.
    pub(crate) fn limited(self, option: &str) -> Result<Self> {
        let (name, _) = option.split_once('=').unwrap_or((option, ""));
        if !self.subject.driver().options().contains(&name) {
            let lacking = Lacking(format!("the backend has no option `{name}`"));
            return Err(HandlerError::terminal(lacking));
        }
        Ok(self.with_option(option))
    }

    /// A node of the service `suite`.
    pub(crate) fn node(&self, id: &str) -> CatgaBuilder {
        let driver = Mutated::new(Arc::clone(self.subject.driver()), self.mutant);
        let node = Catga::builder()
            .driver(driver)
            .connect(&self.url)
            .service("suite")
            .node(id);
        if self.short_window {
            node.publish_deadline(WINDOW / 4).duplicate_window(WINDOW)
        } else {
            node
        }
    }

    /// The same bus with a duplicate window whose end can be waited for, by the clock on the wall too.
    pub(crate) fn with_short_window(mut self) -> Self {
        self.short_window = self.subject.time() == Time::Wall;
        self
    }

    /// Waits until the duplicate window of what was published has ended.
    pub(crate) async fn after_the_window(&self) {
        // That of a node that was not told otherwise is 2 minutes.
        let window = self.by_clock(Duration::from_secs(180), WINDOW + WINDOW / 8);
        tokio::time::sleep(window).await;
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

    /// A time that may be long where only tokio's timers matter, and is a fortieth of it by the clock on the wall.
    pub(crate) fn span(&self, long: Duration) -> Duration {
        match self.subject.time() {
            Time::Timers => long,
            Time::Wall => long / 40,
        }
    }

    /// One time where only tokio's timers matter, another by the clock on the wall.
    pub(crate) fn by_clock(&self, timers: Duration, wall: Duration) -> Duration {
        match self.subject.time() {
            Time::Timers => timers,
            Time::Wall => wall,
        }
    }

    /// Whether the backend claims an ability.
    pub(crate) fn has(&self, capability: Capability) -> bool {
        self.subject.capabilities().has(capability)
    }

    /// Whether a message may have this number when it is handled again, and was only given back before: where releases
    /// are not counted, no other than the first.
    pub(crate) fn allows_after_release(&self, attempt: u32, releases: u32) -> bool {
        let counted = if self.has(Capability::UncountedRelease) {
            0
        } else {
            releases
        };
        (1..=1 + counted).contains(&attempt)
    }

    /// The levels that the backend claims.
    pub(crate) fn levels(&self) -> Vec<QoS> {
        let claimed = self.subject.capabilities();
        let levels = [
            (QoS::AtMostOnce, Capability::AtMostOnce),
            (QoS::AtLeastOnce, Capability::AtLeastOnce),
            (QoS::ExactlyOnce, Capability::ExactlyOnce),
        ];
        let claimed = levels
            .into_iter()
            .filter(|(_, needed)| claimed.has(*needed));
        claimed.map(|(level, _)| level).collect()
    }

    /// A bound that holds exactly where only tokio's timers matter; by the clock on the wall, machines get some slack.
    pub(crate) fn bound(&self, bound: Duration) -> Duration {
        match self.subject.time() {
            Time::Timers => bound,
            Time::Wall => bound + Duration::from_secs(2),
        }
    }

    /// Lets time pass in which nothing more may happen: `long`, or at least a second by the clock on the wall.
    pub(crate) async fn quiet(&self, long: Duration) {
        let time = match self.subject.time() {
            Time::Timers => long,
            Time::Wall => (long / 100).clamp(Duration::from_secs(1), Duration::from_secs(2)),
        };
        tokio::time::sleep(time).await;
    }
}
