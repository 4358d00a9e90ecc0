//! What an application is made of, and the checks before it starts.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use catga_core::{
    BackendUrl, Capabilities, Capability, Codec, Codecs, Driver, Error, ErrorKind, InboxStore,
    Name, NodeRegistry,
};

use crate::app::Catga;
use crate::backoff::Backoff;
use crate::checks::BackendAbilities;
use crate::drivers;
use crate::extract::States;
use crate::handlers::Handlers;
use crate::layer::Layers;
use crate::routing::Routes;
use crate::settings::{Env, Settings, all_problems, variable};
use crate::start::{Plan, fresh_node_id};
use crate::table::Table;

type Override = Box<dyn FnOnce(&mut Settings) -> Result<(), String> + Send>;

/// Collects what an application needs, and starts it.
///
/// Settings rise in this order: defaults, URL options, environment (`CATGA_URL`, `CATGA_SERVICE`,
/// `CATGA_NODE`, `CATGA_ENDPOINT`, `CATGA_NAMESPACE`), this builder. Every setting below is also a URL
/// option of the same name: `memory://orders?attempts=7&backoff=50ms..1s`.
#[derive(Default)]
#[must_use = "nothing runs before `.start().await`"]
pub struct CatgaBuilder {
    url: Option<String>,
    overrides: Vec<Override>,
    states: States,
    handlers: Option<Handlers>,
    drivers: Vec<Arc<dyn Driver>>,
    codecs: Vec<Arc<dyn Codec>>,
    registry: Option<Arc<dyn NodeRegistry>>,
    inbox: Option<Arc<dyn InboxStore>>,
    pub(crate) layers: Layers,
    pub(crate) routes: Routes,
}

impl CatgaBuilder {
    /// Sets the backend by its URL; without, it comes from `CATGA_URL`.
    pub fn connect(mut self, url: impl Into<String>) -> Self {
        self.url = Some(url.into());
        self
    }

    fn set(
        mut self,
        set: impl FnOnce(&mut Settings) -> Result<(), String> + Send + 'static,
    ) -> Self {
        self.overrides.push(Box::new(set));
        self
    }

    fn name(self, setting: &str, name: String, put: fn(&mut Settings, Name)) -> Self {
        let checked = Name::token(name).map_err(|e| format!("`{setting}`: {}", e.message()));
        self.set(move |settings| checked.map(|name| put(settings, name)))
    }

    /// Sets what keeps installations on one broker apart. Default: `catga`.
    pub fn namespace(self, namespace: impl Into<String>) -> Self {
        self.name("namespace", namespace.into(), |s, name| s.namespace = name)
    }

    /// Sets the service that this is a node of: nodes of one service share its requests and groups.
    /// Default: the name of the executable.
    pub fn service(self, service: impl Into<String>) -> Self {
        self.name("service", service.into(), |s, name| s.service = name)
    }

    /// Sets the id of this node. Default: a fresh one at each start.
    pub fn node(self, node: impl Into<String>) -> Self {
        self.name("node", node.into(), |s, name| s.node = Some(name))
    }

    /// Sets where people reach this node: shown to others, never dialled.
    pub fn endpoint(self, endpoint: impl Into<String>) -> Self {
        let endpoint = endpoint.into();
        self.set(move |settings| {
            settings.endpoint = Some(endpoint);
            Ok(())
        })
    }

    /// Sets how many attempts a message has before it is dead-lettered. Default: 4.
    pub fn attempts(self, attempts: u32) -> Self {
        self.set(move |settings| {
            settings.attempts = attempts;
            Ok(())
        })
    }

    /// Sets the least and the most delay between attempts; the least is above zero. Default: 200 ms to 30 s.
    pub fn backoff(self, least: Duration, most: Duration) -> Self {
        let checked = Backoff::new(least, most).map_err(|problem| format!("`backoff`: {problem}"));
        self.set(move |settings| checked.map(|backoff| settings.backoff = backoff))
    }

    /// Sets how many calls of one handler run at once. Default: 64.
    pub fn concurrency(self, concurrency: u32) -> Self {
        self.set(move |settings| {
            settings.concurrency = concurrency;
            Ok(())
        })
    }

    /// Sets the longest that one attempt may take. Default: 30 s.
    pub fn handler_timeout(self, timeout: Duration) -> Self {
        self.set(move |settings| {
            settings.handler_timeout = timeout;
            Ok(())
        })
    }

    /// Sets how long a delivery may stay unsettled before it is redelivered; it is renewed while its
    /// handler runs. Default: 30 s.
    pub fn ack_wait(self, ack_wait: Duration) -> Self {
        self.set(move |settings| {
            settings.ack_wait = ack_wait;
            Ok(())
        })
    }

    /// Sets how long a publish may take, over all its tries. Default: 5 s.
    pub fn publish_deadline(self, deadline: Duration) -> Self {
        self.set(move |settings| {
            settings.publish_deadline = deadline;
            Ok(())
        })
    }

    /// Sets how long a request may take, over all tries and hops; `None` for as long as it takes. Default: 10 s.
    pub fn request_deadline(self, deadline: impl Into<Option<Duration>>) -> Self {
        let deadline = deadline.into();
        self.set(move |settings| {
            settings.request_deadline = deadline;
            Ok(())
        })
    }

    /// Sets how often a request is tried again. Default: 3.
    pub fn request_retries(self, retries: u32) -> Self {
        self.set(move |settings| {
            settings.request_retries = retries;
            Ok(())
        })
    }

    /// Sets how often a node says that it lives, and how long it may be silent. Default: 10 s and 30 s.
    pub fn heartbeat(self, heartbeat: Duration, node_timeout: Duration) -> Self {
        self.set(move |settings| {
            settings.heartbeat = heartbeat;
            settings.node_timeout = node_timeout;
            Ok(())
        })
    }

    /// Sets how long a member of `each_node` may be away before what is kept for it is given up. Default: a
    /// day. The memory backend does not use it.
    pub fn absence(self, absence: Duration) -> Self {
        self.set(move |settings| {
            settings.absence = absence;
            Ok(())
        })
    }

    /// Sets how long the id of a QoS 2 publish is remembered, so that a second one with it stores nothing: at
    /// least four publish deadlines. Default: 2 min.
    pub fn duplicate_window(self, window: Duration) -> Self {
        self.set(move |settings| {
            settings.duplicate_window = Some(window);
            Ok(())
        })
    }

    /// Sets how long the inbox knows a QoS 2 message as handled: no copy that comes later is recognised, so that
    /// it is to be longer than all attempts, and than the time until a dead letter is redriven. Default: 24 h.
    pub fn inbox_retention(self, retention: Duration) -> Self {
        self.set(move |settings| {
            settings.inbox_retention = Some(retention);
            Ok(())
        })
    }

    /// Sets how long the response of an idempotent request is kept for its retries, and up to how many bytes.
    /// Default: 10 min and 64 KiB. The retry of a request whose response was larger gets the error
    /// [`ResponseNotKept`](catga_core::ErrorKind::ResponseNotKept), and its handler does not run again.
    pub fn responses(self, retention: Duration, limit_bytes: usize) -> Self {
        self.set(move |settings| {
            settings.response_retention = Some(retention);
            settings.response_limit = limit_bytes;
            Ok(())
        })
    }

    /// Sets how long [`Catga::shutdown`] waits for handlers. Default: 30 s.
    pub fn shutdown_timeout(self, timeout: Duration) -> Self {
        self.set(move |settings| {
            settings.shutdown_timeout = timeout;
            Ok(())
        })
    }

    /// Hands every handler a decoded copy, as a networked backend would, instead of the value that was
    /// published: for tests, where skipped fields must not differ. Default: off.
    pub fn strict(self, strict: bool) -> Self {
        self.set(move |settings| {
            settings.strict = strict;
            Ok(())
        })
    }

    /// Gives handlers a value: they take a clone of it as [`State`](crate::State).
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, state: T) -> Self {
        self.states.insert(state);
        self
    }

    /// Registers these handlers, and not those that were linked into the program: see
    /// [`handlers!`](crate::handlers!).
    pub fn handlers(mut self, handlers: Handlers) -> Self {
        self.handlers = Some(match self.handlers {
            Some(earlier) => earlier.and(handlers),
            None => handlers,
        });
        self
    }

    /// Adds a backend of one's own.
    pub fn driver(mut self, driver: impl Driver) -> Self {
        self.drivers.push(Arc::new(driver));
        self
    }

    /// Adds a codec; the first one added writes, all read. Default: JSON.
    pub fn codec(mut self, codec: impl Codec) -> Self {
        self.codecs.push(Arc::new(codec));
        self
    }

    /// Uses this node registry instead of the backend's.
    pub fn registry(mut self, registry: Arc<dyn NodeRegistry>) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Uses this inbox instead of the backend's: of another backend, say.
    pub fn inbox(mut self, inbox: Arc<dyn InboxStore>) -> Self {
        self.inbox = Some(inbox);
        self
    }

    /// Connects, subscribes every handler, and joins the cluster. When it returns, messages that are
    /// published from now on reach the handlers.
    ///
    /// # Errors
    /// [`Config`](catga_core::ErrorKind::Config) with *all* that is wrong with settings and handlers, each with file
    /// and line; [`Unsupported`](catga_core::ErrorKind::Unsupported) when nothing is wrong but what the backend
    /// lacks; [`Connect`](catga_core::ErrorKind::Connect) when the backend cannot be reached;
    /// [`DuplicateNode`](catga_core::ErrorKind::DuplicateNode) when a live node has this id.
    ///
    /// # Cancel safety
    /// Dropping the future undoes what was started; at worst the registry lists the node until its time-out.
    pub async fn start(self) -> Result<Catga, Error> {
        let (plan, url) = self.plan(&|variable| std::env::var(variable))?;
        plan.connect(&url).await
    }

    /// Everything that can be found wrong without a connection.
    fn plan(self, env: Env<'_>) -> Result<(Plan, BackendUrl), Error> {
        let mut drivers = self.drivers;
        drivers.extend(drivers::built_in());
        let text = match self.url {
            Some(url) => Ok(url),
            None => variable("CATGA_URL", env).map(Option::unwrap_or_default),
        };
        // What is wrong with the URL hides nothing else: the checks that need no driver go on.
        let mut wrong = None;
        let mut keep = |error| wrong = Some(error);
        let url = drivers::read(text.as_deref()).map_err(&mut keep).ok();
        let driver = url.as_ref().and_then(|url| {
            let found = drivers::find(url.scheme(), &drivers);
            found.map_err(&mut keep).ok()
        });
        let mut problems: Vec<_> = wrong.iter().map(|e| e.message().to_owned()).collect();
        let mut settings = Settings::read(url.as_ref(), driver.as_deref(), env, &mut problems);
        problems.extend(
            self.overrides
                .into_iter()
                .filter_map(|set| set(&mut settings).err()),
        );
        settings.check(&mut problems);
        settings.cap();
        if url.is_none() && text.as_deref() != Ok("") {
            // The node may be named by the URL that cannot be read.
            settings.node.get_or_insert_with(fresh_node_id);
        }
        let handlers = self.handlers.unwrap_or_else(Handlers::linked);
        self.layers.check(handlers.defs(), &mut problems);
        let others: Vec<_> = drivers
            .iter()
            .map(|driver| {
                (
                    driver.name(),
                    driver.capabilities().iter().copied().collect(),
                )
            })
            .collect();
        let inbox = self.inbox.as_deref();
        let backend = driver.as_ref().map(|driver| BackendAbilities {
            name: driver.name(),
            capabilities: with_inbox(driver.capabilities().iter().copied().collect(), inbox),
            commit_store: match inbox {
                Some(inbox) => inbox.commit_store().map(Any::type_id),
                None => driver.commit_store(),
            },
            others: &others,
        });
        let mut lacks = Vec::new();
        let table = Table::new(
            handlers.defs(),
            &settings,
            &self.states,
            &self.layers,
            backend.as_ref(),
            &mut problems,
            &mut lacks,
        );
        self.routes.check(&table, &mut problems);
        let kind = if problems.is_empty() {
            ErrorKind::Unsupported
        } else {
            ErrorKind::Config
        };
        let missing = lacks.iter().find_map(|lack| lack.capability);
        problems.extend(lacks.into_iter().map(|lack| lack.problem));
        let (Some(url), Some(driver), []) = (url, driver, problems.as_slice()) else {
            return Err(match wrong {
                Some(error) if problems.len() == 1 => error,
                _ => {
                    let error = all_problems(kind, &problems);
                    match missing {
                        Some(missing) => error.with_context("capability", missing),
                        None => error,
                    }
                }
            });
        };
        let codecs = match self.codecs {
            own if own.is_empty() => Codecs::default(),
            own => Codecs::new(own.into_iter().chain(Codecs::default().iter().cloned())),
        };
        Ok((
            Plan {
                settings,
                driver,
                table,
                states: self.states,
                codecs,
                registry: self.registry,
                inbox: self.inbox,
                routes: self.routes,
            },
            url,
        ))
    }
}

/// What a backend can do together with an inbox that was given.
fn with_inbox(capabilities: Capabilities, inbox: Option<&dyn InboxStore>) -> Capabilities {
    match inbox {
        Some(_) => capabilities.with(Capability::Inbox),
        None => capabilities,
    }
}

impl fmt::Debug for CatgaBuilder {
    /// The URL may hold a password, and is not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatgaBuilder")
            .field("states", &self.states)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::env::VarError;

    use super::*;

    fn problem(builder: CatgaBuilder, url: &Result<&str, VarError>) -> String {
        let env = |name: &str| match name {
            "CATGA_URL" => url.clone().map(str::to_owned),
            _ => Err(VarError::NotPresent),
        };
        let error = builder.plan(&env).expect_err("it cannot work");
        error.to_string()
    }

    #[test]
    fn a_missing_or_wrong_url_hides_no_other_problem() {
        let sentinel = || Err(VarError::NotUnicode("sentinel".into()));
        for (url, operation, part) in [
            (Err(VarError::NotPresent), "start", "no backend was named"),
            (
                sentinel(),
                "start",
                "environment variable `CATGA_URL` is not UTF-8",
            ),
            (Ok("sentinel"), "connect", "the URL has no `scheme://`"),
            (
                Ok("natz://?x=1&namespace=a"),
                "connect",
                "no driver for scheme \"natz\"",
            ),
        ] {
            let none = || CatgaBuilder::default().handlers(Handlers::default());
            let one = problem(none(), &url);
            assert!(one.starts_with(&format!("{operation}: {part}")), "{one}");
            let two = problem(none().attempts(0).service("a b"), &url);
            assert!(two.starts_with("start: 3 problems:\n  1. "), "{two}");
            for part in [part, "`service`: invalid name", "`attempts` must be"] {
                assert!(two.contains(part), "{two}");
            }
            assert!(!format!("{one}{two}").contains("sentinel"), "{two}");
        }
    }
}
