//! What a handler asks for, held against what there is: before anybody connects.

use std::any::TypeId;
use std::collections::HashSet;

use catga_core::{Capabilities, Capability, Kind, QoS};

use crate::extract::{Requirements, States};
use crate::handlers::HandlerDef;
use crate::settings::Settings;
use crate::table::claims;

pub(crate) fn check_states(
    def: &HandlerDef,
    requirements: &Requirements,
    states: &States,
    problems: &mut Vec<String>,
) {
    let mut seen = HashSet::new();
    for (id, name) in &requirements.states {
        if seen.insert(*id) && !states.contains(*id) {
            problems.push(format!(
                "{}: needs the state `{name}`, which was not given: add `.state(..)` to the builder",
                def.site
            ));
        }
    }
}

/// Something that a handler asks for, and the backend has not.
#[derive(Debug)]
pub(crate) struct Lack {
    /// What it is, where it has a name.
    pub(crate) capability: Option<Capability>,
    pub(crate) problem: String,
}

/// What a backend can do, and which others could.
#[derive(Debug)]
pub(crate) struct BackendAbilities<'a> {
    pub(crate) name: &'static str,
    pub(crate) capabilities: Capabilities,
    /// The type of the store that its inbox commits effects in.
    pub(crate) commit_store: Option<TypeId>,
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
            Capability::Inbox => {
                ": write `#[request(idempotent = false)]`, or give one with `.inbox(..)`"
            }
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

    /// What a handler asks for beyond what the backend can do goes into `lacks`, what it says that cannot be
    /// meant into `problems`.
    pub(crate) fn check(
        &self,
        def: &HandlerDef,
        requirements: &Requirements,
        problems: &mut Vec<String>,
        lacks: &mut Vec<Lack>,
    ) {
        let (site, message, options) = (def.site, &def.message, &def.options);
        let mut need = |capability, what: String| {
            let lack = self.lacks(capability);
            lacks.extend(lack.map(|lack| Lack {
                capability: Some(capability),
                problem: format!("{site}: {what}, but {lack}"),
            }));
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
            QoS::AtMostOnce if !is_request => {
                need(
                    Capability::AtMostOnce,
                    format!("`{name}` is `at_most_once`"),
                );
            }
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
        let one_problem = is_request || self.capabilities.has(Capability::ExactlyOnce);
        if claims(message) && one_problem {
            let what = if is_request {
                "idempotent"
            } else {
                "`exactly_once`"
            };
            need(Capability::Inbox, format!("`{name}` is {what}"));
        }
        if options.ordered && !is_request {
            need(Capability::Ordered, format!("handles `{name}` ordered"));
        }
        self.check_commit(def, requirements, problems, lacks);
    }

    /// Whether a handler that commits effects with its claim has a claim, and the inbox that can.
    fn check_commit(
        &self,
        def: &HandlerDef,
        requirements: &Requirements,
        problems: &mut Vec<String>,
        lacks: &mut Vec<Lack>,
    ) {
        let (site, name) = (def.site, def.message.name);
        let [(store, called), more @ ..] = requirements.commits.as_slice() else {
            return;
        };
        if !more.is_empty() {
            problems.push(format!(
                "{site}: takes two `Commit`s: a handler commits once, to one store"
            ));
        }
        if !claims(&def.message) {
            let remedy = match def.message.kind {
                Kind::Request { .. } => {
                    "leave out `idempotent = false` and `#[qos(at_most_once)]` on it"
                }
                _ => "write `#[qos(exactly_once)]` on it",
            };
            problems.push(format!(
                "{site}: takes a `Commit`, and `{name}` is not claimed: {remedy}"
            ));
        }
        if self.commit_store != Some(*store) {
            lacks.push(Lack {
                capability: None,
                problem: format!(
                    "{site}: commits to `{called}`, and the inbox of `{}` cannot commit to it: key the effect by `ctx.idempotency_key()` instead, or give an inbox that can with `.inbox(..)`",
                    self.name
                ),
            });
        }
    }
}

/// What a handler says that does not fit its message or the settings, whatever the backend.
pub(crate) fn check_options(def: &HandlerDef, settings: &Settings, problems: &mut Vec<String>) {
    let (site, message, options) = (def.site, &def.message, &def.options);
    let (name, qos) = (message.name, message.qos);
    let redelivery = [
        ("`attempts`", options.attempts.is_some()),
        ("`backoff`", options.backoff.is_some()),
        ("`ordered`", options.ordered),
    ];
    if let Kind::Request { .. } = message.kind {
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
