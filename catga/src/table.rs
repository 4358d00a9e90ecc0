//! The table of handlers: made once at start, then only read.

use std::any::TypeId;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use catga_core::{
    Capabilities, Capability, Consumers, Kind, Name, NodeId, QoS, Request, Start, Subscribe,
};

use crate::backoff::Backoff;
use crate::extract::{Requirements, States, TypeIdHasher};
use crate::handlers::{Call, HandlerDef};
use crate::settings::Settings;
use crate::slots::Slots;

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
    fn new(def: &'static HandlerDef, settings: &Settings, group: Name) -> Self {
        let options = &def.options;
        let concurrency = options.concurrency.unwrap_or(settings.concurrency);
        Self {
            def,
            message: Name::from_static(def.message.name),
            group,
            attempts: options.attempts.unwrap_or(settings.attempts),
            backoff: options
                .backoff
                .map_or(settings.backoff, |(least, most)| Backoff::new(least, most)),
            timeout: options.timeout.unwrap_or(settings.handler_timeout),
            slots: Slots::new(usize::try_from(concurrency).unwrap_or(usize::MAX)),
            counters: Counters::default(),
        }
    }

    pub(crate) fn is_request(&self) -> bool {
        matches!(self.def.message.kind, Kind::Request { .. })
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
    /// Makes the table; every problem goes into `problems`.
    pub(crate) fn new(
        defs: &[&'static HandlerDef],
        settings: &Settings,
        states: &States,
        backend: &BackendAbilities<'_>,
        problems: &mut Vec<String>,
    ) -> Self {
        let mut table = Self::default();
        for def in defs {
            check_states(def, states, problems);
            backend.check(def, settings, problems);
            let group = match def.options.group {
                Some(group) => Name::new(group),
                None => Name::new(format!("{}.{}", settings.service, def.message.name)),
            };
            let group = match group {
                Ok(group) => group,
                Err(error) => {
                    problems.push(format!("{}: {}", def.site, error.message()));
                    continue;
                }
            };
            table
                .entries
                .push(Arc::new(Entry::new(def, settings, group)));
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
            let same_name = self.entries[..i]
                .iter()
                .filter(|other| other.message == entry.message);
            for other in same_name {
                let (site, first, name) = (entry.def.site, other.def.site, &entry.message);
                if (entry.def.message.type_id)() != (other.def.message.type_id)() {
                    let (a, b) = (
                        (other.def.message.type_name)(),
                        (entry.def.message.type_name)(),
                    );
                    problems.push(format!(
                        "{site}: two message types have the name `{name}`: `{a}` (handled by {first}) and `{b}`; give one another name: `#[message(name = \"..\")]`"
                    ));
                } else if entry.is_request() {
                    problems.push(format!(
                        "{site}: the request `{name}` already has the handler {first}; a request is answered by one"
                    ));
                } else if entry.group == other.group
                    && entry.def.options.each_node == other.def.options.each_node
                {
                    problems.push(format!(
                        "{site}: the event `{name}` already has the handler {first} in group `{}`, and each would get half of them; name another group: `#[handler(group = \"..\")]`",
                        entry.group
                    ));
                }
            }
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
    for (id, name) in requirements.states {
        if !states.contains(id) {
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
    /// Says that an ability is missing, and who has it.
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
        let have = if have.is_empty() {
            "none of those at hand".to_owned()
        } else {
            have.join(", ")
        };
        Some(format!(
            "the backend `{}` has no {capability} (backends that have it: {have})",
            self.name
        ))
    }

    /// What a handler asks for beyond what the backend can do.
    fn check(&self, def: &HandlerDef, settings: &Settings, problems: &mut Vec<String>) {
        let (site, message, options) = (def.site, &def.message, &def.options);
        let need = |capability, what: String| {
            self.lacks(capability)
                .map(|lack| format!("{site}: {what}, but {lack}"))
        };
        let name = message.name;
        match message.kind {
            Kind::Request { idempotent } => {
                problems.extend(need(
                    Capability::Requests,
                    format!("answers the request `{name}`"),
                ));
                if idempotent && message.qos != QoS::AtMostOnce {
                    problems.push(format!(
                        "{site}: the request `{name}` is idempotent, and this version keeps no responses yet: write `#[request(idempotent = false)]`"
                    ));
                }
            }
            _ if options.each_node => problems.extend(need(
                Capability::EachNode,
                format!("handles `{name}` on each node"),
            )),
            _ => problems.extend(need(
                Capability::Groups,
                format!("handles `{name}` in a group"),
            )),
        }
        match message.qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce if matches!(message.kind, Kind::Request { .. }) => {}
            QoS::AtLeastOnce => problems.extend(need(
                Capability::AtLeastOnce,
                format!("`{name}` is `at_least_once`"),
            )),
            QoS::ExactlyOnce => problems.extend(need(
                Capability::ExactlyOnce,
                format!("`{name}` is `exactly_once`"),
            )),
        }
        if options.ordered {
            problems.extend(need(
                Capability::Ordered,
                format!("handles `{name}` ordered"),
            ));
            if message.partitions.is_none() {
                problems.push(format!(
                    "{site}: `ordered` needs a routing key: add `#[route_by(field)]` to `{name}`"
                ));
            }
        }
        if message.qos == QoS::AtMostOnce
            && (options.ordered || options.attempts.is_some() || options.backoff.is_some())
        {
            problems.push(format!(
                "{site}: `attempts`, `backoff` and `ordered` need redelivery, and `{name}` is `at_most_once`: add `#[qos(at_least_once)]` to it"
            ));
        }
        if options.each_node && message.qos != QoS::AtMostOnce && settings.node.is_none() {
            problems.push(format!(
                "{site}: `each_node` at `{}` needs a node id that stays the same over restarts, or `{name}` would be kept for nodes that never return: add `.node(\"..\")` to the builder",
                message.qos
            ));
        }
    }
}
