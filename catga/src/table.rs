//! The table of handlers: made once at start, then only read.

use std::any::TypeId;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use catga_core::{Consumers, Kind, Name, NodeId, QoS, Request, Start, StatsReader, Subscribe};

use crate::backoff::Backoff;
use crate::checks::{BackendAbilities, Lack, check_options, check_states};
use crate::extract::{Requirements, States, TypeIdHasher};
use crate::handlers::{HandlerDef, MessageDef};
use crate::invoke::Invoke;
use crate::layer::Layers;
use crate::layered::Layered;
use crate::metrics::HandlerMetrics;
use crate::seat::Caller;
use crate::settings::Settings;
use crate::slots::Slots;
use crate::time::FAR;

/// A handler as this application runs it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) def: Arc<HandlerDef>,
    pub(crate) message: Name,
    pub(crate) group: Name,
    pub(crate) attempts: u32,
    pub(crate) backoff: Backoff,
    pub(crate) timeout: Duration,
    pub(crate) slots: Slots,
    /// The layers around it; `None` when it is called directly.
    pub(crate) layered: Option<Layered>,
    /// Whether each message is claimed in an inbox before it is handled.
    pub(crate) claims: bool,
    /// Whether the handler commits effects with its claim.
    pub(crate) commits: bool,
    /// Whether its messages arrive no more, while the application still runs.
    pub(crate) ended: AtomicBool,
    pub(crate) counters: Counters,
    pub(crate) metrics: HandlerMetrics,
    /// What its subscription counts.
    pub(crate) subscription: OnceLock<StatsReader>,
}

/// What a handler counted.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) handled: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) retried: AtomicU64,
    pub(crate) dead_lettered: AtomicU64,
    /// What an inbox that is asked from here knew as done.
    pub(crate) duplicates: AtomicU64,
    /// Runs whose claim was lost before they could be completed.
    pub(crate) lost: AtomicU64,
    /// At QoS 0, what was received and not begun; what was not received, its subscription counts.
    pub(crate) dropped: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Entry {
    fn new(
        def: &Arc<HandlerDef>,
        settings: &Settings,
        layers: &Layers,
        group: Name,
    ) -> Result<Self, String> {
        let options = &def.options;
        let concurrency = options.concurrency.unwrap_or(settings.concurrency);
        let backoff = match options.backoff {
            Some((least, most)) => Backoff::new(least, most)?.capped(FAR),
            None => settings.backoff,
        };
        let timeout = options.timeout.unwrap_or(settings.handler_timeout).min(FAR);
        Ok(Self {
            def: Arc::clone(def),
            layered: Layered::new(def, &group, timeout, layers),
            message: Name::from_static(def.message.name),
            group,
            attempts: match def.message.kind {
                // Its caller's, as far as that is set alike there.
                Kind::Request { .. } => settings.request_retries.saturating_add(1),
                _ => options.attempts.unwrap_or(settings.attempts),
            },
            backoff,
            timeout,
            claims: claims(&def.message),
            commits: !Requirements::of(def).commits.is_empty(),
            ended: AtomicBool::new(false),
            slots: Slots::new(usize::try_from(concurrency).unwrap_or(usize::MAX)),
            counters: Counters::default(),
            metrics: HandlerMetrics::default(),
            subscription: OnceLock::new(),
        })
    }

    /// Who calls the handler.
    pub(crate) fn caller(&self) -> Box<dyn Caller> {
        (self.def.message.caller)(&*self.def.call)
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
    pub(crate) fn subscribe(
        &self,
        settings: &Settings,
        node: &NodeId,
        own_inbox: bool,
    ) -> Subscribe {
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
            .with_own_inbox(own_inbox)
    }
}

/// Whether a message is claimed before it is handled.
pub(crate) fn claims(message: &MessageDef) -> bool {
    match message.kind {
        Kind::Request { idempotent } => idempotent && message.qos != QoS::AtMostOnce,
        _ => message.qos == QoS::ExactlyOnce,
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
        defs: &[Arc<HandlerDef>],
        settings: &Settings,
        states: &States,
        layers: &Layers,
        backend: Option<&BackendAbilities<'_>>,
        problems: &mut Vec<String>,
        lacks: &mut Vec<Lack>,
    ) -> Self {
        let mut table = Self::default();
        for def in defs {
            let requirements = Requirements::of(def);
            check_states(def, &requirements, states, problems);
            if let Some(backend) = backend {
                backend.check(def, &requirements, problems, lacks);
            }
            check_options(def, settings, problems);
            let group = match def.options.group {
                Some(group) => Name::new(group),
                None => Name::new(format!("{}.{}", settings.service, def.message.name)),
            };
            let entry = group
                .map_err(|error| error.message().to_owned())
                .and_then(|group| Entry::new(def, settings, layers, group));
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
    pub(crate) fn request<R: Request>(&self) -> Option<(&Arc<Entry>, &Invoke<R>)> {
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
