//! Subjects that are published to again and again: made once, since a text for each message is freed by another thread.

use std::collections::HashMap;
use std::hash::Hash;

use arc_swap::ArcSwap;
use async_nats::Subject;
use catga_core::Name;

use crate::names::Names;

/// The subjects that were made: as many as there are messages, for each service that is asked.
#[derive(Debug, Default)]
pub(crate) struct Subjects {
    events: Known<Name>,
    services: Known<(Name, Name)>,
}

impl Subjects {
    /// Where a QoS 0 event goes.
    pub(crate) fn event(&self, names: &Names, message: &Name) -> Subject {
        self.events.get(message, || names.event(message))
    }

    /// Where a request to any node of a service goes.
    pub(crate) fn to_service(&self, names: &Names, service: &Name, request: &Name) -> Subject {
        let key = (service.clone(), request.clone());
        self.services
            .get(&key, || names.to_service(service, request))
    }
}

/// A table that is swapped whole.
#[derive(Debug)]
struct Known<K>(ArcSwap<HashMap<K, Subject>>);

impl<K> Default for Known<K> {
    fn default() -> Self {
        Self(ArcSwap::from_pointee(HashMap::new()))
    }
}

impl<K: Clone + Eq + Hash> Known<K> {
    fn get(&self, key: &K, make: impl FnOnce() -> Subject) -> Subject {
        if let Some(subject) = self.0.load().get(key) {
            return subject.clone();
        }
        let subject = make();
        self.0.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.insert(key.clone(), subject.clone());
            known
        });
        subject
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_its_own_subject_at_each_asking() {
        let names = Names::new(&Name::from_static("shop"), "_INBOX").unwrap();
        let subjects = Subjects::default();
        for _ in 0..2 {
            for name in ["orders.created", "orders"] {
                let name = Name::new(name).unwrap();
                assert_eq!(subjects.event(&names, &name), names.event(&name));
                for service in ["a", "b"] {
                    let service = Name::new(service).unwrap();
                    let made = names.to_service(&service, &name);
                    assert_eq!(subjects.to_service(&names, &service, &name), made);
                }
            }
        }
    }
}
