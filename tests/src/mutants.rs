//! Backends with a planted bug each: a rule that no bug breaks would be no rule.
//!
//! A mutant stands around a backend, whichever it is, and does one thing wrong. [`Mutant::caught_by`] names the
//! scenarios that have to fail on it; the run shows that they do.

mod access;
mod catalogue;
mod membership;
pub(crate) mod receiving;
mod sending;

use std::any::TypeId;
use std::fmt;
use std::sync::Arc;

use catga::{Backend, ConnectOptions, Driver, Error};
use catga_core::{
    BackendUrl, Capability, DeadLetter, DeadLetterFilter, DeadLetterId, DeadLetters, Page,
    async_trait,
};

pub use catalogue::Mutant;
use membership::MutatedRegistry;
use sending::MutatedTransport;

use crate::bus::Bus;
use crate::subject::{Bug, Subject};

/// A bug that is planted: of the kit, or of the backend's own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Planted {
    Mutant(Mutant),
    Bug(Bug),
}

impl Planted {
    /// The bus, with the bug.
    pub(crate) fn plant(&self, bus: Bus) -> Bus {
        match self {
            Self::Mutant(mutant) => bus.with_mutant(*mutant),
            Self::Bug(bug) => bus.with_bug(bug),
        }
    }

    /// The scenarios that have to fail on it.
    pub(crate) fn caught_by(&self) -> &'static [&'static str] {
        match self {
            Self::Mutant(mutant) => mutant.caught_by(),
            Self::Bug(bug) => bug.caught_by,
        }
    }

    /// Whether a scenario can feel it on a backend.
    pub(crate) fn is_felt(&self, scenario: &str, subject: &Subject) -> bool {
        match self {
            Self::Mutant(mutant) => mutant.is_felt(scenario, subject),
            Self::Bug(_) => true,
        }
    }

    /// What it does wrong.
    pub(crate) fn bug(&self) -> String {
        match self {
            Self::Mutant(mutant) => mutant.bug().to_owned(),
            Self::Bug(bug) => format!("planted by `{}` in the URL", bug.option),
        }
    }
}

impl fmt::Display for Planted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mutant(mutant) => fmt::Display::fmt(mutant, f),
            Self::Bug(bug) => f.write_str(bug.option),
        }
    }
}

/// A backend with a bug, or without one as it is.
#[derive(Debug)]
pub(crate) struct Mutated {
    driver: Arc<dyn Driver>,
    mutant: Option<Mutant>,
}

impl Mutated {
    pub(crate) fn new(driver: Arc<dyn Driver>, mutant: Option<Mutant>) -> Self {
        Self { driver, mutant }
    }
}

#[async_trait]
impl Driver for Mutated {
    fn name(&self) -> &'static str {
        self.driver.name()
    }

    fn schemes(&self) -> &'static [&'static str] {
        self.driver.schemes()
    }

    fn options(&self) -> &'static [&'static str] {
        self.driver.options()
    }

    fn capabilities(&self) -> &'static [Capability] {
        self.driver.capabilities()
    }

    fn commit_store(&self) -> Option<TypeId> {
        self.driver.commit_store()
    }

    async fn connect(&self, url: &BackendUrl, options: &ConnectOptions) -> Result<Backend, Error> {
        let url = &self
            .mutant
            .map_or(Ok(url.clone()), |bug| access::instead(bug, url))?;
        let connected = self.driver.connect(url, options).await;
        let mut backend = match (self.mutant, connected) {
            (Some(Mutant::WaitsForAServer), Err(_)) => std::future::pending().await,
            (Some(Mutant::ShowsThePassword), Err(error)) => {
                let password = url.password().unwrap_or_default().to_owned();
                return Err(error.with_context("password", password));
            }
            (_, connected) => connected?,
        };
        let Some(mutant) = self.mutant else {
            return Ok(backend);
        };
        if mutant == Mutant::OpensADoor {
            access::open_a_door()?;
        }
        backend.transport = Arc::new(MutatedTransport::new(mutant, backend.transport));
        backend.registry = backend
            .registry
            .map(|registry| Arc::new(MutatedRegistry::new(mutant, registry)) as _);
        backend.dead_letters = backend
            .dead_letters
            .map(|letters| Arc::new(MutatedLetters { mutant, letters }) as _);
        backend.inbox = backend
            .inbox
            .map(|inbox| Arc::new(receiving::MutatedInbox { mutant, inbox }) as _);
        Ok(backend)
    }
}

#[derive(Debug)]
struct MutatedLetters {
    mutant: Mutant,
    letters: Arc<dyn DeadLetters>,
}

#[async_trait]
impl DeadLetters for MutatedLetters {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&DeadLetterId>,
        limit: usize,
    ) -> Result<Page, Error> {
        self.letters.list(filter, after, limit).await
    }

    async fn inspect(&self, id: &DeadLetterId) -> Result<Option<DeadLetter>, Error> {
        self.letters.inspect(id).await
    }

    async fn redrive(&self, id: &DeadLetterId) -> Result<(), Error> {
        if self.mutant == Mutant::RedrivesNothing {
            let known = self.letters.inspect(id).await?.is_some();
            if known {
                return Ok(());
            }
        }
        self.letters.redrive(id).await
    }

    async fn purge(&self, filter: &DeadLetterFilter) -> Result<u64, Error> {
        self.letters.purge(filter).await
    }
}
