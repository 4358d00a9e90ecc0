//! The table of handlers: made once at start, then only read.

use std::any::TypeId;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use catga_core::{
    Capabilities, Capability, Consumers, Kind, Name, NodeId, QoS, Request, Start, Subscribe,
};

use crate::backoff::Backoff;
use crate::extract::{Requirements, States, TypeIdHasher};
use crate::handlers::{Call, HandlerDef};
use crate::settings::Settings;
use crate::slots::Slots;
use crate::time::FAR;

/// A handler as this application runs it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) def: &'static HandlerDef,
    pub(crate) message: Name,
    pub(crate) group: Name,
    pub(crate) attempts: u32,
    pub(crate) backoff: Backoff,
    pub(crate) timeout: Duration,
    pub(crate) slots: Slots,
    /// Whether its messages arrive no more, while the application still runs.
    pub(crate) ended: AtomicBool,
    pub(crate) counters: Counters,
}

/// What a handler counted.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) handled: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) retried: AtomicU64,
    pub(crate) dead_lettered: AtomicU64,
    /// Of subscriptions that ended; the living ones count for themselves.
    pub(crate) dropped: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Entry {
    fn new(def: &'static HandlerDef, settings: &Settings, group: Name) -> Result<Self, String> {
        let options = &def.options;
        let concurrency = options.concurrency.unwrap_or(settings.concurrency);
        let backoff = match options.backoff {
            Some((least, most)) => Backoff::new(least, most)?.capped(FAR),
            None => settings.backoff,
        };
        Ok(Self {
            def,
            message: Name::from_static(def.message.name),
            group,
            attempts: options.attempts.unwrap_or(settings.attempts),
            backoff,
            timeout: options.timeout.unwrap_or(settings.handler_timeout).min(FAR),
            ended: AtomicBool::new(false),
            slots: Slots::new(usize::try_from(concurrency).unwrap_or(usize::MAX)),
            counters: Counters::default(),
        })
    }

    pub(crate) fn is_request(&self) -> bool {
        matches!(self.def.message.kind, Kind::Request { .. })
    }

    /// Why this handler cannot be beside those `before` it. It is compared with the first of a kind
    /// alone, so that each handler too many is one problem.
    fn double(&self, before: &[Arc<Self>]) -> Option<String> {
        let (site, name, message) = (self.def.site, &self.message, &self.def.message);
        let same_name = before.iter().filter(|other| other.message == *name);
        let first = same_name.clone().next()?;
        let mut same_type =
            same_name.filter(|other| (other.def.message.type_id)() == (message.type_id)());
        let Some(first_of_type) = same_type.clone().next() else {
            let (a, b) = ((first.def.message.type_name)(), (message.type_name)());
            let first = first.def.site;
            return Some(format!(
                "{site}: two message types have the name `{name}`: `{a}` (handled by {first}) and `{b}`; give one another name: `#[message(name = \"..\")]`"
            ));
        };
        if self.is_request() {
            let first = first_of_type.def.site;
            return Some(format!(
                "{site}: the request `{name}` already has the handler {first}; a request is answered by one"
            ));
        }
        let each_node = self.def.options.each_node;
        let same_group = same_type
            .find(|other| other.group == self.group && other.def.options.each_node == each_node)?;
        let (first, group) = (same_group.def.site, &self.group);
        Some(format!(
            "{site}: the event `{name}` already has the handler {first} in group `{group}`, and each would get half of them; name another group: `#[handler(group = \"..\")]`"
        ))
    }

    /// The subscription that feeds a handler of an event.
    pub(crate) fn subscribe(&self, settings: &Settings, node: &NodeId) -> Subscribe {
        let group = self.group.clone();
        let options = &self.def.options;
        let consumers = if options.each_node {
            Consumers::EachNode {
                group,
                node: node.clone(),
            }
        } else {
            Consumers::Group(group)
        };
        Subscribe::new(self.message.clone(), self.def.message.qos, consumers)
            .with_start(if options.start_new {
                Start::New
            } else {
                Start::Oldest
            })
            .with_ack_wait(settings.ack_wait)
            .with_max_in_flight(self.slots.limit())
            .with_ordered(if options.ordered {
                self.def.message.partitions
            } else {
                None
            })
            .with_absence(settings.absence)
    }
}

impl AsRef<Slots> for Arc<Entry> {
    fn as_ref(&self) -> &Slots {
        &self.slots
    }
}

/// All handlers of an application.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) entries: Vec<Arc<Entry>>,
    requests: HashMap<TypeId, Arc<Entry>, BuildHasherDefault<TypeIdHasher>>,
}

impl Table {
    /// Makes the table; every problem goes into `problems`. Without a backend nothing is said about
    /// what it can do.
    pub(crate) fn new(
        defs: &[&'static HandlerDef],
        settings: &Settings,
        states: &States,
        backend: Option<&BackendAbilities<'_>>,
        problems: &mut Vec<String>,
    ) -> Self {
        let mut table = Self::default();
        for def in defs {
            check_states(def, states, problems);
            if let Some(backend) = backend {
                backend.check(def, problems);
            }
            check_options(def, settings, problems);
            let group = match def.options.group {
                Some(group) => Name::new(group),
                None => Name::new(format!("{}.{}", settings.service, def.message.name)),
            };
            let entry = group
                .map_err(|error| error.message().to_owned())
                .and_then(|group| Entry::new(def, settings, group));
            match entry {
                Ok(entry) => table.entries.push(Arc::new(entry)),
                Err(problem) => problems.push(format!("{}: {problem}", def.site)),
            }
        }
        table.check_doubles(problems);
        let requests = table.entries.iter().filter(|entry| entry.is_request());
        table.requests = requests
            .map(|entry| ((entry.def.message.type_id)(), Arc::clone(entry)))
            .collect();
        table
    }

    fn check_doubles(&self, problems: &mut Vec<String>) {
        for (i, entry) in self.entries.iter().enumerate() {
            problems.extend(entry.double(&self.entries[..i]));
        }
    }

    /// The handler of a request, when it is here, and how to call it.
    pub(crate) fn request<R: Request>(&self) -> Option<(&Arc<Entry>, &'static Call<R>)> {
        let entry = self.requests.get(&TypeId::of::<R>())?;
        Some((entry, entry.def.call.downcast_ref()?))
    }

    /// The names of the requests that are answered here.
    pub(crate) fn request_names(&self) -> Vec<Name> {
        self.requests
            .values()
            .map(|entry| entry.message.clone())
            .collect()
    }

    /// How many handlers run now.
    pub(crate) fn running(&self) -> usize {
        self.entries.iter().map(|entry| entry.slots.taken()).sum()
    }

    /// What to tell somebody whose request nobody answers.
    pub(crate) fn describe(&self) -> String {
        if self.entries.is_empty() {
            return "no handler is registered here".to_owned();
        }
        let names: Vec<_> = self
            .entries
            .iter()
            .map(|e| format!("{} ({})", e.message, e.def.site.name))
            .collect();
        format!("registered here: {}", names.join(", "))
    }
}

fn check_states(def: &HandlerDef, states: &States, problems: &mut Vec<String>) {
    let mut requirements = Requirements::default();
    for requires in def.requires {
        requires(&mut requirements);
    }
    let mut seen = HashSet::new();
    for (id, name) in requirements.states {
        if seen.insert(id) && !states.contains(id) {
            problems.push(format!(
                "{}: needs the state `{name}`, which was not given: add `.state(..)` to the builder",
                def.site
            ));
        }
    }
}

/// What a backend can do, and which others could.
#[derive(Debug)]
pub(crate) struct BackendAbilities<'a> {
    pub(crate) name: &'static str,
    pub(crate) capabilities: Capabilities,
    /// The backends at hand with what they can do.
    pub(crate) others: &'a [(&'static str, Capabilities)],
}

impl BackendAbilities<'_> {
    /// Says that an ability is missing, and who has it, or what to do as long as nobody does.
    fn lacks(&self, capability: Capability) -> Option<String> {
        if self.capabilities.has(capability) {
            return None;
        }
        let have: Vec<_> = self
            .others
            .iter()
            .filter(|other| other.1.has(capability))
            .map(|other| other.0)
            .collect();
        let remedy = match capability {
            Capability::ExactlyOnce => ": write `#[qos(at_least_once)]` until one has it",
            Capability::Ordered => ": leave `ordered` out until one has it",
            _ => "",
        };
        let (have, remedy) = if have.is_empty() {
            ("none of those at hand".to_owned(), remedy)
        } else {
            (have.join(", "), "")
        };
        Some(format!(
            "the backend `{}` has no {capability} (backends that have it: {have}){remedy}",
            self.name
        ))
    }

    /// What a handler asks for beyond what the backend can do.
    fn check(&self, def: &HandlerDef, problems: &mut Vec<String>) {
        let (site, message, options) = (def.site, &def.message, &def.options);
        let mut need = |capability, what: String| {
            let lack = self.lacks(capability);
            problems.extend(lack.map(|lack| format!("{site}: {what}, but {lack}")));
        };
        let name = message.name;
        let is_request = matches!(message.kind, Kind::Request { .. });
        if is_request {
            need(
                Capability::Requests,
                format!("answers the request `{name}`"),
            );
        } else if options.each_node {
            need(
                Capability::EachNode,
                format!("handles `{name}` on each node"),
            );
        } else {
            need(Capability::Groups, format!("handles `{name}` in a group"));
        }
        match message.qos {
            QoS::AtLeastOnce if !is_request => {
                need(
                    Capability::AtLeastOnce,
                    format!("`{name}` is `at_least_once`"),
                );
            }
            QoS::ExactlyOnce => {
                need(
                    Capability::ExactlyOnce,
                    format!("`{name}` is `exactly_once`"),
                );
            }
            _ => {}
        }
        if options.ordered && !is_request {
            need(Capability::Ordered, format!("handles `{name}` ordered"));
        }
    }
}

/// What a handler says that does not fit its message or the settings, whatever the backend.
fn check_options(def: &HandlerDef, settings: &Settings, problems: &mut Vec<String>) {
    let (site, message, options) = (def.site, &def.message, &def.options);
    let (name, qos) = (message.name, message.qos);
    let redelivery = [
        ("`attempts`", options.attempts.is_some()),
        ("`backoff`", options.backoff.is_some()),
        ("`ordered`", options.ordered),
    ];
    if let Kind::Request { idempotent } = message.kind {
        if idempotent && qos != QoS::AtMostOnce {
            problems.push(format!(
                "{site}: the request `{name}` is idempotent, and this version keeps no responses yet: write `#[request(idempotent = false)]`"
            ));
        }
        let of_events = [
            ("`group`", options.group.is_some()),
            ("`start`", options.start_new),
        ];
        let given: Vec<_> = of_events
            .iter()
            .chain(&redelivery)
            .filter(|option| option.1)
            .map(|option| option.0)
            .collect();
        if !given.is_empty() {
            problems.push(format!(
                "{site}: leave out {}: the request `{name}` is answered by its service and tried again by its caller",
                given.join(", ")
            ));
        }
        return;
    }
    if options.ordered && message.partitions.is_none() {
        problems.push(format!(
            "{site}: `ordered` needs a routing key: add `#[route_by(field)]` to `{name}`"
        ));
    }
    if qos == QoS::AtMostOnce && redelivery.iter().any(|option| option.1) {
        problems.push(format!(
            "{site}: `attempts`, `backoff` and `ordered` need redelivery, and `{name}` is `at_most_once`: add `#[qos(at_least_once)]` to it"
        ));
    }
    if qos == QoS::AtMostOnce && options.start_new {
        problems.push(format!(
            "{site}: leave out `start`: `{name}` is `at_most_once`, and its handlers always begin with the next message"
        ));
    }
    if options.each_node && qos != QoS::AtMostOnce && settings.node.is_none() {
        problems.push(format!(
            "{site}: `each_node` at `{qos}` needs a node id that stays the same over restarts, or `{name}` would be kept for nodes that never return: add `.node(\"..\")` to the builder"
        ));
    }
}
