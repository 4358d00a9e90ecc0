//! Which strategy a request has.

use std::any::type_name;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use catga_core::{Error, ErrorKind, Request};

use super::{RoundRobin, RoutingStrategy};
use crate::CatgaBuilder;
use crate::table::Table;

/// The strategies that a builder was given.
pub(crate) struct Routes {
    all: Arc<dyn RoutingStrategy>,
    some: HashMap<&'static str, Route>,
}

/// The strategy of one request type.
struct Route {
    strategy: Arc<dyn RoutingStrategy>,
    type_name: &'static str,
    has_key: bool,
}

impl Default for Routes {
    fn default() -> Self {
        Self::all(RoundRobin)
    }
}

impl Routes {
    /// One strategy for all.
    pub(crate) fn all(strategy: impl RoutingStrategy) -> Self {
        Self {
            all: Arc::new(strategy),
            some: HashMap::new(),
        }
    }

    /// The strategy of a request.
    pub(crate) fn of(&self, request: &str) -> &Arc<dyn RoutingStrategy> {
        let own = self.some.get(request);
        own.map_or(&self.all, |route| &route.strategy)
    }

    /// Finds strategies that need a key, and requests that have none.
    pub(crate) fn check(&self, table: &Table, problems: &mut Vec<String>) {
        let mut some: Vec<_> = self.some.iter().collect();
        some.sort_unstable_by_key(|(request, _)| **request);
        for (request, route) in some {
            if route.strategy.needs_key() && !route.has_key {
                let (name, strategy) = (route.type_name, &route.strategy);
                problems.push(format!(
                    "`.routing_for::<{name}>({strategy:?})`: it goes by the routing key, and `{request}` has none: add `#[route_by(field)]` to `{request}`, or give it another strategy"
                ));
            }
        }
        if !self.all.needs_key() {
            return;
        }
        for entry in table.entries.iter().filter(|entry| entry.is_request()) {
            let message = &entry.def.message;
            if message.partitions.is_none() && !self.some.contains_key(message.name) {
                problems.push(format!("{}: {}", entry.def.site, self.no_key(message.name)));
            }
        }
    }

    fn no_key(&self, request: &str) -> String {
        format!(
            "`.routing({:?})` goes by the routing key, and the request `{request}` has none: add `#[route_by(field)]` to `{request}`, or give it another strategy: `.routing_for::<{request}>(RoundRobin)`",
            self.all
        )
    }

    /// A request without the key that its strategy needs, whose handler is elsewhere: `start` had not seen it.
    #[cold]
    pub(crate) fn keyless<R: Request>(&self) -> Error {
        Error::new(ErrorKind::Config, "send", self.no_key(R::NAME))
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let some = self.some.iter();
        let some = some.map(|(request, route)| (request, &route.strategy));
        f.debug_map().entry(&"*", &self.all).entries(some).finish()
    }
}

/// Where requests go.
impl CatgaBuilder {
    /// Sets which node a request goes to, of those that answer it: see [`routing`](crate::routing). Default:
    /// [`RoundRobin`].
    pub fn routing(mut self, strategy: impl RoutingStrategy) -> Self {
        self.routes.all = Arc::new(strategy);
        self
    }

    /// Sets it for one type of request: `.routing_for::<Quote>(ConsistentHash)`.
    pub fn routing_for<R: Request>(mut self, strategy: impl RoutingStrategy) -> Self {
        let route = Route {
            strategy: Arc::new(strategy),
            type_name: type_name::<R>(),
            has_key: R::PARTITIONS.is_some(),
        };
        self.routes.some.insert(R::NAME, route);
        self
    }
}
